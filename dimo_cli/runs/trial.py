"""How long a run would take here: small ones are tried for a moment, large ones are worked out.

A trial carries out real steps in a folder that is thrown away, and measures a few images.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dimo_cli.console.live import PlainView
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.schedules import ema_decay
from dimo_cli.errors import DimoError
from dimo_cli.evaluation.evaluate import read
from dimo_cli.evaluation.yardstick import Stream, Yardstick
from dimo_cli.planning.flops import drawings_of_run
from dimo_cli.planning.hours import H100_PEAK, Hours, seconds_on_h100, share_of_peak
from dimo_cli.planning.plan import Forecast
from dimo_cli.planning.rehearsal import blank_supplies
from dimo_cli.runs.prompts import attach_prompts, without_datasets
from dimo_cli.runs.refine import refining
from dimo_cli.runs.supplies import pair_store
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.sampling.previews import MOST_IMAGES
from dimo_cli.sampling.samplers import Sampler, clock, student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec, reward_names
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.tteo import EMOJI_WEIGHTS, SHAPES_WEIGHTS
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import EMBEDDED, load_whole
from dimo_cli.training.accelerator import make_accelerator
from dimo_cli.training.precision import tf32
from dimo_cli.training.trainer import Trainer

FEWEST_STEPS, MOST_STEPS = 2, 60
TRIED_FOR = 2.0  # seconds of steps
MOST_SAMPLES = 256  # of a step that is tried; what a larger one takes follows
FIRST_IMAGES, TRIED_IMAGES = 8, 100
TRIED_PAIRS = (2, 8)
TRIED_TEACHER = (1, 3)  # steps
MATRIX = 2048
# Of large matrices a card multiplies about 70 % of its peak; a CPU's steps reach half of those.
MATRICES_OF_PEAK, CPU_SHARE = 0.7, 0.5


def hours_of(forecast: Forecast) -> Hours:
    """The time of a run here and on one H100."""
    spec, family = forecast.plan.spec, forecast.family
    on_h100 = seconds_on_h100(family, forecast.total_flops)
    if forecast.launch.total > 1:
        return Hours(None, None, on_h100, "not known: several processes are not tried")
    if forecast.room.advice is not None:
        return Hours(None, None, on_h100, "not known: it does not fit here")
    if spec.teacher.name not in EMBEDDED or not rewards_ship_inside(spec):
        rate = reached(spec, family)
        pairs = forecast.flops_of_pairs / rate if forecast.pairs else None
        how = "worked out from how fast this machine multiplies matrices"
        return Hours(forecast.total_flops / rate, None, on_h100, how, pairs)
    try:
        training, table, pairs = tried(spec)
    except DimoError as problem:
        return Hours(None, None, on_h100, f"not known: {problem.message}")
    return Hours(training + (pairs or 0.0), table, on_h100, "tried for a moment", pairs)


def rewards_ship_inside(spec: DistillSpec) -> bool:
    """Whether nothing has to be downloaded to try a run."""
    inside = SHAPES_WEIGHTS.keys() | EMOJI_WEIGHTS.keys()
    return not isinstance(spec, RefineSpec) or set(reward_names(spec)) <= inside


def reached(spec: DistillSpec, family: str) -> float:
    """FLOP/s that the steps of a family reach on this machine, from what matrices do."""
    device = make_accelerator(spec.train).device
    on_card = device.type == "cuda"
    kind = torch.bfloat16 if on_card else torch.float32
    matrix = torch.ones(MATRIX, MATRIX, dtype=kind, device=device)
    times = [timed(device, lambda: matrix @ matrix) for _ in range(4)]
    rate = 2 * MATRIX**3 / min(times[1:])
    share = share_of_peak(family) / MATRICES_OF_PEAK if on_card else CPU_SHARE
    return min(rate * share, H100_PEAK)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of something."""
    started = clock(device)
    work()
    return clock(device) - started


def tried(spec: DistillSpec) -> tuple[float, float, float | None]:
    """Seconds of all steps with what is between them, of the closing table, and of pairs."""
    spec = without_datasets(spec)
    teacher, silent = load_whole(spec.teacher), PlainView(lambda line: None)
    with TemporaryDirectory() as name:
        folder = Path(name)
        method: Callable[..., Distillation]
        watcher: RunWatcher
        if isinstance(spec, RefineSpec):
            watcher, method = refining(spec, teacher, teacher.backbone, folder, silent)
        else:
            attach_prompts(teacher, spec)
            method = partial(Distillation, supplies=blank_supplies(teacher))
            watcher = RunWatcher(spec, teacher, folder, silent)
        trainer = Trainer(at_most(MOST_SAMPLES, spec), teacher, folder, watcher, method)
        return *times_of(spec, trainer, watcher), seconds_of_pairs(spec, teacher)


def seconds_of_pairs(spec: DistillSpec, teacher: Teacher) -> float | None:
    """Drawing the pairs that are not kept yet; None for a run that needs none."""
    store = pair_store(spec, teacher)
    device = next(teacher.backbone.parameters()).device
    generator = torch.Generator(device)
    times: list[float] = []
    for wanted, rounds in Counter(drawings_of_run(spec)).items():
        drawer = store.drawer(None if wanted.by_teacher else teacher.backbone, wanted.steps)
        # A student's pairs are always drawn anew: it is another one each time.
        count = store.missing(drawer, wanted.count) if wanted.by_teacher else wanted.count
        few = (timed(device, partial(drawer.draw, n, generator)) / n for n in TRIED_PAIRS)
        times.append(min(few) * count * rounds)
    return sum(times) if times else None


