"""A step as one CUDA graph: for networks so small that a card waits for Python between kernels.

The host draws what it decides into fixed tensors; everything else of a step is recorded once and
replayed. Every position is projected, masked or not, since a recording cannot change its shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import StepReport
from dimo_cli.engine.prepared import Prepared
from dimo_cli.specs.init import WarmupNoise

WARM_UP = 3  # steps before the recording: kernels are chosen, and all that stays is made
SMALL = 20_000_000  # parameters; the kernels of larger networks take longer than their launch


def obstacle(distillation: Distillation) -> str | None:
    """Why a step cannot be captured; None if it can."""
    spec, share = distillation.spec, distillation.share
    reasons = {
        "it is not on a CUDA device": distillation.run_generator.device.type != "cuda",
        "it has a GAN or rewards": type(distillation) is not Distillation,
        "an objective cannot be recorded": not distillation.losses.can_be_recorded,
        "it has several passes or processes": share.samples != share.batch,
        "`student.steps` are several": not spec.student.in_one_step,
        "`train.dropout` is on": spec.train.dropout,
        "`auxiliary.fresh_samples` is on": spec.auxiliary.fresh_samples,
        "activations are computed again": distillation.student.gradient_checkpointing,
        f"`init.control` is {spec.init.control}": spec.init.control != "none",
        "`init.embed_noise` changes": isinstance(spec.init.embed_noise, WarmupNoise),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)


def is_small(distillation: Distillation) -> bool:
    """Whether a card would wait for Python."""
    return sum(p.numel() for p in distillation.student.parameters()) <= SMALL


class CapturedStep:
    """The step of a distillation, recorded after a few plain ones."""

    def __init__(self, distillation: Distillation, on_note: Callable[[str], None]) -> None:
        """`on_note` is told if recording fails; then every step is a plain one."""
        self.distillation, self.on_note = distillation, on_note
        self.buffers: Prepared | None = None
        self.failed = False
        self.forget()

    def forget(self) -> None:
        """Record again: a checkpoint was loaded, whose moments are in other memory."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.plain_steps = 0
        for optimizer in self.distillation.optimizers().values():
            optimizer.follow_rate_tensor()

    def step(self, step: int, measure: bool = False) -> StepReport:
        """As `Distillation.step`, whose numbers it has but for the order of sums."""
        self.prepare(step)
        if not (self.graph or self.failed) and self.plain_steps >= WARM_UP:
            self.record(step)
        if self.graph is not None and not measure:
            self.graph.replay()
            return StepReport({})
        self.plain_steps += 1
        return self.run(step, measure)

    def prepare(self, step: int) -> None:
        """Bring what the host decides of a step to where the step looks for it."""
        fresh = self.distillation.prepare()
        if self.buffers is None:
            self.buffers = fresh.to(self.distillation.run_generator.device)
        else:
            self.buffers.fill(fresh)
        for optimizer in self.distillation.optimizers().values():
            optimizer.set_rate(step)

    def run(self, step: int, measure: bool = False) -> StepReport:
        """A plain step on what was prepared."""
        self.distillation.prepared = self.buffers
        try:
            return self.distillation.step(step, measure)
        finally:
            self.distillation.prepared = None

    def record(self, step: int) -> None:
        """Record a step without carrying it out."""
        try:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.distillation.run_generator)
            with torch.cuda.graph(graph):
                self.run(step)
        except RuntimeError as error:
            self.failed = True
            for optimizer in self.distillation.optimizers().values():
                optimizer.forget()
            reason = " ".join(str(error).split())[:200]
            self.on_note(f"The step could not be captured and runs as it is: {reason}")
        else:
            self.graph = graph
