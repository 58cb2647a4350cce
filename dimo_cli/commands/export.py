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
dimo export runs/meissonic --lora --out adapter
"""
SUFFIXES = (".pt2", ".onnx")


@command(app, "export", EXAMPLES)
def export(
    *,
    student: StudentArgument,
    path: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The file: .pt2 for torch, .onnx for ONNX; a folder for --lora."
        ),
    ] = Path("student.pt2"),
    asked: Given[ExportSpec],
    local_dir: LocalDirOption = None,
) -> None:
    """Write a student as one file that draws by itself, and check it against the student."""
    spec = asked.spec()
    if spec.lora:
        export_lora(student, path, local_dir)
        return
    if path.suffix not in SUFFIXES:
        raise SpecError(
            f"`--out` is {path}: it must end in {' or '.join(SUFFIXES)}.",
            "A .pt2 file takes torch to run, an .onnx file any runtime of ONNX.",
        )
    from dimo_cli.exporting.formats import FORMATS
    from dimo_cli.exporting.write import export_student
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    FORMATS[path.suffix].check()
    place = str(local_dir) if local_dir else None
    options = LoadOptions(local_dir=place, say=out.note, device="cpu")
    opened = open_student(student, options)
    if opened.steps > 1:
        out.note("The file draws in one step, as this student may: more are not in it.")
    out.note("Tracing, then checking the file against the student ...")
    facts = export_student(opened, spec, path).facts
    difference, size = facts["check"]["max_abs_difference"], path.stat().st_size / 2**20
    summary = f"{path} ({size:,.1f} MiB), largest difference to the student {difference:g}"
    out.result({"file": str(path), **facts}, Text(summary))


def export_lora(student: str, folder: Path, local_dir: Path | None) -> None:
    """Write the adapters of a student, for whatever reads peft's files."""
    if folder.suffix in SUFFIXES:
        raise SpecError(
            f"`--out` is {folder}, and adapters are a folder of two files.",
            "Name a folder: `--lora --out adapter`.",
        )
    from dimo_cli.exporting.adapters import export_adapters
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    place = str(local_dir) if local_dir else None
    opened = open_student(student, LoadOptions(local_dir=place, say=out.note, device="cpu"))
    facts = export_adapters(opened, folder)
    size = facts["bytes"] / 2**20
    summary = f"{folder}: adapters of rank {facts['rank']}, {size:,.1f} MiB, as peft has them"
    out.result({"folder": str(folder), **facts}, Text(summary))