def times_of(spec: DistillSpec, trainer: Trainer, watcher: RunWatcher) -> tuple[float, float]:
    """The first two, by a run that was set up and is thrown away."""
    steps, train, monitor = spec.train.steps, spec.train, spec.monitor
    device = trainer.accelerator.device
    done = Steps(trainer, spec)
    logs = due(train.log_every, steps)
    plain = done.seconds(measure=False, at_most=TRIED_FOR)
    training = (steps - logs) * plain + logs * done.seconds(measure=True, at_most=plain)
    student = trainer.averaged
    training += due(train.checkpoint_every, steps) * timed(device, trainer.save)
    drawing = timed(device, lambda: watcher.preview(student))
    training += due(monitor.preview_every, steps) * drawing
    looks = sum(watcher.looks_at(step) for step in range(steps + 1))
    if looks:
        training += looks * timed(device, lambda: watcher.look(0, student))
    yardstick = watcher.yardstick
    if yardstick is None:
        return training, 0.0
    images = yardstick.count(monitor.fid_samples)
    sampler, _ = student_sampler(watcher.as_student(student))
    each = seconds_of_an_image(yardstick, sampler)
    training += due(monitor.fid_every, steps) * images * each
    return training, seconds_of_table(spec, yardstick, each)


def at_most(samples: int, spec: DistillSpec) -> DistillSpec:
    """The spec with no more samples in a step than can be tried in a moment."""
    train = spec.train
    if train.batch_size * train.accumulate <= samples:
        return spec
    update = {"batch_size": min(samples, train.batch_size), "accumulate": 1}
    return spec.model_copy(update={"train": train.model_copy(update=update)})


def due(every: int, steps: int) -> int:
    """How often something is done that is done every so many steps and after the last; 0: never."""
    return steps // every + bool(steps % every) if every else 0


class Steps:
    """Steps from the middle of a run, where every loss has begun, carried out and thrown away."""

    def __init__(self, trainer: Trainer, spec: DistillSpec) -> None:
        tried, wanted = trainer.spec.train, spec.train
        self.trainer, self.first = trainer, wanted.steps // 2
        samples = wanted.batch_size * wanted.accumulate
        self.scale = samples / (tried.batch_size * tried.accumulate)
        self.seconds(measure=False, at_most=0.0)  # the first ones find the memory, and compile

    def seconds(self, *, measure: bool, at_most: float) -> float:
        """The mean of as many as fit into the time, and of two at the least."""
        count, spent = 0, 0.0
        while count < FEWEST_STEPS or (spent < at_most and count < MOST_STEPS):
            spent += timed(self.trainer.accelerator.device, lambda: self.take(measure))
            count += 1
        return spent / count * self.scale

    def take(self, measure: bool) -> None:
        """One step as the trainer takes it."""
        train, average = self.trainer.spec.train, self.trainer.spec.student.ema
        with tf32(train.tf32):
            self.trainer.stepper.step(self.first, measure=measure)
        self.trainer.ema.update(ema_decay(self.first, average.decay, average.warmup))


def seconds_of_table(spec: DistillSpec, yardstick: Yardstick, of_student: float) -> float:
    """The closing table; a teacher's row that is known is timed on one batch."""
    monitor, teacher = spec.monitor, yardstick.teacher
    if not monitor.table_samples:
        return 0.0
    images = yardstick.count(monitor.table_samples)
    batch = min(images, yardstick.subject(images).batch_size)
    total = (images + MOST_IMAGES) * of_student  # a few more are drawn to be looked at
    first, last = (seconds_of_an_image(yardstick, by(teacher, n)[0]) for n in TRIED_TEACHER)
    further = max(0.0, last - first) / (TRIED_TEACHER[1] - TRIED_TEACHER[0])
    for steps in monitor.teacher_steps:
        is_known = yardstick.knows(monitor.table_samples, by(teacher, steps)[1])
        drawn = (batch if is_known else images) + MOST_IMAGES
        total += drawn * (first + further * (steps - TRIED_TEACHER[0]))
    return total


def by(teacher: Teacher, steps: int) -> tuple[Sampler, dict[str, Any]]:
    """A teacher's sampler of so many steps, with its protocol, as the table has it."""
    return teacher_sampler(teacher, SamplerSpec(teacher=True, steps=steps))


def seconds_of_an_image(yardstick: Yardstick, sampler: Sampler) -> float:
    """Drawn and measured, after a few that find the memory."""
    found = 0.0
    for count in (FIRST_IMAGES, TRIED_IMAGES):
        images = yardstick.subject(count).images
        assert isinstance(images, Stream)
        images.sampler, images.wanted = sampler, images.wanted[:count]
        for metric in yardstick.metrics():
            metric.restart(len(images))
        started = time.perf_counter()
        for batch in images.batches(count):
            read(batch, yardstick.readers, yardstick.device)
        found = (time.perf_counter() - started) / len(images)
    return found
