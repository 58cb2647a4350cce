"""`dimo presets`: list, show, compare and copy the recipes that ship with dimo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from dimo_cli.files.writing import write_whole_text, writing_to
from dimo_cli.planning.hours import (
    DOLLARS_AN_HOUR,
    cost_document,
    counted_costs,
    dollars,
    seconds_on_h100,
)
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

if TYPE_CHECKING:
    from dimo_cli.metrics.measured import Known

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
    table = Table(
        "preset", "for", "H100 hours", "cost", "what it is", box=None, header_style="bold"
    )
    summaries, costs = {}, {}
    for kind, names in kinds.items():
        for name in names:
            seconds = h100_seconds(name)
            hours, dollars = ("< 1", "") if seconds is None else in_cells(seconds)
            summaries[name], costs[name] = preset_summary(name), cost_document(seconds)
            table.add_row(name, f"dimo {kind}", hours, dollars, preset_summary(name))
    table.columns[0].overflow = "fold"  # never cut short: it is to be typed again
    table.columns[2].justify = table.columns[3].justify = "right"
    table.columns[2].no_wrap = table.columns[3].no_wrap = True
    about = (
        "Hours of one H100, estimated from arithmetic, without what dropout takes; cost at "
        f"${DOLLARS_AN_HOUR:.2f} an hour. "
        "For `dimo refine` they are those of its Di[M]O part alone."
    )
    document = {"presets": summaries, "refine": kinds["refine"], "costs": costs}
    out.result(document, table)
    out.hint(about)


def spec_of(name: str) -> DistillSpec:
    """The spec of a preset of either kind, whatever the environment says."""
    model = RefineSpec if name in refine_preset_names() else DistillSpec
    return resolve_spec(model, preset=name, environment={}).spec


def h100_seconds(name: str) -> float | None:
    """All steps of a preset on one H100, from what was counted of it."""
    counted = counted_costs()[name]
    steps = spec_of(name).train.steps
    return seconds_on_h100(counted["family"], counted["flops_per_step"] * steps)


def in_cells(seconds: float) -> tuple[str, str]:
    """Hours and dollars for two columns."""
    return f"{max(1, round(seconds / 3600)):,}", f"${dollars(seconds):,.0f}"


@command(app, "show", "dimo presets show digits")
def show(name: NameArgument) -> None:
    """Print a preset as resolved YAML, with a comment per field."""
    spec = spec_of(name)
    needs, known = costs(spec), known_numbers(name, spec)
    if out.as_json:
        numbers = [one.document() for one in known]
        document = {"preset": name, "spec": spec.model_dump(mode="json"), **needs}
        out.result({**document, "numbers": numbers})
        return
    batch = spec.train.batch_size
    part = " for its Di[M]O part" if name in refine_preset_names() else ""
    cost = (
        f"about {size(needs['memory_bytes'])} of GPU memory at batch size {batch}, "
        f"{flops(needs['flops_per_step'])} per step{part}"
    )
    told = "".join(f"# {line}\n" for line in numbers_lines(known))
    out.text(f"# {name}: {preset_summary(name)}\n# {cost}\n{told}{commented_yaml(spec)}")


def known_numbers(name: str, spec: DistillSpec) -> list[Known]:
    """What papers and dimo itself measured of the teacher and of the preset's student."""
    from dimo_cli.metrics.measured import known_of_preset

    return known_of_preset(name, spec.teacher.name)


def numbers_lines(known: list[Known]) -> list[str]:
    """The table of these numbers in even columns, which stay comments of the YAML."""
    from dimo_cli.metrics.measured import HEAD

    rows = [HEAD, *(one.cells() for one in known)] if known else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


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
    if file.is_dir():
        raise SpecError(f"`{file}` is a folder.", "Name the file that the copy is to be.")
    if file.exists() and not force:
        raise SpecError(f"`{file}` exists already.", "Add `--force` to overwrite it.")
    with writing_to(file.parent, "Choose another place for the copy."):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(file, source.read_text(encoding="utf-8"))
    of_student = name in refine_preset_names()
    run = next_steps.command("distill", "--spec", next_steps.from_here(file))
    if of_student:
        teacher = resolve_spec(RefineSpec, preset=name).spec.teacher.name
        student = teacher if teacher in builtin_students() else "STUDENT"
        run = next_steps.command("refine", student, "--spec", next_steps.from_here(file))
    out.result({"preset": name, "file": str(file)}, f"Wrote {file}.")
    out.hint(f"Run it with {run}.")
