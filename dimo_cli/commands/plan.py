"""What a run would do: shown by `--dry-run`, and in part by `dimo spec check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.errors import size
from dimo_cli.specs.render import commented_yaml

if TYPE_CHECKING:
    from dimo_cli.planning.hours import Hours
    from dimo_cli.planning.plan import Forecast


def origins_table(changed: list[tuple[str, str, str]]) -> RenderableType:
    """Every value that is not the default, and where it comes from."""
    if not changed:
        return Text("Every value is the default.")
    table = Table("setting", "value", "from", box=None, header_style="bold")
    for path, value, origin in changed:
        table.add_row(Text(path), Text(value), Text(origin, style="dim"))
    return table


def flops(count: float) -> str:
    """Floating-point operations in words."""
    for unit in ("MFLOP", "GFLOP"):
        if count < 1e9:
            return f"{count / 1e6:.1f} {unit}"
        count /= 1000
    return f"{count / 1e6:.1f} TFLOP"


def here(hours: Hours) -> str:
    """How long a run takes on this machine."""
    from dimo_cli.planning.hours import words

    if hours.training is None:
        return hours.how
    table = f", then {words(hours.table)} for the closing table" if hours.table else ""
    pairs = f", of which {words(hours.pairs)} to draw pairs" if hours.pairs else ""
    return f"about {words(hours.training)}{pairs}{table} ({hours.how})"


def on_card(forecast: Forecast, hours: Hours) -> str:
    """How long a run takes on one H100, and what that costs."""
    from dimo_cli.planning.hours import cost_words

    of_it = ", for its Di[M]O part alone" if forecast.is_refinement else ""
    return f"{cost_words(hours.on_h100)}{of_it}"


def on_disk(forecast: Forecast) -> str:
    """What checkpoints take on disk, and what is left there."""
    free, needed = forecast.free_disk, forecast.checkpoints
    told = f"about {size(forecast.checkpoint)} each, {size(needed)} at most; {size(free)} are free"
    if needed <= free:
        return told
    return f"{told}: too little. Choose another `--out`, or free {size(needed - free)}."


def forecast_view(
    forecast: Forecast, full: bool = False, hours: Hours | None = None
) -> RenderableType:
    """What each step does and needs, and what is not the default; `full`: the whole spec too."""
    spec, launch = forecast.plan.spec, forecast.launch
    share, room = forecast.share, forecast.room
    table = Table.grid(padding=(0, 2))
    table.add_row("teacher", f"{forecast.teacher}, {forecast.parameters:,} parameters")
    table.add_row("training", f"{spec.train.steps:,} steps, {forecast.samples:,} generated samples")
    table.add_row(
        "each step",
        f"{forecast.forwards:g} forward passes of the backbone, about {flops(forecast.flops)}",
    )
    if forecast.pairs:
        table.add_row("pairs", f"{sum(one.count for one in forecast.pairs):,}, drawn once")
    if hours is not None:
        table.add_row("time here", here(hours))
        table.add_row("on one H100", on_card(forecast, hours))
    each = ""
    if launch.total > 1:
        kind = "GPUs" if launch.gpus else "CPU processes"
        passes = f"{share.passes} pass{'es' if share.passes > 1 else ''} of {share.batch} samples"
        table.add_row("shared by", f"{launch.total} {kind}, each with {passes} a step")
        each = " in each process"
    if forecast.fit:
        again = "activations" if forecast.fit.gradient_checkpointing else "nothing"
        passes = f"{share.passes} x {share.batch} samples, {again} recomputed"
        table.add_row("passes", passes)
    sizes = [f"{name.replace('_', ' ')} {size(part)}" for name, part in room.needed.parts.items()]
    table.add_row("memory", f"about {size(room.needed.total)}{each}: {', '.join(sizes)}")
    there = f"{size(room.available)}, {room.place}" if room.available else room.place
    table.add_row("available", there)
    table.add_row("checkpoints", on_disk(forecast))
    if forecast.snapshots:
        table.add_row("snapshots", f"{size(forecast.snapshots)} on disk, for `dimo ema`")
    table.add_row("writes to", str(forecast.folder))
    parts: list[RenderableType] = [
        Text("Plan", style="bold"),
        table,
        Text("\nNot the default", style="bold"),
        origins_table(forecast.changed),
    ]
    if full:
        parts += [Text("\nThe whole spec", style="bold"), Text(commented_yaml(spec))]
    return Group(*parts)
