"""What a step asks of the host: how many operations it launches, and what is left when replayed.

python -m benchmarks.launches [--json FILE]

A card waits for Python where operations are small and many. They can be counted without one: at the
depth of published networks, in tiny widths. A loss of a chunk, which a card has compiled, counts as
one; views count nothing. The time of a replayed step is what the host does before it: to draw what
Python decides, and to bring it to where the recording reads.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import loss
from benchmarks.measuring import environment, seconds
from benchmarks.networks import random_teacher
from benchmarks.output import emit
from benchmarks.plain import Recipe
from benchmarks.step import Ours, our_spec
from dimo_cli.engine import auxiliary, field, one_step
from dimo_cli.engine.capture import CapturedStep
from dimo_cli.engine.distill import Distillation
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_teacher

CHUNKS = 6
ROUNDS = 300
FUSED = ((field, "_field"), (auxiliary, "smoothed_cross_entropy"), (one_step, "_gumbel_max"))
# The published depths.
DEPTHS: dict[str, dict[str, Any]] = {
    "maskbit": {"hidden_dim": 16, "depth": 24, "heads": 2, "mlp_dim": 32, "hidden_channels": 32},
    "meissonic": {
        "image_size": 64,
        "num_layers": 14,
        "num_single_layers": 28,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (2, 2, 4),
        "vocab_size": 192,
        "codebook_size": 128,
        "vqvae": {"num_vq_embeddings": 128, "block_out_channels": (32,) * 5},
    },
}


class Launches(TorchDispatchMode):
    """Counts operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.is_inside = 0, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry it out, and count it unless it is a view or within something compiled."""
        infos = [result.alias_info for result in func._schema.returns]
        is_view = any(info is not None and not info.is_write for info in infos)
        is_view |= func == torch.ops.aten._unsafe_view.default  # which says nothing of it
        self.count += not (is_view or self.is_inside)
        return func(*args, **(kwargs or {}))

    def as_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, as if it were compiled."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before, self.is_inside = self.is_inside, True
            try:
                return function(*args, **kwargs)
            finally:
                self.is_inside = before
                self.count += not before

        return call


@contextlib.contextmanager
def counted() -> Iterator[Launches]:
    """What is launched meanwhile."""
    launches = Launches()
    with contextlib.ExitStack() as patches:
        for module, name in FUSED:
            together = launches.as_one(getattr(module, name))
            patches.enter_context(patch.object(module, name, together))
        patches.enter_context(launches)
        yield launches


def of_losses() -> dict[str, float]:
    """Both losses in chunks, in half precision."""
    heads = loss.Heads(loss.Size(2, 64, 64, 16), torch.device("cpu"))
    rows = -(-len(heads.rows) // CHUNKS)
    with torch.autocast("cpu", torch.bfloat16), patch.object(loss, "rows_at_once", lambda *_: rows):
        loss.chunked(heads)  # makes what stays
        with counted() as launches:
            loss.chunked(heads)
    return {"launches": launches.count, "per_chunk": launches.count / (2 * CHUNKS)}


def distillation(teacher: Teacher) -> Distillation:
    """A run that is asked for no numbers, as on a card."""
    run = Ours(teacher, our_spec(2, Recipe(2, dropout=False)), contextlib.nullcontext).distillation
    run.verdict.asks = False
    return run


def of_step(teacher: Teacher) -> int:
    """The operations of a step as it is written, nothing compiled but the losses."""
    run = distillation(teacher)
    run.step(0)  # makes what stays
    with counted() as launches:
        run.step(1)
    return launches.count


def of_replay() -> dict[str, float]:
    """Milliseconds of the host in a step of `digits` but for the replay itself."""
    run = CapturedStep(distillation(load_teacher("digits")), print)

    def before_it(step: int) -> None:
        run.set_rates(step)
        run.prepare()

    times = [1e3 * seconds(partial(before_it, step)) for step in range(ROUNDS)]
    return {"median_ms": median(times), "least_ms": min(times), "most_ms": max(times)}


def measure() -> dict[str, Any]:
    """All of it."""
    steps = {"digits": of_step(load_teacher("digits"))}
    steps |= {name: of_step(random_teacher(name, sizes)) for name, sizes in DEPTHS.items()}
    return {
        "benchmark": "launches",
        **environment(torch.device("cpu")),
        "losses": of_losses(),
        "steps": steps,
        "replay": of_replay(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    emit(measure(), parser.parse_args().json)
