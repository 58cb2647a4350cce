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
from dimo_cli.commands.plan import size
from dimo_cli.console.output import out
from dimo_cli.planning.health import Check, run_checks

if TYPE_CHECKING:
    from dimo_cli.specs.distill import DistillSpec

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
        facts, view = examine(spec_of_preset(preset, sets, local_dir), offline)
        problems += facts["problems"]
        document["preset"] = {"name": preset, **facts}
        views += [Text(f"\nPreset {preset}", style="bold"), view]
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


def examine(spec: DistillSpec, offline: bool) -> tuple[dict[str, Any], RenderableType]:
    """What a preset needs: files, disk and memory, as document and view."""
    import shutil

    from dimo_cli.hub.access import dimo_cache, download_cache
    from dimo_cli.planning.downloads import TO_DOWNLOAD, bytes_of, needs_of
    from dimo_cli.planning.health import existing_parent
    from dimo_cli.planning.memory import advice_to_fit, estimate_memory
    from dimo_cli.teachers.registry import load_skeleton
    from dimo_cli.training.accelerator import machine_memory

    teacher = load_skeleton(spec.teacher)
    needs = needs_of(spec.teacher, teacher, ask_hub=not offline)
    to_fetch = sum(need.size or 0 for need in needs if need.state == TO_DOWNLOAD)
    free = shutil.disk_usage(existing_parent(download_cache())).free
    place, available = machine_memory()
    to_sample = bytes_of(teacher.backbone) + bytes_of(teacher.tokenizer)
    estimate = estimate_memory(teacher, spec)
    memory, advice = estimate.total, advice_to_fit(teacher, spec, estimate, available)
    problems = [f"{need.file.path}" for need in needs if not need.can_be_had]
    # A pickle is converted once, so it takes its size twice.
    if 2 * to_fetch > free:
        problems.append("disk space")
    if advice is not None:
        problems.append("memory")

    files = Table(box=None, header_style="bold")
    for title in ("file", "size", "state"):
        files.add_column(title, overflow="fold")
    for need in needs:
        known = size(need.size) if need.size is not None else "not known"
        known = known if need.is_exact else f"about {known}"
        files.add_row(Text(str(need.file)), Text(known), Text(need.state))
    rows = Table.grid(padding=(0, 2))
    rows.add_row("license", teacher.license)
    rows.add_row("download", f"{size(to_fetch)} to {download_cache()} ({size(free)} free)")
    rows.add_row("converted to", str(dimo_cache() / "weights"))
    rows.add_row("memory", f"{size(available)} ({place})")
    rows.add_row("to sample", f"about {size(to_sample)}: {fits(to_sample, available, None)}")
    rows.add_row("to distill", f"about {size(memory)}: {fits(memory, available, advice)}")
    document = {
        "license": teacher.license,
        "files": [
            {
                "file": str(need.file),
                "revision": need.file.revision,
                "bytes": need.size,
                "exact": need.is_exact,
                "state": need.state,
            }
            for need in needs
        ],
        "download_bytes": to_fetch,
        "download_folder": str(download_cache()),
        "converted_folder": str(dimo_cache() / "weights"),
        "free_bytes": free,
        "memory_to_sample_bytes": to_sample,
        "memory_bytes": memory,
        "available_bytes": available,
        "advice": advice,
        "problems": problems,
    }
    shown: list[RenderableType] = [files, rows] if needs else [Text("Ships inside dimo."), rows]
    return document, Group(*shown)


def fits(needed: int, available: int, advice: str | None) -> str:
    """Whether something fits into memory, and what to do if not."""
    return "fits" if needed <= available else f"does not fit. {advice or 'Use a larger GPU.'}"
