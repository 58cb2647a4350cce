"""`dimo merge` and `dimo extract`: between adapters and weights of a student's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.files.writing import writing_to
from dimo_cli.specs.flags import Given
from dimo_cli.specs.lowrank import ExtractSpec, MergeSpec

if TYPE_CHECKING:
    from dimo_cli.students.student import Student

app = typer.Typer()
MERGE_EXAMPLES = """
dimo merge runs/meissonic --out meissonic-merged
dimo merge runs/digits@best --out merged
"""
EXTRACT_EXAMPLES = """
dimo extract digits --rank 16 --out digits-lora
dimo extract runs/meissonic --targets attention --out meissonic-lora
"""
NO_ROOM = "Make room, or choose another `--out`."
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder of the new student.")]


@command(app, "merge", MERGE_EXAMPLES)
def merge(
    asked: Given[MergeSpec],
    folder: OutOption = Path("merged"),
    local_dir: LocalDirOption = None,
) -> None:
    """Add a student's adapters to its teacher's weights: a plain student that draws the same."""
    spec = asked.spec()
    check_free(folder)
    from dimo_cli.students.folder import write_student
    from dimo_cli.students.lowrank import merge_student

    student = merge_student(opened(spec.student, local_dir))
    with writing_to(folder, NO_ROOM):
        written = write_student(folder, student)
    size = (folder / written.manifest.weights_file).stat().st_size
    document = {
        "student": str(folder),
        "weights_sha256": written.manifest.weights_sha256,
        "bytes": size,
    }
    out.result(
        document, Text(f"{folder}: a student of weights of its own, {size / 2**20:,.1f} MiB")
    )


@command(app, "extract", EXTRACT_EXAMPLES)
def extract(
    asked: Given[ExtractSpec],
    folder: OutOption = Path("extracted"),
    local_dir: LocalDirOption = None,
) -> None:
    """Make adapters of what a student changed of its teacher's weights, and say what is lost."""
    spec = asked.spec()
    check_free(folder)
    from dimo_cli.students.folder import write_student
    from dimo_cli.students.lowrank import extract_student

    student, loss = extract_student(opened(spec.student, local_dir), spec)
    with writing_to(folder, NO_ROOM):
        written = write_student(folder, student)
    size = (folder / written.manifest.weights_file).stat().st_size
    worst, least = loss.worst
    document: dict[str, Any] = {
        "student": str(folder),
        "weights_sha256": written.manifest.weights_sha256,
        "bytes": size,
        "rank": spec.rank,
        "relative_error": loss.error,
        "kept": loss.kept,
        "elsewhere": loss.elsewhere,
    }
    lines = [
        f"{folder}: adapters of rank {spec.rank} at {len(loss.kept)} places, "
        f"{size / 2**20:,.1f} MiB",
        f"They are {loss.error:.1%} away from what the student changed there; {worst} keeps "
        f"least, {least:.1%} of its energy.",
        f"{loss.elsewhere:.1%} of all that the student changed is elsewhere, and left behind.",
        "Compare the two before you use it: `dimo compare`, `dimo eval`.",
    ]
    out.result(document, Text("\n".join(lines)))


def check_free(folder: Path) -> None:
    """Refuse a folder that is there, before anything is loaded."""
    if folder.exists():
        raise SpecError(f"`--out` is {folder}, which is there already.", "Choose another folder.")


def opened(name: str, local_dir: Path | None) -> Student:
    """A student with its teacher's weights, on the CPU, whose memory is the larger one."""
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    place = str(local_dir) if local_dir else None
    options = LoadOptions(with_teacher=True, local_dir=place, say=out.note, device="cpu")
    return open_student(name, options)
