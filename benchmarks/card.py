"""What a card is asked for, one figure or a few at a time: python -m benchmarks.card NAME

Each is made to run in a process of its own in about half a minute at the published sizes;
`--small` takes shapes for a CPU instead, where the numbers mean nothing.
"""

import argparse
import contextlib
import copy
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.loss import COMPARED, LARGE, Heads, chunked, peak_over_logits, whole
from benchmarks.measuring import (
    device_of,
    environment,
    in_turn,
    medians,
    peak_bytes,
    ratio,
)
from benchmarks.networks import MASKGIT_SMALL, MEISSONIC_SMALL, random_teacher
from benchmarks.output import emit
from benchmarks.plain import Recipe
from benchmarks.sample import Sampling
from benchmarks.step import Ours, Plain, autocast_on, our_spec, peak_flops
from dimo_cli.planning.flops import flops_per_step
from dimo_cli.teachers.protocol import Teacher

Figures = dict[str, float]
ROUNDS = 5
WARM_STEPS = 4
SMALL = {"maskbit": ("maskgit", MASKGIT_SMALL), "meissonic": ("meissonic", MEISSONIC_SMALL)}


class Card:
    """Where a figure is measured: a card at the published sizes, or a CPU at small ones."""

    def __init__(self, small: bool) -> None:
        self.small, self.device = small, device_of(not small)
        self.autocast = autocast_on(self.device)
        self.rounds = 1 if small else ROUNDS

    def teacher(self, name: str) -> Teacher:
        """A teacher of random weights."""
        name, architecture = SMALL[name] if self.small else (name, None)
        return random_teacher(name, architecture, self.device)

    def batch(self, size: int) -> int:
        """Samples at a time."""
        return 2 if self.small else size

    def empty(self) -> None:
        """Give back what the last network held, so that the next one finds all memory."""
        gc.collect()
        if not self.small:
            torch.cuda.empty_cache()

    def measure_step(self, make: Callable[[], Ours | Plain]) -> tuple[float, int]:
        """Seconds of a step once it is warm, and the peak of memory above what is held."""
        run = make()
        times = in_turn({"step": run.step}, self.rounds, warmup=WARM_STEPS)
        with peak_bytes(self.device) as found:
            run.step()
        del run
        self.empty()
        return medians(times)["step"], found["peak"]


def step(card: Card, name: str, size: int) -> Figures:
    """A step against the released recipe, plainly written: time, memory, and the card's use."""
    teacher, batch = card.teacher(name), card.batch(size)
    recipe = Recipe(batch)
    spec = our_spec(batch, recipe)
    ours, peak = card.measure_step(lambda: Ours(teacher, spec, card.autocast))
    figures = {"seconds": ours, "peak_bytes": float(peak)}
    if not card.small:
        figures["mfu"] = flops_per_step(teacher, spec) / ours / peak_flops()
    plain, plain_peak = card.measure_step(lambda: Plain(teacher, recipe, card.autocast))
    figures |= {
        "plain_seconds": plain,
        "plain_peak_bytes": float(plain_peak),
        "over_plain": ours / plain,
        "peak_over_plain": peak / plain_peak,
    }
    return figures


def shared(card: Card) -> Figures:
    """The peak of a step that shares x_tilde, over the plain recipe's."""
    teacher, batch = card.teacher("maskbit"), card.batch(64)
    recipe = Recipe(batch)
    spec = our_spec(batch, recipe, share_x_tilde=True)
    _, ours = card.measure_step(lambda: Ours(teacher, spec, card.autocast))
    _, plain = card.measure_step(lambda: Plain(teacher, recipe, card.autocast))
    return {"peak_over_plain": ours / plain}


def losses(card: Card) -> Figures:
    """Both updates at a large vocabulary: time over whole tensors, peak over a logits tensor."""
    size = COMPARED if card.small else LARGE
    with card.autocast():
        peak = peak_over_logits(size, card.device, chunked)["ratio"]
        heads = Heads(size, card.device)
        calls = {"dimo": partial(chunked, heads), "whole": partial(whole, heads)}
        times = in_turn(calls, card.rounds, warmup=3)
    return {"over_whole": ratio(times["dimo"], times["whole"]), "peak_over_logits": peak}


def one_step(card: Card, name: str, size: int) -> Figures:
    """Images a second in one step, decoded."""
    batch = card.batch(size)
    run = Sampling(card.teacher(name), batch, half=not card.small)
    times = in_turn({"one_step": run.one_step, "decode": run.decode}, card.rounds, warmup=3)
    found = medians(times)
    return {
        "images_per_second": batch / found["one_step"],
        "decode_share": found["decode"] / found["one_step"],
    }


@torch.inference_mode()
def decode_error(card: Card) -> Figures:
    """How far decoded images are from those of float32, in steps of an 8-bit pixel."""
    figures: Figures = {}
    for name, size in (("maskbit", 8), ("meissonic", 1)):
        run = Sampling(card.teacher(name), card.batch(size), half=not card.small)
        with run.autocast():
            found = run.teacher.tokenizer.decode(run.tokens, run.cond).float()
        exact = copy.deepcopy(run.teacher.tokenizer).float().decode(run.tokens, run.cond)
        error = 127.5 * (found.clamp(-1, 1) - exact.float().clamp(-1, 1)).abs()
        figures |= {f"{name}_mean": error.mean().item(), f"{name}_largest": error.max().item()}
        card.empty()
    return figures


def digits(card: Card) -> Figures:
    """Images a second of `dimo distill digits`, by the command itself, once it is warm."""
    steps, every = (40, 10) if card.small else (1000, 100)
    settings = {
        "train.steps": steps,
        "train.log_every": every,
        "train.checkpoint_every": steps,
        "train.device": card.device.type,
        "monitor.preview_every": steps,
        "monitor.fid_every": 0,
        "monitor.table_samples": 0,
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dimo_cli", "distill", "--preset", "digits", *flags]
        subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = sorted(record["images_per_second"] for record in log[1:-1])  # warm, and not saving
    return {"images_per_second": rates[len(rates) // 2]}


FIGURES: dict[str, Callable[[Card], Figures]] = {
    "step_maskbit": partial(step, name="maskbit", size=64),
    "step_meissonic": partial(step, name="meissonic", size=4),
    "shared_x_tilde": shared,
    "losses": losses,
    "one_step_maskbit": partial(one_step, name="maskbit", size=64),
    "one_step_meissonic": partial(one_step, name="meissonic", size=8),
    "decode_error": decode_error,
    "digits": digits,
}


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__)
    parser.add_argument("name", choices=FIGURES)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--small", action="store_true", help="small shapes on a CPU")
    asked = parser.parse_args()
    card = Card(asked.small)
    with contextlib.ExitStack() as stack:
        if not card.small:
            stack.callback(card.empty)
        figures = FIGURES[asked.name](card)
    emit({"benchmark": asked.name, **environment(card.device), "figures": figures}, asked.json)


if __name__ == "__main__":
    main()
