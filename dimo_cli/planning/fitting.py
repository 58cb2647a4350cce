"""How large the passes of a step are on a GPU: as large as its memory allows.

The gradient of a step is the same however its samples are cut into passes, but a card works best on
many at a time. Recomputing activations costs a third more time: it comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dimo_cli.distributed.ranks import as_first_says, on_cpu, own_rank, sharding_wanted
from dimo_cli.engine.objectives.reward import Rewards
from dimo_cli.engine.share import divide, largest_divisor, smallest_divisor
from dimo_cli.planning.memory import (
    MemoryEstimate,
    blank_rewards,
    estimate_memory,
    sharded_estimate,
)
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_skeleton
from dimo_cli.training.accelerator import machine_memory

USABLE = 0.9  # of a card's memory: the rest is the driver's, and lost between blocks


@dataclass(frozen=True, slots=True)
class Fit:
    """The passes of one process, and whether activations are recomputed in them."""

    micro_batch: int
    gradient_checkpointing: bool

    def applied(self, spec: DistillSpec) -> DistillSpec:
        """The spec with this in the place of what was left open."""
        update = {
            "micro_batch": self.micro_batch,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        return spec.model_copy(update={"train": spec.train.model_copy(update=update)})


def fitted(spec: DistillSpec, say: Callable[[str], None]) -> DistillSpec:
    """The spec as it is carried out: on CUDA with passes that fit, elsewhere as it is."""
    train = spec.train
    if not is_left_open(train):
        return spec
    place, available = machine_memory()
    processes, teacher = own_rank()[1], load_skeleton(spec.teacher)
    fit = as_first_says(fit_passes(teacher, spec, available, processes, sharding_wanted()))
    passes = divide(train, world=processes).samples // processes // fit.micro_batch
    again = ", activations recomputed" if fit.gradient_checkpointing else ""
    say(f"{passes} x {fit.micro_batch} samples a step and process fit on {place}{again}.")
    return fit.applied(spec)


def is_left_open(train: TrainSpec) -> bool:
    """Whether there is something to fit: settings that are open, and a GPU."""
    on_gpu = train.device != "cpu" and not on_cpu()
    return on_gpu and "auto" in (train.micro_batch, train.gradient_checkpointing)


def fit_passes(
    teacher: Teacher,
    spec: DistillSpec,
    available: int,
    processes: int = 1,
    sharded: bool = False,
    rewards: Callable[[RefineSpec], Rewards] = blank_rewards,
) -> Fit:
    """What of `micro_batch` and `gradient_checkpointing` is left open, found for a GPU."""
    train = spec.train
    each = divide(train, world=processes).samples // processes
    smallest = wanted = divide(train, world=processes).batch
    if train.micro_batch == "auto":
        smallest, wanted = smallest_divisor(each, spec.least_pass), each
        if spec.auxiliary.share_x_tilde:  # two graphs are in memory at a time
            wanted = max(smallest, largest_divisor(each, each // 2))
    choices = [train.recomputes] if train.gradient_checkpointing != "auto" else [False, True]
    for recomputed in choices:
        in_one = {"batch_size": each, "accumulate": 1, "micro_batch": "auto"}
        whole = train.model_copy(update={**in_one, "gradient_checkpointing": recomputed})
        estimate = estimate_memory(teacher, spec.model_copy(update={"train": whole}), rewards, True)
        if sharded:
            estimate = sharded_estimate(estimate, teacher.backbone, spec, processes)
        fitting = most_at_once(estimate, each, int(USABLE * available))
        if fitting >= smallest:
            return Fit(largest_divisor(each, min(fitting, wanted)), recomputed)
    return Fit(smallest, choices[-1])


def most_at_once(estimate: MemoryEstimate, samples: int, available: int) -> int:
    """The most samples of a pass whose activations leave room for the rest.

    `estimate` is that of all `samples` in one pass.
    """
    spare = available - (estimate.total - estimate.activations)
    return max(0, int(spare / (estimate.activations / samples)))
