"""`dimo spec`: check a spec file, or print the schema of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.frame import command, foot, framing
from dimo_cli.commands.options import PresetOption, SetOption
from dimo_cli.commands.plan import origins_table
from dimo_cli.commands.usage import Commands
from dimo_cli.console.output import out
from dimo_cli.engine.objectives.registry import check_objectives
from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.glossary import GLOSSARY
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import changed_values
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.shipped import SHIPPED
from dimo_cli.specs.unread import refuse_unread
from dimo_cli.teachers.families import FAMILIES

RefineOption = Annotated[
    bool, typer.Option("--refine", help="Of `dimo refine` instead of `dimo distill`.")
]
app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Check spec files and print their schema."
)


@command(app, "check", "dimo spec check mine.yaml", "dimo spec check mine.yaml --json")
def check(
    file: Annotated[Path, typer.Argument(help="The spec file.")],
    preset: PresetOption = None,
    sets: SetOption = None,
    refine: RefineOption = False,
) -> None:
    """Validate a spec file and show where every value that is not the default comes from."""
    model = RefineSpec if refine else DistillSpec
    plan = resolve_spec(model, preset=preset, file=file, sets=sets or ())
    check_names(plan.spec)
    refuse_unread(plan.spec, plan.origins)
    changed = changed_values(plan.spec, plan.origins)
    document = {
        "valid": True,
        "spec": plan.spec.model_dump(mode="json"),
        "origins": {path: origin for path, _, origin in changed},
    }
    out.result(document, origins_table(changed))
    out.hint(f"`{file}` is valid.")


def check_names(spec: DistillSpec) -> None:
    """Refuse a teacher or an objective that does not exist."""
    check_objectives(spec)
    if spec.teacher.name not in (*SHIPPED, *FAMILIES):
        from dimo_cli.teachers.registry import check_teacher  # users' own are loaded with torch

        check_teacher(spec.teacher.name)


@command(app, "words", "dimo spec words", "dimo spec words auxiliary")
def words(
    word: Annotated[str | None, typer.Argument(help="One of them; default: all.")] = None,
) -> None:
    """Say what the words mean that panels, reports and settings use."""
    found = {w: text for w, text in GLOSSARY.items() if word in (None, w)}
    if not found:
        raise SpecError(f"There is no word `{word}`.", did_you_mean(str(word), list(GLOSSARY)))
    rows = Table.grid(padding=(0, 2))
    for name, meaning in found.items():
        rows.add_row(Text(name, style="bold"), Text(meaning.replace("`", "")))
    out.result(found, rows)


@app.command("schema", epilog=foot("dimo spec schema > dimo.schema.json"))
def schema(refine: RefineOption = False) -> None:
    """Print the JSON Schema of a spec file, for editors."""
    document = (RefineSpec if refine else DistillSpec).model_json_schema()
    document["properties"]["preset"] = {
        "type": "string",
        "description": "Preset that this file is laid over",
    }
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    with framing():
        out.text(json.dumps({**about, **document}, indent=2))
