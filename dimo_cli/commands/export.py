"""`dimo export`: a student as one file that draws without dimo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, StudentArgument
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.flags import Given

app = typer.Typer()
EXAMPLES = """
dimo export digits --out digits.pt2
dimo export shapes --out shapes.onnx
dimo export runs/digits --out likeliest.pt2 --greedy
"""
SUFFIXES = (".pt2", ".onnx")


@command(app, "export", EXAMPLES)
def export(
    *,
    student: StudentArgument,
    path: Annotated[
        Path, typer.Option("--out", "-o", help="The file: .pt2 for torch, .onnx for ONNX.")
    ] = Path("student.pt2"),
    asked: Given[ExportSpec],
    local_dir: LocalDirOption = None,
) -> None:
    """Write a student as one file that draws by itself, and check it against the student."""
    if path.suffix not in SUFFIXES:
        raise SpecError(
            f"`--out` is {path}: it must end in {' or '.join(SUFFIXES)}.",
            "A .pt2 file takes torch to run, an .onnx file any runtime of ONNX.",
        )
    spec = asked.spec()
    from dimo_cli.exporting.formats import FORMATS
    from dimo_cli.exporting.write import export_student
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    FORMATS[path.suffix].check()
    place = str(local_dir) if local_dir else None
    options = LoadOptions(local_dir=place, say=out.note, device="cpu")
    opened = open_student(student, options)
    out.note("Tracing, then checking the file against the student ...")
    facts = export_student(opened, spec, path).facts
    difference, size = facts["check"]["max_abs_difference"], path.stat().st_size / 2**20
    summary = f"{path} ({size:,.1f} MiB), largest difference to the student {difference:g}"
    out.result({"file": str(path), **facts}, Text(summary))
