"""`dimo eval fidelity`: do soft embeddings show the image that the student's tokens show?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import (
    LocalDirOption,
    SeedOption,
    StudentArgument,
    check_ending,
)
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError

COLUMNS = {
    "soft_vs_sampled": "soft / drawn",
    "soft_vs_argmax": "soft / likeliest",
    "tokenizer": "tokenizer itself",
}
app = typer.Typer()


@command(app, "fidelity", "dimo eval fidelity shapes -n 32")
def fidelity(
    student: StudentArgument,
    count: Annotated[
        int, typer.Option("--samples", "-n", min=2, max=100_000, help="Number of images.")
    ] = 64,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="For text models; repeatable.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of real images: what the tokenizer itself loses of them."),
    ] = None,
    softness: Annotated[
        str, typer.Option(help="Softmax temperatures of the soft embeddings.")
    ] = "0.25,0.5,1,2,4",
    plot: Annotated[Path | None, typer.Option(help="PNG of the error by temperature.")] = None,
    seed: SeedOption = 0,
    local_dir: LocalDirOption = None,
) -> None:
    """Squared error between soft images and those of drawn tokens, by softmax temperature."""
    temperatures = positive_numbers(softness)
    from dimo_cli.evaluation.curve import draw_curve
    from dimo_cli.evaluation.softness import asked_for, measure_softness, real_images
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    if plot is not None:
        check_ending("--plot", plot, (".png",), "Charts are PNG files.")
    opened = open_student(student, LoadOptions(False, str(local_dir) if local_dir else None))
    side = opened.teacher.space.image_size
    real = None if images is None else real_images(images, count, side)
    wanted = asked_for(opened, count, prompts or ())
    found = measure_softness(opened, wanted, temperatures, seed, real)
    if plot is not None:
        points = [(t, part.soft_vs_sampled) for t, part in found.items()]
        best = min(points, key=lambda point: point[1])
        draw_curve(points, best, plot, "soft against drawn, squared error", "softmax temperature")
    rows = [
        {"temperature": t, **{key: getattr(part, key) for key in (*COLUMNS, "entropy", "top1")}}
        for t, part in found.items()
    ]
    document = {
        "student_sha256": opened.manifest.weights_sha256,
        "images": count,
        "seed": seed,
        "fidelity": rows,
    }
    out.result(document, view(rows))


def positive_numbers(text: str) -> list[float]:
    """The numbers of a list with commas, each above 0."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < 1e6 for number in numbers):
        raise SpecError(
            f"`--softness {text}` is not a list of positive numbers.",
            "Write for example `--softness 0.5,1,2`.",
        )
    return sorted(set(numbers))


def view(rows: list[dict[str, Any]]) -> Table:
    """The numbers as a table; errors are of images in [0, 1]."""
    shown = {key: title for key, title in COLUMNS.items() if rows[0][key] is not None}
    table = Table(box=None, header_style="bold")
    for title in ("temperature", *shown.values(), "entropy", "top-1"):
        table.add_column(title, justify="right")
    for row in rows:
        errors = [f"{row[key]:.5f}" for key in shown]
        table.add_row(
            f"{row['temperature']:g}", *errors, f"{row['entropy']:.3f}", f"{row['top1']:.3f}"
        )
    return table
