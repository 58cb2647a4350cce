"""A step as one CUDA graph: where a card waits for Python between kernels.

The host draws what it decides into fixed tensors; everything else of a step is recorded once and
replayed. Every position is projected, masked or not, since a recording cannot change its shapes.
Whether a card waits is known of small networks, and found out by the clock for large ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Seen, StepReport
from dimo_cli.engine.prepared import Prepared
from dimo_cli.specs.init import WarmupNoise

WARM_UP = 3  # steps before the recording: kernels are chosen, and all that stays is made
SMALL = 20_000_000  # parameters; with more, it depends on batch and depth whether a card waits
WAITING = 0.05  # of a step: what a card may still have to do when Python is through with it
REPLAYS = 3  # by the clock, before a recording is kept
FASTER = 0.97


def obstacle(distillation: Distillation) -> str | None:
    """Why a step cannot be captured; None if it can."""
    spec, share = distillation.spec, distillation.share
    varying = distillation.losses.never_alike
    reasons = {
        "it is not on a CUDA device": distillation.run_generator.device.type != "cuda",
        f"{' and '.join(varying)} cannot be recorded": bool(varying),
        "it has several passes or processes": share.samples != share.batch,
        "`student.steps` are several": not spec.student.in_one_step,
        "activations are computed again": distillation.student.gradient_checkpointing,
        f"`init.control` is {spec.init.control}": spec.init.control != "none",
        "`init.embed_noise` changes": isinstance(spec.init.embed_noise, WarmupNoise),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)


def is_small(distillation: Distillation) -> bool:
    """Whether a card would wait for Python, without asking."""
    return sum(p.numel() for p in distillation.student.parameters()) <= SMALL


class CapturedStep:
    """The step of a distillation, recorded after a few plain ones; measured steps once more."""

    def __init__(
        self, distillation: Distillation, on_note: Callable[[str], None], on_trial: bool = False
    ) -> None:
        """`on_note` is told if recording fails; then every step is a plain one.

        `on_trial`: record only if the card waits for Python, and keep that only if it is faster,
        which is told as well.
        """
        self.distillation, self.on_note = distillation, on_note
        self.device = distillation.run_generator.device
        self.trial = Trial() if on_trial else None
        self.buffers: Prepared | None = None
        self.is_given_up = False
        self.forget()

    def forget(self) -> None:
        """Record again: a checkpoint was loaded, whose moments are in other memory."""
        self.recordings: dict[bool, Recording] = {}
        self.plain_steps = {False: 0, True: 0}
        for optimizer in self.distillation.optimizers().values():
            optimizer.follow_rate_tensor()

    def step(self, step: int, measure: bool = False) -> StepReport:
        """As `Distillation.step`, whose numbers it has but for the order of sums."""
        self.set_rates(step)
        if self.is_given_up or step < self.distillation.losses.alike_from:
            return self.distillation.step(step, measure)
        prepared = self.prepare()
        is_on_trial = self.trial is not None and not self.trial.is_over
        if prepared is not self.buffers or (measure and is_on_trial):
            return self.run(prepared, step, measure).read()
        if self.plain_steps[measure] < WARM_UP:
            self.plain_steps[measure] += 1
            return self.run(prepared, step, measure).read()
        if self.trial is not None and is_on_trial:
            return self.try_out(self.trial, prepared, step)
        return self.replay(prepared, step, measure).read()

    def set_rates(self, step: int) -> None:
        """Bring the learning rates to where a recording looks for them."""
        for optimizer in self.distillation.optimizers().values():
            optimizer.set_rate(step)

    def prepare(self) -> Prepared:
        """What the host decides of a step: the recording's own tensors, filled, if it fits them."""
        fresh = self.distillation.prepare()
        if self.buffers is None:
            self.buffers = fresh.to(self.device)
        elif self.buffers.fits(fresh):
            self.buffers.fill(fresh)
        else:
            return fresh.to(self.device)
        return self.buffers

    def run(self, prepared: Prepared, step: int, measure: bool = False) -> Seen:
        """A plain step on what was prepared."""
        self.distillation.take(prepared)
        try:
            return self.distillation.carry_out(step, measure)
        finally:
            self.distillation.take(None)

    def replay(self, prepared: Prepared, step: int, measure: bool = False) -> Seen:
        """A recorded step; or a plain one, where there is no recording of it."""
        if measure not in self.recordings:
            self.record(prepared, step, measure)
        if measure not in self.recordings:
            return self.run(prepared, step, measure)
        recording = self.recordings[measure]
        recording.graph.replay()
        return recording.seen

    def try_out(self, trial: Trial, prepared: Prepared, step: int) -> StepReport:
        """A step of which the time is taken, plain or replayed, and what follows from that."""
        if trial.plain is None:
            seen, trial.plain = timed(lambda: self.run(prepared, step), self.device)
            if not trial.plain.is_waiting:
                self.give_up()
            return seen.read()
        if False not in self.recordings:
            self.record(prepared, step, measure=False)
        if self.is_given_up:
            return self.run(prepared, step).read()
        seen, seconds = timed(lambda: self.replay(prepared, step), self.device)
        trial.replays.append(seconds.in_all)
        if trial.is_over and trial.is_won:
            self.on_note(
                "The card waited for Python: steps are recorded and replayed from now on, in "
                f"{trial.ratio:.2f} of the time."
            )
        elif trial.is_over:
            self.give_up()
        return seen.read()

    def record(self, prepared: Prepared, step: int, measure: bool) -> None:
        """Record a step without carrying it out; all recordings compute in the same memory."""
        others = [recording.graph.pool() for recording in self.recordings.values()]
        try:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.distillation.run_generator)
            with torch.cuda.graph(graph, pool=others[0] if others else None):
                seen = self.run(prepared, step, measure)
        except RuntimeError as error:
            for optimizer in self.distillation.optimizers().values():
                optimizer.forget()
            self.give_up()
            reason = " ".join(str(error).split())[:200]
            self.on_note(f"The step could not be captured and runs as it is: {reason}")
        else:
            self.recordings[measure] = Recording(graph, seen)

    def give_up(self) -> None:
        """Carry out every step as it is written from now on, and free what recordings held."""
        self.is_given_up = True
        self.recordings.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded step, and where it leaves what it has measured."""

    graph: torch.cuda.CUDAGraph
    seen: Seen


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long a step took: until Python was through with it, and until the card was."""

    issued: float
    in_all: float

    @property
    def is_waiting(self) -> bool:
        """Whether the card was through as soon as Python: then it had waited for it all along."""
        return self.in_all - self.issued <= WAITING * self.in_all


@dataclass(slots=True)
class Trial:
    """Whether a recording is worth its memory: a plain step by the clock, then some replays."""

    plain: Seconds | None = None
    replays: list[float] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether enough was seen."""
        return len(self.replays) >= REPLAYS

    @property
    def ratio(self) -> float:
        """The time of a replay over that of a plain step."""
        assert self.plain is not None
        return min(self.replays) / self.plain.in_all

    @property
    def is_won(self) -> bool:
        """Whether replays are faster by more than clocks differ."""
        return self.ratio < FASTER


def timed(call: Callable[[], Seen], device: torch.device) -> tuple[Seen, Seconds]:
    """A call and its time, with nothing else on the card."""
    wait_for(device)
    started = time.perf_counter()
    seen = call()
    issued = time.perf_counter() - started
    wait_for(device)
    return seen, Seconds(issued, time.perf_counter() - started)


def wait_for(device: torch.device) -> None:
    """Wait until a card has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
