"""`dimo compare`: students and teachers side by side, from the same seed."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from dimo_cli import __version__
from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, check_png
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import counted
from dimo_cli.specs.flags import Given
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.specs.sides import Side, read_sides

if TYPE_CHECKING:
    from dimo_cli.students.target import Target

app = typer.Typer()
EXAMPLES = """
dimo compare digits runs/digits --class 7
dimo compare digits teacher:1 teacher:16 --class 3 --class 8
dimo compare shapes shapes@teacher:16 --prompt "two red circles above a blue square"
"""
FIELDS = Fields(
    only=("classes", "prompts", "count", "pixels", "sampler.seed"),
    said={"count": "Images of each", "prompts": "Prompt for text models"},
)


@command(app, "compare", EXAMPLES)
def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: run folder, student folder, Hub id or built-in student; "
            "TARGET@teacher:16 is a teacher at 16 steps (of a preset, too), teacher:16 that of "
            "the first target.",
            autocompletion=completing.students,
        ),
    ],
    asked: Annotated[Given[SampleSpec], FIELDS],
    grid: Annotated[Path, typer.Option("--grid", "-g", help="PNG file of all grids.")] = Path(
        "compare.png"
    ),
    local_dir: LocalDirOption = None,
) -> None:
    """Draw the same classes or prompts, from the same seed, with several students and teachers."""
    check_png(grid)
    sides = read_sides(targets)
    show_sides(sides, [spec_of(side, asked) for side in sides], grid, local_dir)


def spec_of(side: Side, asked: Given[SampleSpec]) -> SampleSpec:
    """How one side is drawn."""
    sampler = {"sampler.teacher": side.is_teacher, "sampler.steps": side.steps}
    return asked.spec({"student": side.name, **sampler})


def show_sides(
    sides: list[Side], specs: list[SampleSpec], file: Path, local_dir: Path | None
) -> None:
    """Draw all sides, save them as one picture, and show them."""
    from dimo_cli.console import panels, terminal
    from dimo_cli.files.png import save_png
    from dimo_cli.students.target import check_target

    by_name: dict[str, list[int]] = {}
    for index, side in enumerate(sides):
        by_name.setdefault(side.name, []).append(index)
    for name, indices in by_name.items():
        check_target(name, all(sides[index].is_teacher for index in indices))
    drawn: dict[int, tuple[panels.Panel, dict[str, Any]]] = {}
    with counting(out, "compare", sum(spec.count for spec in specs)) as advance:
        for name, indices in by_name.items():  # each is loaded once, and one at a time
            target = open_side(name, [sides[i] for i in indices], specs[indices[0]], local_dir)
            for index in indices:
                drawn[index] = draw_side(sides[index], specs[index], target, advance)
    shown = [drawn[index][0] for index in range(len(sides))]
    documents = [drawn[index][1] for index in range(len(sides))]
    picture = panels.side_by_side(shown, specs[0].pixels)
    about = {"Software": f"dimo {__version__}", "dimo.compare": json.dumps(documents)}
    save_png(picture, file, about)
    view: list[RenderableType] = []
    if out.data.is_terminal:
        view = terminal.shown_panels(shown, picture, out.data.width)
    told = f"{len(sides)} x {counted(specs[0].count, 'image')}, saved to {file}"
    out.result(
        {"file": str(file), "images": specs[0].count, "sides": documents}, Group(*view, Text(told))
    )


def open_side(name: str, sides: list[Side], spec: SampleSpec, local_dir: Path | None) -> Target:
    """What all sides of one name are drawn with."""
    from dimo_cli.students.student import LoadOptions
    from dimo_cli.students.target import load_target

    teachers = [side.is_teacher for side in sides]
    folder = str(local_dir) if local_dir else None
    options = LoadOptions(any(teachers), folder, out.note)
    return load_target(name, options, all(teachers), bool(spec.prompts))


def draw_side(
    side: Side, spec: SampleSpec, target: Target, advance: Any
) -> tuple[Any, dict[str, Any]]:
    """The images of one side as a panel, and all that makes them repeatable."""
    from dimo_cli.console.panels import Panel
    from dimo_cli.sampling import samplers

    wanted = samplers.chosen_conditions(target.teacher, spec)
    started = time.perf_counter()
    pixels, protocol = samplers.sample_images(target, wanted, spec.sampler, advance)
    seconds = time.perf_counter() - started
    steps = protocol["steps"]
    who = f"{side.name} teacher" if side.is_teacher else side.name
    label = f"{who}, {steps} step{'s' * (steps != 1)}"
    document = {
        "label": label,
        "seconds": round(seconds, 4),
        **samplers.provenance(target, spec.sampler, protocol),
        "dimo.sampler": protocol,
        "prompts" if target.teacher.takes_prompts else "classes": wanted,
    }
    return Panel(label, pixels, math.ceil(math.sqrt(len(pixels)))), document
