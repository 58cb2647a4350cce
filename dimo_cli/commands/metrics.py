"""`dimo eval fid` and its like: some numbers of images, drawn or found."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.evaluate import METRICS
from dimo_cli.commands.frame import command
from dimo_cli.commands.launching import ON_THIS_MACHINE, asked_for, start_processes
from dimo_cli.commands.options import LocalDirOption, check_ending, read_weights
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.console.progress import tracking
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.gates import check_gates, read_limits
from dimo_cli.evaluation.tables import results_view, short_view, write_github
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.flags import Given
from dimo_cli.specs.launch import LaunchSpec

if TYPE_CHECKING:
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.evaluation.sweep import Sweep
    from dimo_cli.hub.store import HubStore

NEVER = ("metrics", "sampler.r_init")
NETWORK = ("features", "resize", "inception")
# What only some metrics have; `all` has everything.
OWN = {
    "fid": ("reference", *NETWORK),
    "kid": ("reference", *NETWORK),
    "is": NETWORK,
    "pr": ("reference", *NETWORK, "neighbors"),
    "fdd": ("reference",),
}
SOME = ("reference", *NETWORK, "neighbors")


def fields_of_metric(name: str) -> Fields:
    """The options of a metric's command."""
    own = SOME if name == "all" else OWN.get(name, ())
    return Fields(without=(*NEVER, *(field for field in SOME if field not in own)))


# What a metric can be shown with; the others suit the embedded digits.
SHOWN_WITH = {
    "fdd": "runs/maskbit --ref photos",
    "clip": "shapes",
    "hps": "runs/meissonic --prompts hpsv2",
    "image-reward": "shapes",
    "pickscore": "runs/meissonic --prompts prompts.txt",
    "geneval": "shapes",
    "emoji": "emoji",
}
FEWEST_PARTS, MOST_PARTS = 3, 1000  # the fewest of a range without whole steps
app = typer.Typer()


def metric_command(metrics: tuple[str, ...], fields: Fields) -> Callable[..., None]:
    """The command of some metrics, with these options."""

    def measure(
        asked: Given[EvalSpec],
        processes: Annotated[Given[LaunchSpec], ON_THIS_MACHINE],
        plot: Annotated[
            Path | None, typer.Option(help="PNG of the curve of --sweep; default: sweep.png.")
        ] = None,
        local_dir: LocalDirOption = None,
        no_cache: Annotated[
            bool, typer.Option("--no-cache", help="Measure again what was measured before.")
        ] = False,
        github: Annotated[
            bool, typer.Option("--github", help="Write a step summary and annotations.")
        ] = False,
    ) -> None:
        spec = asked.spec(
            {
                "metrics": metrics,
                "maximum": read_limits(asked.get("maximum", ()), metrics, "--max"),
                "minimum": read_limits(asked.get("minimum", ()), metrics, "--min"),
                "temperatures": temperatures(asked.get("temperatures")),
                "tteo_rewards": read_weights(asked.get("tteo_rewards")),
            }
        )
        if plot is not None and not spec.temperatures:
            raise SpecError("`--plot` is the curve of `--sweep`: add that, or leave it out.")
        if start_processes(asked_for(processes)):
            return

        from dimo_cli.distributed.ranks import is_first, joined_ranks
        from dimo_cli.hub.store import HubStore

        if not is_first():
            out.silence()
        if plot is not None:
            check_ending("--plot", plot, (".png",), "Charts are PNG files.")
        store = HubStore(local_dir, say=out.note)
        with joined_ranks():
            if spec.temperatures:
                show_sweep(spec, store, plot or Path("sweep.png"), not no_cache)
            else:
                show_evaluation(spec, store, not no_cache, github)

    measure.__annotations__["asked"] = Annotated[Given[EvalSpec], fields]
    return measure


for _name, _help in METRICS.items():
    _metrics = () if _name == "all" else (_name.replace("-", "_"),)
    _measure = metric_command(_metrics, fields_of_metric(_name))
    _measure.__doc__ = _help
    _shown = f"dimo eval {_name} {SHOWN_WITH.get(_name, 'digits')}"
    command(app, _name, f"{_shown} --json", f"{_shown} --teacher --steps 8")(_measure)


