"""`dimo export`: a student as one file that runs wherever torch does, without dimo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import (
    LocalDirOption,
    PromptsFileOption,
    StudentArgument,
    read_prompts,
)
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.flags import Given

app = typer.Typer()
EXAMPLES = """
dimo export digits --out digits.pt2
dimo export runs/digits --out digits.pt2 --greedy
dimo export shapes --out shapes.pt2 --prompt "a red circle" --prompt "two blue squares"
"""


@command(app, "export", EXAMPLES)
def export(
    *,
    student: StudentArgument,
    path: Annotated[
        Path, typer.Option("--out", "-o", help="The program, a .pt2 file; a .json goes beside it.")
    ] = Path("student.pt2"),
    asked: Given[ExportSpec],
    prompts_file: PromptsFileOption = None,
    local_dir: LocalDirOption = None,
) -> None:
    """Write a student as a `torch.export` program, and check it against the student."""
    if path.suffix != ".pt2":
        raise SpecError(f"`--out` is {path}: it must end in .pt2.", "That is torch's own ending.")
    prompts = (*asked.get("prompts", ()), *read_prompts(prompts_file))
    spec = asked.spec({"prompts": prompts})
    from dimo_cli.exporting.write import export_student
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    place = str(local_dir) if local_dir else None
    options = LoadOptions(local_dir=place, say=out.note, device="cpu")
    opened = open_student(student, options, bool(spec.prompts))
    out.note("Tracing, then checking the file against the student ...")
    exported = export_student(opened, spec, path)
    files = [str(file) for file in exported.files]
    difference = exported.facts["check"]["max_abs_difference"]
    size = path.stat().st_size / 2**20
    summary = (
        f"{', '.join(files)} ({size:,.1f} MiB), largest difference to the student {difference:g}"
    )
    out.result({"files": files, **exported.facts}, Text(summary))
