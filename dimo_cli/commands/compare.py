"""`dimo compare`: students and teachers below each other, from the same seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from dimo_cli import __version__
from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.options import (
    AnimateOption,
    GalleryOption,
    LocalDirOption,
    check_ending,
    check_gallery,
    check_png,
)
from dimo_cli.commands.parameters import Fields
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import SpecError, counted
from dimo_cli.specs.flags import Given
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.specs.sides import Side, read_sides

if TYPE_CHECKING:
    from dimo_cli.console.panels import Panel
    from dimo_cli.sampling.comparing import Column, Row
    from dimo_cli.students.target import Target

MOVING = 4  # columns of an animation at most: a GIF of more is heavy
START, END, WHOLE, SHORTEST, LONGEST = 700, 2500, 3000, 80, 500  # milliseconds
app = typer.Typer()
EXAMPLES = """
dimo compare digits runs/digits --class 7
dimo compare digits teacher:1 teacher:16 --class 3 --class 8
dimo compare shapes shapes@teacher:16 --prompt "two red circles above a blue square"
dimo compare shapes teacher:16 --prompt "a green triangle" -n 4 --animate steps.gif
"""
FIELDS = Fields(
    only=("classes", "prompts", "count", "strict", "pixels", "sampler.seed"),
    said={
        "count": "Images of each, a column each",
        "prompts": "Prompt for text models",
        "sampler.seed": "Seed of the first image of each class or prompt; the next has the next",
    },
)


@command(app, "compare", EXAMPLES)
def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: run folder, student folder, Hub id or built-in student; "
            "TARGET@teacher:16 is a teacher at 16 steps (of a preset, too), teacher:16 that of "
            "the first target; TARGET@steps:4 is a student at 4 of the steps it was trained for.",
            autocompletion=completing.students,
        ),
    ],
    asked: Annotated[Given[SampleSpec], FIELDS],
    grid: Annotated[
        Path, typer.Option("--grid", "-g", help="PNG file: a row a model, a column a seed.")
    ] = Path("compare.png"),
    gallery: GalleryOption = None,
    animate: AnimateOption = None,
    local_dir: LocalDirOption = None,
) -> None:
    """Draw the same classes or prompts, from the same seeds, with students and teachers."""
    check_png(grid)
    check_gallery(gallery)
    if animate:
        check_ending("--animate", animate, (".gif",), "An animation is a GIF file.")
    sides = read_sides(targets)
    if animate and not any(side.is_teacher for side in sides):
        raise SpecError(
            "`--animate` shows the steps of a teacher, and none is named.",
            "Add `teacher:16`, that of the first target at 16 steps.",
        )
    specs = [spec_of(side, asked) for side in sides]
    rows = draw_rows(sides, specs, local_dir, MOVING if animate else 0)
    files = {"file": grid, "gallery": gallery, "animation": animate}
    written = {name: file for name, file in files.items() if file}
    words = [*targets, *asked.words(), *(["--local-dir", local_dir] if local_dir else [])]
    if gallery:
        write_gallery(rows, gallery, next_steps.command("compare", *words, "--gallery", gallery))
    if animate:
        write_animation(rows, specs[0].pixels, animate)
    show_rows(rows, specs[0].pixels, written)


def spec_of(side: Side, asked: Given[SampleSpec]) -> SampleSpec:
    """How one side is drawn."""
    sampler = {"sampler.teacher": side.is_teacher, "sampler.steps": side.steps}
    return asked.spec({"student": side.name, **sampler})


def draw_rows(
    sides: list[Side], specs: list[SampleSpec], local_dir: Path | None, moving: int
) -> list[Row]:
    """Draw all sides; each name is loaded once, and one at a time."""
    from dimo_cli.sampling.comparing import draw_row
    from dimo_cli.sampling.left_out import tell_left_out
    from dimo_cli.sampling.samplers import chosen_conditions
    from dimo_cli.students.target import check_target

    by_name: dict[str, list[int]] = {}
    for index, side in enumerate(sides):
        by_name.setdefault(side.name, []).append(index)
    for name, indices in by_name.items():
        check_target(name, all(sides[index].is_teacher for index in indices))
    drawn: dict[int, Row] = {}
    told: set[str] = set()  # teachers that said which words they leave out
    with counting(out, "compare", sum(spec.count for spec in specs)) as advance:
        for name, indices in by_name.items():
            spec = specs[indices[0]]
            target = open_side(name, [sides[i] for i in indices], spec, local_dir)
            if target.teacher.name not in told:
                tell_left_out(target.teacher, spec.prompts, out.note, spec.strict)
            told.add(target.teacher.name)
            for index in indices:
                wanted = chosen_conditions(target.teacher, specs[index])
                how = (sides[index], specs[index].sampler)
                drawn[index] = draw_row(*how, target, wanted, advance, moving)
    return [drawn[index] for index in range(len(sides))]


def open_side(name: str, sides: list[Side], spec: SampleSpec, local_dir: Path | None) -> Target:
    """What all sides of one name are drawn with."""
    from dimo_cli.students.student import LoadOptions
    from dimo_cli.students.target import load_target

    teachers = [side.is_teacher for side in sides]
    folder = str(local_dir) if local_dir else None
    options = LoadOptions(any(teachers), folder, out.note)
    return load_target(name, options, all(teachers), bool(spec.prompts))


def show_rows(rows: Sequence[Row], side: int, files: dict[str, Path]) -> None:
    """Save all rows as one picture, and show them."""
    from dimo_cli.console import panels, terminal
    from dimo_cli.files.png import save_png

    documents = [row.document for row in rows]
    shown = [panels.Panel(row.label, row.pixels) for row in rows]
    title, heads = words_over(rows[0].columns)
    picture = panels.matrix(shown, heads, side, title)
    about = {"Software": f"dimo {__version__}", "dimo.compare": json.dumps(documents)}
    save_png(picture, files["file"], about)
    view: list[RenderableType] = []
    if out.data.is_terminal:
        view = terminal.shown_panels(shown, picture, out.data.width)
    count = len(rows[0].columns)
    told = f"{len(rows)} x {counted(count, 'image')}, saved to {files['file']}"
    told += "".join(f"; {name} in {file}" for name, file in files.items() if name != "file")
    names: dict[str, Any] = {name: str(file) for name, file in files.items()}
    out.result({**names, "images": count, "sides": documents}, Group(*view, Text(told)))


def words_over(columns: Sequence[Column]) -> tuple[str, list[str]]:
    """What stands over all columns, and over each: the condition where there are several."""
    if len({column.name for column in columns}) == 1:
        return columns[0].name, [f"seed {column.seed}" for column in columns]
    return "", [f"{column.name}\nseed {column.seed}" for column in columns]


def write_gallery(rows: Sequence[Row], file: Path, again: str) -> None:
    """A page with a group for each column: the same condition and seed by every model."""
    from dimo_cli.reporting.gallery import Gallery, Group, save_gallery, shot

    groups = [
        Group(
            f"{column.name}, seed {column.seed}",
            [
                shot(row.pixels[index], column.name, f"seed {column.seed}", row.label)
                for row in rows
            ],
        )
        for index, column in enumerate(rows[0].columns)
    ]
    lead = f"{'; '.join(row.label for row in rows)}. Each group has one seed for all."
    save_gallery(Gallery("Comparison", lead, groups, again), file)


def write_animation(rows: Sequence[Row], side: int, file: Path) -> None:
    """The steps of every row side by side in time, gray where tokens are masked."""
    from dimo_cli.console.panels import matrix
    from dimo_cli.files.gif import save_gif
    from dimo_cli.sampling.comparing import ticks_of

    title, heads = words_over(rows[0].columns[:MOVING])
    ticks = ticks_of(rows)
    frames = [matrix(panels_at(rows, tick), heads, side, title) for tick in ticks]
    each = min(LONGEST, max(SHORTEST, WHOLE // len(ticks)))
    times = [START, *[each] * (len(ticks) - 2), END]
    about = json.dumps([row.document["dimo.sampler"]["network"] for row in rows])
    save_gif(frames, times, file, f"dimo {__version__} {about}")


def panels_at(rows: Sequence[Row], tick: int) -> list[Panel]:
    """All rows after some steps."""
    from dimo_cli.console.panels import Panel

    return [Panel(*row.at(tick)) for row in rows]