def temperatures(text: str | None) -> tuple[float, ...]:
    """The temperatures of `temperature=A..B` (both ends, evenly spaced) or `temperature=A,B,C`."""
    if text is None:
        return ()
    name, _, values = text.partition("=")
    first, dots, last = values.partition("..")
    try:
        if name != "temperature":
            raise ValueError
        if not dots:
            return tuple(float(value) for value in values.split(","))
        found = evenly_spaced(float(first), float(last))
    except ValueError:
        found = ()
    if not found:
        raise SpecError(
            f"`--sweep {text}` is not understood.",
            "Write `--sweep temperature=1..12` or `--sweep temperature=0.5,1,2`.",
        )
    return found


def evenly_spaced(first: float, last: float) -> tuple[float, ...]:
    """From one number to another: in steps of 1, or of a little less where these do not fit."""
    span = last - first
    if not 0 <= span <= MOST_PARTS:
        return ()
    parts = int(span) if span == int(span) else max(FEWEST_PARTS, math.ceil(span))
    return tuple(round(first + span * part / (parts or 1), 6) for part in range(parts + 1))


def measured(spec: EvalSpec, store: HubStore, use_cache: bool) -> Evaluation:
    """An evaluation with a progress bar."""
    from dimo_cli.evaluation.evaluate import evaluate

    with tracking(out, "measure") as progress:
        return evaluate(spec, store, out.note, progress, use_cache)


def show_evaluation(spec: EvalSpec, store: HubStore, use_cache: bool, github: bool) -> None:
    """Measure, show, and let the gates decide."""
    from dimo_cli.distributed.ranks import is_first
    from dimo_cli.metrics.expected import expected_value

    evaluation = measured(spec, store, use_cache)
    gates = check_gates(evaluation.results, spec.maximum, spec.minimum)
    expected = [expected_value(result, evaluation.subject) for result in evaluation.results]
    document = {
        **evaluation.document(),
        "passed": all(gate.passed for gate in gates),
        "gates": [gate.sentence for gate in gates],
        "published": {
            known.metric: {"value": known.value, "source": known.source}
            for known in expected
            if known is not None
        },
    }
    long = results_view(evaluation, expected, gates)
    out.result(document, short_view(evaluation, gates) if out.quiet else long)
    if github and is_first():
        for line in write_github(evaluation, gates):
            typer.echo(line, err=True)
    if not document["passed"]:
        if out.as_json:  # else it is said beside the numbers
            for gate in gates:
                if not gate.passed:
                    out.note(gate.sentence)
        raise typer.Exit(1)


def show_sweep(spec: EvalSpec, store: HubStore, plot: Path, use_cache: bool) -> None:
    """Measure at every temperature; the papers report the best one of each metric."""
    from dimo_cli.evaluation.curve import draw_curve
    from dimo_cli.evaluation.sweep import sweep

    found = sweep(spec, lambda one: measured(one, store, use_cache))
    name = found.names[0]
    best = found.best[name]
    draw_curve(found.curve(0), (best["temperature"], best["value"]), plot, name)
    told = [Text(line) for line in found.sentences()]
    view = Group(sweep_table(found), Text(""), *told, Text(f"The curve is in {plot}."))
    out.result({**found.document(), "plot": str(plot)}, view)


def sweep_table(found: Sweep) -> Table:
    """The numbers of each temperature, the best of each metric marked."""
    best = found.best
    table = Table("temperature", *found.names, box=None, header_style="bold")
    for temperature, evaluation in found.rows:
        cells = []
        for result in evaluation.results:
            is_best = best[result.metric]["temperature"] == temperature
            mark = " (best)" if is_best else ""
            cells.append(Text(f"{result.value:.4f}{mark}", style="bold" if is_best else ""))
        table.add_row(f"{temperature:g}", *cells)
    return table
