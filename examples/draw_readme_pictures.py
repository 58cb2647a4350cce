"""Draw the pictures of the README and the tutorial from a run of `digits`, and from what ships.

dimo distill --preset digits --out runs/digits
dimo refine emoji --gan --out runs/emoji-gan
dimo refine emoji --reward --out runs/emoji-reward
python examples/draw_readme_pictures.py runs/digits docs/pictures

Refinements of `emoji` that are not beside the run are left out of its picture. The shots of pages
need the extra `browser` and a Chromium; without them they are left out.
"""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageChops, ImageDraw
from rich.console import Console

from dimo_cli import sample
from dimo_cli.console.images import half_blocks
from dimo_cli.console.live import LiveView
from dimo_cli.console.panels import Panel, matrix
from dimo_cli.files.png import enlarge, grid

HIGHEST = 620  # of a page, its beginning is enough
PROMPTS = {
    "emoji": (
        "a red apple",
        "a penguin on pink",
        "a noto-style cactus on white",
        "a fox on green",
        "a fluent-style fire on blue",
        "sunglasses on white",
    ),
    "shapes": (
        "two red circles above a blue square",
        "a green triangle",
        "three yellow squares on a black background",
        "a large purple circle on gray",
        "a red square left of a green circle",
    ),
}
ROWS = {
    "teacher, 1 step": {"teacher": True, "steps": 1},
    "teacher, 16 steps": {"teacher": True, "steps": 16},
    "student, 1 step": {},
}
REFINED = {"after GAN, 1 step": "emoji-gan", "after reward, 1 step": "emoji-reward"}


def draw_digits(file: Path) -> None:
    """The teacher of digits at 1 and 16 steps above its student at one."""
    bands = []
    for title, how in ROWS.items():
        images = sample("digits", classes=[n % 10 for n in range(20)], count=20, seed=1, **how)
        pixels = np.stack([np.asarray(image) for image in images])
        canvas = grid(enlarge(pixels, 40), columns=20, gap=4)
        banner = Image.new("RGB", (canvas.shape[1], 22), (24, 24, 24))
        ImageDraw.Draw(banner).text((6, 4), title, fill=(220, 220, 220), font_size=13)
        bands += [np.asarray(banner), canvas]
    Image.fromarray(np.concatenate(bands)).save(file)


def draw_text_world(world: str, file: Path, refined: dict[str, Path]) -> None:
    """A teacher of prompts above its student, and above what refinement made of that."""
    panels, prompts = [], list(PROMPTS[world])
    rows = [(title, world, how) for title, how in ROWS.items()]
    if world == "emoji":
        rows.insert(1, ("teacher, 4 steps", world, {"teacher": True, "steps": 4}))
        rows += [(title, str(run), {}) for title, run in refined.items()]
    for title, target, how in rows:
        images = [sample(target, prompts=[prompt], seed=1, **how)[0] for prompt in prompts]
        panels.append(Panel(title, np.stack([np.asarray(image) for image in images])))
    picture = Image.fromarray(matrix(panels, prompts, 32, ""))
    picture.quantize(256).save(file, optimize=True)  # pages are read over networks


def draw_panel(run: Path, file: Path) -> None:
    """What a terminal shows when a run is two thirds through."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    records = records[: max(1, len(records) * 2 // 3)]
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    view = LiveView(console, f"dimo distill: {run.name}")
    view.task = view.progress.add_task("distill", total=records[-1]["step"] * 3 // 2, speed="")
    for record in records:
        view.log(record)
    newest = np.asarray(Image.open(sorted((run / "samples").glob("*.png"))[-1]).convert("RGB"))
    view.picture = half_blocks(newest, console.width - 4)
    console.print(view.render())
    file.write_text(console.export_svg(title="dimo"), encoding="utf-8")


def photograph(address: str, file: Path, part: str, ready: str | None = None) -> None:
    """A part of a page, as a browser shows it; `ready` is what the page has to show before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as api:
        found = shutil.which("chromium") or api.chromium.executable_path
        browser = api.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 700})
        tab.goto(address)
        if ready:
            tab.get_by_text(re.compile(ready)).first.wait_for(timeout=60_000)
        tab.locator(part).first.screenshot(path=str(file))
        browser.close()
    shot = Image.open(file).convert("RGB")
    paper = Image.new("RGB", shot.size, shot.getpixel((0, 0)))
    left, top, right, bottom = ImageChops.difference(shot, paper).getbbox()
    shot.crop((left, top, right, min(bottom, top + HIGHEST))).quantize(64).save(file, optimize=True)


def photograph_play(file: Path) -> None:
    """The page of `dimo play shapes` with its first pictures."""
    command = [sys.executable, "-m", "dimo_cli", "play", "shapes", "--port", "0", "--no-open"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as process:
        said = ""
        while not said.rstrip().endswith("}"):
            said += process.stdout.readline()
        photograph(json.loads(said)["url"], file, "body", ready="images in")
        process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    run, folder = Path(sys.argv[1]), Path(sys.argv[2])
    draw_digits(folder.parent / "digits.png")
    beside = {title: run.parent / name for title, name in REFINED.items()}
    refined = {title: path for title, path in beside.items() if path.is_dir()}
    for world in PROMPTS:
        draw_text_world(world, folder / f"{world}.png", refined)
    with TemporaryDirectory() as place:
        draw_panel(run, panel := Path(place) / "panel.svg")
        photograph(panel.as_uri(), folder / "panel.png", "svg")
    photograph((run / "report.html").resolve().as_uri(), folder / "report.png", ".charts")
    photograph_play(folder / "play.png")
