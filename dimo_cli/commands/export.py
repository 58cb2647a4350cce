"""`dimo export`: a student as one file that runs wherever torch does, without dimo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.options import (
    JsonOption,
    LocalDirOption,
    QuietOption,
    StudentArgument,
    TemperatureOption,
    TopKOption,
    TopPOption,
    command,
    example,
)

EXAMPLES = example(
    "dimo export digits --out digits.pt2",
    "dimo export runs/digits --out digits.pt2 --greedy",
    'dimo export shapes --out shapes.pt2 --prompt "a red circle" --prompt "two blue squares"',
)


@command
def export(
    student: StudentArgument,
    path: Annotated[
        Path, typer.Option("--out", "-o", help="The program, a .pt2 file; a .json goes beside it.")
    ] = Path("student.pt2"),
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Encoded and saved beside the program; repeatable."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts-file", help="Text file with one prompt per line.")
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the likeliest tokens: no noise as input.")
    ] = False,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    local_dir: LocalDirOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a student as a `torch.export` program, and check it against the student."""
    from dimo_cli.commands.tteo import read_prompts
    from dimo_cli.errors import SpecError
    from dimo_cli.specs.export import ExportSpec
    from dimo_cli.specs.flags import spec_from_flags

    if path.suffix != ".pt2":
        raise SpecError(f"`--out` is {path}: it must end in .pt2.", "That is torch's own ending.")
    values = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "greedy": greedy,
        "prompts": (*(prompts or ()), *read_prompts(prompts_file)),
    }
    spec = spec_from_flags(ExportSpec, values)
    from rich.text import Text

    from dimo_cli.console.output import out
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
