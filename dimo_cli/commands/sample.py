"""`dimo sample`: images from a student in one step or a few, or from a teacher in many."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import (
    GalleryOption,
    LocalDirOption,
    SetOption,
    check_gallery,
    check_png,
    spec_of_preset,
)
from dimo_cli.commands.starting import importing
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import SpecError, counted
from dimo_cli.specs.flags import Given
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.teachers.classes import short_name

if TYPE_CHECKING:
    import numpy as np

    from dimo_cli.students.target import Target

CHOOSE = "Choose another `--grid` or `--out`."
OF_AN_IMAGE = re.compile(r"\d{5,}\.png")  # in the folder of `--out`
SHOWN = 40  # images drawn in the terminal at most; the PNG has all

app = typer.Typer()
EXAMPLES = """
dimo sample --class 7 -n 16 --seed 3 --grid out.png
dimo sample --prompt "two red circles above a blue square"
dimo sample --student runs/digits --class seven --class 3
dimo sample --teacher --steps 16 --class 7
dimo sample --student Yuanzhi/DiMO --class "golden retriever"
dimo sample --preset meissonic --teacher --prompt "a red fox in the snow" -n 1
dimo sample --class 3 --init my-digit.png
dimo sample --interpolate three eight --frames 10
"""


@command(app, "sample", EXAMPLES)
def sample(
    asked: Given[SampleSpec],
    grid: Annotated[
        Path, typer.Option("--grid", "-g", help="PNG file of all images in a grid.")
    ] = Path("samples.png"),
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write each image into this folder.")
    ] = None,
    gallery: GalleryOption = None,
    local_dir: LocalDirOption = None,
    sets: SetOption = None,
) -> None:
    """Draw images: a student in a pass or a few, or `--teacher --steps K` for comparison."""
    spec = asked.spec()
    check_png(grid)
    check_gallery(gallery)
    files = Files(grid, folder, gallery)
    check_apart(spec, files)
    drawn = drawn_images(spec, open_target(spec, local_dir, sets or []))
    if gallery:
        words = [*asked.words(), *(["--local-dir", local_dir] if local_dir else [])]
        words += [word for setting in sets or [] for word in ("--set", setting)]
        again = next_steps.command("sample", *words, "--gallery", gallery)
        write_gallery(drawn, spec, gallery, again)
    show(drawn, spec, files)


def open_target(spec: SampleSpec, local_dir: Path | None, sets: list[str]) -> Target:
    """Load what is to be sampled."""
    with importing():
        from dimo_cli.students.target import Target

    if spec.preset:
        from dimo_cli.students.student import best_device
        from dimo_cli.teachers.registry import load_teacher

        source = spec_of_preset(spec.preset, sets, local_dir).teacher
        teacher = load_teacher(source, out.note)
        return Target(teacher.to(best_device()))
    if sets:
        raise SpecError("`--set` changes a preset: add --preset.", "For a student leave it out.")
    from dimo_cli.students.defaults import default_student
    from dimo_cli.students.folder import BUILTIN
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    folder = str(local_dir) if local_dir else None
    options = LoadOptions(spec.sampler.teacher, folder, out.note)
    prompts = spec.prompts or prompts_of_ends(spec)
    student = open_student(
        spec.student or BUILTIN[default_student(prompts)], options, bool(prompts)
    )
    return Target(student.teacher, student)


def prompts_of_ends(spec: SampleSpec) -> tuple[str, ...]:
    """The ends of `--interpolate` that can only be prompts, where no student is named."""
    from dimo_cli.sampling.interpolating import named_ends
    from dimo_cli.teachers.emoji.world import read

    ends = () if spec.student else named_ends(spec)
    return tuple(end for end in ends if " " in end or read(end).scene.thing is not None)


@dataclass(frozen=True)
class Drawn:
    """Images, what each of them shows, and all that makes them repeatable."""

    pixels: np.ndarray
    names: list[str]
    kind: str
    """`class` or `prompt`."""
    protocol: dict[str, Any]
    provenance: dict[str, str]
    seconds: float
    columns: int
    left_out: tuple[str, ...] = ()
    """Words of the prompts that the teacher has no meaning for."""


@dataclass(frozen=True)
class Files:
    """Where images go."""

    grid: Path
    folder: Path | None = None
    gallery: Path | None = None


def check_apart(spec: SampleSpec, places: Files) -> None:
    """Refuse to write over the input, or one output over another."""
    grid, folder = places.grid.resolve(), places.folder and places.folder.resolve()

    def is_in_folder(path: Path) -> bool:
        return path.parent == folder and OF_AN_IMAGE.fullmatch(path.name) is not None

    for name in (spec.init, *(spec.interpolate or ())):
        if name and ((path := Path(name).resolve()) == grid or is_in_folder(path)):
            raise SpecError(f"`{name}` is an input, and would be written over.", CHOOSE)
    if is_in_folder(grid):
        raise SpecError(f"`--grid` is {places.grid}, where `--out` puts an image.", CHOOSE)


def show(drawn: Drawn, spec: SampleSpec, places: Files) -> None:
    """Save and show."""
    from dimo_cli.console import terminal

    grid, folder = places.grid, places.folder
    replaced = ", in place of the file that was there" if grid.exists() else ""
    files = save_images(drawn, spec.pixels, grid, folder)
    document = {
        "images": len(drawn.names),
        "files": files,
        **({"gallery": str(places.gallery)} if places.gallery else {}),
        "prompts" if drawn.kind == "prompt" else "classes": drawn.names,
        **({"left_out": list(drawn.left_out)} if drawn.left_out else {}),
        "seconds": round(drawn.seconds, 4),
        "seed": spec.sampler.seed,
        "sampler": drawn.protocol,
    }
    count = len(drawn.names)
    told = f"{counted(count, 'image')} in {drawn.seconds:.2f} s, saved to {grid}{replaced}"
    if folder is not None:
        told += f"; each image by itself to {folder}"
    if places.gallery is not None:
        told += f"; gallery in {places.gallery}"
    shown = []
    if out.data.is_terminal:
        shown = terminal.shown(drawn.pixels[:SHOWN], drawn.columns, out.data.width)
    out.result(document, Group(*shown, Text(told)))


def write_gallery(drawn: Drawn, spec: SampleSpec, file: Path, again: str) -> None:
    """A page of all images, in their order."""
    from dimo_cli.reporting.gallery import Gallery, save_gallery, shot
    from dimo_cli.reporting.gallery import Group as Shots

    seed, steps = spec.sampler.seed, drawn.protocol["steps"]
    shots = [
        shot(pixels, name, f"seed {seed}, image {index}")
        for index, (pixels, name) in enumerate(zip(drawn.pixels, drawn.names, strict=True))
    ]
    who = spec.student or spec.preset or drawn.provenance["dimo.teacher"].partition("@")[0]
    maker = f"{who}{' teacher' if spec.sampler.teacher else ''}, {counted(steps, 'step')}"
    lead = f"{counted(len(shots), 'image')}, drawn by {maker}, in {drawn.seconds:.2f} s."
    save_gallery(Gallery(who, lead, [Shots("", shots)], again), file)


def drawn_images(spec: SampleSpec, target: Target) -> Drawn:
    """The images of a call, in one array."""
    from dimo_cli.sampling import interpolating, samplers
    from dimo_cli.sampling.left_out import tell_left_out

    target, about_input = started_from(target, spec)
    left_out: tuple[str, ...] = ()
    if target.teacher.takes_prompts:
        texts = (*spec.prompts, *interpolating.named_ends(spec))
        left_out = tell_left_out(target.teacher, texts, out.note, spec.strict)
    strip = interpolating.plan_strip(target, spec) if spec.interpolate else None
    wanted = strip.wanted if strip else samplers.chosen_conditions(target.teacher, spec)
    started = time.perf_counter()
    with counting(out, "sample", len(wanted)) as advance:
        if strip:
            pixels, protocol = strip.draw(advance)
        else:
            pixels, protocol = samplers.sample_images(target, wanted, spec.sampler, advance)
    seconds = time.perf_counter() - started
    protocol |= about_input
    fitting = len(pixels) if strip else fitting_columns(len(pixels), pixels.shape[1])
    names = [
        item if isinstance(item, str) else short_name(target.teacher.class_names[item])
        for item in wanted
    ]
    return Drawn(
        pixels=pixels,
        names=names,
        kind="prompt" if target.teacher.takes_prompts else "class",
        protocol=protocol,
        provenance=samplers.provenance(target, spec.sampler, protocol),
        seconds=seconds,
        columns=spec.columns or fitting,
        left_out=left_out,
    )


def save_images(drawn: Drawn, side: int, grid_file: Path, folder: Path | None) -> list[str]:
    """Write the grid, and each image if there is a folder for them; the files' names."""
    from dimo_cli.files import png

    what = f"dimo.{drawn.kind}"
    large = png.grid(png.enlarge(drawn.pixels, side), drawn.columns, gap=4)
    everything = {what: ", ".join(dict.fromkeys(drawn.names))}
    png.save_png(large, grid_file, {**drawn.provenance, **everything})
    files = [str(grid_file)]
    if folder is not None:
        for index, (picture, name) in enumerate(zip(drawn.pixels, drawn.names, strict=True)):
            path = folder / f"{index:05d}.png"
            one = {**drawn.provenance, what: name, "dimo.index": str(index)}
            png.save_png(png.enlarge(picture[None], side)[0], path, one)
            files.append(str(path))
    return files


def started_from(target: Target, spec: SampleSpec) -> tuple[Target, dict[str, Any]]:
    """The target, started from the image of `--init` if there is one."""
    from dimo_cli.sampling.interpolating import start_from_file

    return start_from_file(target, spec.init) if spec.init else (target, {})


def fitting_columns(count: int, side: int) -> int:
    """Ten small images in a row; large ones in a square."""
    return 10 if side < 128 else math.ceil(math.sqrt(count))
