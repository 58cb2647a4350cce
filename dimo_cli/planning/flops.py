"""How much arithmetic a distillation step is, counted on networks without memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from dimo_cli.engine.objective import Drawing, Objective, PassObjective, WholeObjective
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.planning.memory import blank_cond
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Backbone, Teacher


def forward_flops(backbone: Backbone, teacher: Teacher) -> tuple[int, int]:
    """FLOPs of one sample: through the backbone, and of all its positions through the head."""
    space = teacher.space
    tokens = torch.zeros((1, space.length, space.groups), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as body:
        hidden = backbone.hidden(backbone.embed(tokens), blank_cond(teacher, 1))
    assert isinstance(hidden, torch.Tensor)
    with torch.no_grad(), FlopCounterMode(display=False) as head:
        backbone.head(hidden)
    return body.get_total_flops(), head.get_total_flops()


def mean_ratio(schedule: str) -> float:
    """The mean share of masked tokens of a schedule."""
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return float(SCHEDULES[schedule](u).mean())


def flops_per_step(teacher: Teacher, spec: DistillSpec) -> float:
    """FLOPs of one step on one process: forwards, and backwards at twice a forward."""
    body, head = forward_flops(copy.deepcopy(teacher.backbone).to("meta"), teacher)
    named = named_objectives(spec)
    of_passes = [one for one in named if isinstance(one, PassObjective)]
    total = sum(flops_of_passes(one, spec, body + head) for one in of_passes)
    at_x_init = [one for one in named if not isinstance(one, PassObjective)]
    if at_x_init:
        total += flops_at_x_init(at_x_init, spec, body, head)
    return float(total * spec.train.batch_size * spec.train.accumulate)


def flops_of_drawings(teacher: Teacher, spec: DistillSpec) -> float:
    """FLOPs of the pairs that a run's objectives have drawn, wherever none are kept yet."""
    drawings = drawings_of_run(spec)
    if not drawings:
        return 0.0
    whole = sum(forward_flops(copy.deepcopy(teacher.backbone).to("meta"), teacher))
    passes = 2 if teacher.sampler.guidance != 1 else 1  # of a student, which is not guided, 1
    return float(
        sum(
            one.count * (one.steps or teacher.sampler.steps) * (passes if one.by_teacher else 1)
            for one in drawings
        )
        * whole
    )


def drawings_of_run(spec: DistillSpec) -> list[Drawing]:
    """The pairs that a run's objectives have drawn."""
    return [drawing for one in named_objectives(spec) for drawing in one.drawings]


def flops_of_passes(objective: PassObjective, spec: DistillSpec, whole: float) -> float:
    """Of one sample, by an objective that runs the student itself; `whole` is one forward."""
    training = 3 + spec.train.recomputes
    teacher_passes = 2 if spec.teacher.guidance.needs_null else 1
    looks = objective.looks + teacher_passes * objective.teacher_looks
    return whole * (training * objective.trained + looks)


def flops_at_x_init(
    named: Sequence[Objective], spec: DistillSpec, body: float, head: float
) -> float:
    """Of one sample, by objectives that ask for something at x_init."""
    seen = head * mean_ratio(spec.masking.student)  # only masked positions reach the vocabulary
    seen_by_auxiliary = head * mean_ratio(spec.masking.auxiliary)
    training = 3 + spec.train.recomputes  # forward, backward, and the forward again
    teacher_passes = 2 if spec.teacher.guidance.needs_null else 1
    drawing = body + head
    before = spec.student.passes_before * drawing
    whole = [one for one in named if isinstance(one, WholeObjective)]
    student = before + training * body + head + (3 * head if whole else 0)
    looks = sum(one.looks for one in whole) * drawing
    if len(whole) == len(named):  # no masked position is looked at, and there is no auxiliary
        return student + looks
    student += looks + 3 * seen
    judges = (teacher_passes + 1) * (body + seen)
    update = training * body + 3 * seen_by_auxiliary
    if spec.auxiliary.fresh_samples:
        update += before + drawing
    total = student + judges + spec.auxiliary.updates * update
    if spec.auxiliary.share_x_tilde:
        total -= body
    return total
