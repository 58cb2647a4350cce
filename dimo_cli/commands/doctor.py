"""`dimo doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, SetOption, spec_of_preset
from dimo_cli.console.output import out
from dimo_cli.errors import counted, size
from dimo_cli.planning.health import Check, run_checks

if TYPE_CHECKING:
    from dimo_cli.planning.plan import Requirements

app = typer.Typer()
EXAMPLES = """
dimo doctor
dimo doctor --preset maskbit
dimo doctor --json
"""

STYLES = {"ok": "good", "note": "hint", "problem": "bad"}


@command(app, "doctor", EXAMPLES)
def doctor(
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help="Also: what it downloads, and whether it fits this machine.",
            autocompletion=completing.presets,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where runs would be written.")] = Path(),
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not try to reach the Hub.")
    ] = False,
    local_dir: LocalDirOption = None,
    sets: SetOption = None,
) -> None:
    """Check Python, torch, device, bf16, disk, the Hub, login and caches."""
    out.note("Checking ...")
    checks = run_checks(folder, offline)
    problems = [check.name for check in checks if check.state == "problem"]
    document: dict[str, Any] = {
        "checks": [
            {"name": c.name, "state": c.state, "found": c.found, "advice": c.advice} for c in checks
        ],
    }
    views: list[RenderableType] = [checks_table(checks)]
    if preset is not None:
        from dimo_cli.planning.plan import requirements

        spec = spec_of_preset(preset, sets, local_dir)
        needed = requirements(spec, ask_hub=not offline)
        problems += needed.problems
        document["preset"] = {"name": preset, **needed.document()}
        views += [Text(f"\nPreset {preset}", style="bold"), requirements_view(needed)]
    out.result({"ready": not problems, **document}, Group(*views))
    if problems:
        out.note(f"Not ready: {', '.join(problems)}.")
        raise typer.Exit(3)


def checks_table(checks: list[Check]) -> Table:
    """What was checked, and what to do where it is not as it should be."""
    table = Table(box=None, header_style="bold")
    for title in ("check", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for check in checks:
        state = Text(check.state, style=STYLES[check.state])
        table.add_row(check.name, state, Text(check.found), Text(check.advice))
    return table


def requirements_view(needed: Requirements) -> RenderableType:
    """The files of a preset, and whether disk and memory are enough."""
    from dimo_cli.planning.hours import cost_words

    files = Table(box=None, header_style="bold")
    for title in ("file", "size", "state"):
        files.add_column(title, overflow="fold")
    for need in needed.files:
        known = size(need.size) if need.size is not None else "not known"
        known = known if need.is_exact else f"about {known}"
        files.add_row(Text(str(need.file)), Text(known), Text(need.state))
    there, sampling, distilling = needed.available, needed.to_sample, needed.to_distill
    rows = Table.grid(padding=(0, 2))
    rows.add_row("license", needed.license)
    rows.add_row("download", download_words(needed))
    rows.add_row("converted to", str(needed.converted))
    rows.add_row("memory", f"{size(there)} ({needed.place})")
    rows.add_row("to sample", f"about {size(sampling)}: {fits(sampling, there, None)}")
    rows.add_row(
        "to distill", f"about {size(distilling)}: {fits(distilling, there, needed.advice)}"
    )
    rows.add_row("on one H100", cost_words(needed.on_h100))
    return Group(files if needed.files else Text("Ships inside dimo."), rows)


def download_words(needed: Requirements) -> str:
    """What is still to be fetched, and what cannot be now."""
    free = f"{size(needed.free)} free"
    lacking = [need for need in needed.files if not need.can_be_had]
    parts = [f"{size(needed.to_fetch)} to {needed.downloads} ({free})"]
    if lacking:
        parts = parts if needed.to_fetch else []
        known = f", about {size(needed.out_of_reach)}," if needed.out_of_reach else ""
        parts.append(f"{counted(len(lacking), 'file')}{known} cannot be had now: see above")
    return "; ".join(parts)


def fits(needed: int, available: int, advice: str | None) -> str:
    """Whether something fits into memory, and what to do if not."""
    return "fits" if needed <= available else f"does not fit. {advice or 'Use a larger GPU.'}"
