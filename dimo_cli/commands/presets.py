"""`dimo presets`: list, show, compare and copy the recipes that ship with dimo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.plan import flops, size
from dimo_cli.commands.usage import Commands
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.files.writing import write_whole_text
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import commented_yaml, scalar
from dimo_cli.specs.resolve import (
    preset_names,
    preset_path,
    preset_summary,
    refine_preset_names,
    resolve_spec,
)
from dimo_cli.students.names import builtin_students

app = typer.Typer(cls=Commands, no_args_is_help=True, help="List, show, compare and copy presets.")
NameArgument = Annotated[
    str, typer.Argument(help="Name of a preset.", autocompletion=completing.all_presets)
]

SpecArgument = Annotated[
    str,
    typer.Argument(
        help="Name of a preset, folder of a run, or YAML file.",
        autocompletion=completing.all_presets,
    ),
]


@command(app, "list", "dimo presets list --json")
def list_presets() -> None:
    """List all presets."""
    kinds = {"distill": preset_names(), "refine": refine_preset_names()}
    table = Table("preset", "for", "what it is", box=None, header_style="bold")
    for kind, names in kinds.items():
        for name in names:
            table.add_row(name, f"dimo {kind}", preset_summary(name))
    summaries = {name: preset_summary(name) for name in [*kinds["distill"], *kinds["refine"]]}
    out.result({"presets": summaries, "refine": kinds["refine"]}, table)


@command(app, "show", "dimo presets show digits")
def show(name: NameArgument) -> None:
    """Print a preset as resolved YAML, with a comment per field."""
    model = RefineSpec if name in refine_preset_names() else DistillSpec
    spec = resolve_spec(model, preset=name, environment={}).spec
    needs = costs(spec)
    if out.as_json:
        out.result({"preset": name, "spec": spec.model_dump(mode="json"), **needs})
        return
    batch = spec.train.batch_size
    part = " for its Di[M]O part" if name in refine_preset_names() else ""
    cost = (
        f"about {size(needs['memory_bytes'])} of GPU memory at batch size {batch}, "
        f"{flops(needs['flops_per_step'])} per step{part}"
    )
    out.text(f"# {name}: {preset_summary(name)}\n# {cost}\n{commented_yaml(spec)}")


def costs(spec: DistillSpec) -> dict[str, float]:
    """What a step of a preset costs, worked out without its weights."""
    from dimo_cli.planning.flops import flops_per_step
    from dimo_cli.planning.memory import blank_rewards, estimate_memory
    from dimo_cli.teachers.registry import load_skeleton

    teacher = load_skeleton(spec.teacher)
    return {
        "memory_bytes": estimate_memory(teacher, spec, blank_rewards, on_gpu=True).total,
        "flops_per_step": flops_per_step(teacher, spec),
    }


@command(app, "diff", "dimo presets diff maskgit maskbit", "dimo presets diff digits runs/digits")
def diff(first: SpecArgument, second: SpecArgument) -> None:
    """Show the settings in which two specs differ: presets, run folders or spec files."""
    from dimo_cli.specs.difference import differences, spec_named

    found = differences(spec_named(first), spec_named(second))
    document = {
        "first": first,
        "second": second,
        "differences": [
            {"setting": one.path, "first": one.first, "second": one.second} for one in found
        ],
    }
    table = Table("setting", first, second, box=None, header_style="bold")
    for one in found:
        table.add_row(one.path, scalar(one.first), scalar(one.second))
    same = Text(f"`{first}` and `{second}` have the same settings.")
    out.result(document, table if found else same)


@command(app, "cp", "dimo presets cp digits mine.yaml", "dimo distill --spec mine.yaml")
def copy(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="Where to write the copy.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
) -> None:
    """Copy a preset to a file to edit; run it with `dimo distill --spec FILE`."""
    source = preset_path(name)
    if file.exists() and not force:
        raise SpecError(f"`{file}` exists already.", "Add `--force` to overwrite it.")
    write_whole_text(file, source.read_text(encoding="utf-8"))
    of_student = name in refine_preset_names()
    run = next_steps.command("distill", "--spec", next_steps.from_here(file))
    if of_student:
        teacher = resolve_spec(RefineSpec, preset=name).spec.teacher.name
        student = teacher if teacher in builtin_students() else "STUDENT"
        run = next_steps.command("refine", student, "--spec", next_steps.from_here(file))
    out.result({"preset": name, "file": str(file)}, f"Wrote {file}.")
    out.hint(f"Run it with {run}.")
