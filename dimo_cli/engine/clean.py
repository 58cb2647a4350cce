"""Whole images as tokens, parts of which an objective masks: real ones, the teacher's, its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dimo_cli.engine.draws import on_host, own_generator, samples_among
from dimo_cli.engine.objective import Drawing, Needs, RealTokens, Run
from dimo_cli.errors import SpecError
from dimo_cli.specs.init import FixedRatio
from dimo_cli.specs.objectives import CleanSpec
from dimo_cli.teachers.protocol import Cond


class TeachersImages:
    """The ends of the teacher's pairs."""

    def __init__(self, run: Run, count: int) -> None:
        assert run.supplies.pairs is not None
        self.pairs = run.supplies.pairs(None, count, None)

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Cond]:
        """As `RealTokens.draw`."""
        _, tokens, cond = self.pairs.draw(count, generator, rows)
        return tokens, cond


class CleanTokens:
    """Where a run's whole images come from."""

    def __init__(self, run: Run, spec: CleanSpec) -> None:
        """Nothing is drawn yet."""
        self.run, self.spec = run, spec
        self.found: RealTokens | None = run.supplies.data if spec.images == "data" else None

    def draw(self, step: int) -> tuple[Tensor, Cond]:
        """Tokens [B, L, G] for one of the step's passes, and their conditions."""
        run = self.run
        if self.spec.images == "student":
            generation = run.generate(step, gradients=False)
            return generation.tokens, generation.cond
        if self.found is None and self.spec.images == "teacher":
            self.found = TeachersImages(run, self.spec.teacher_images)
        if self.found is None:
            raise TypeError("an objective learns from images, which the run was not given")
        source = on_host(run.generator)
        total, rows = samples_among(run.spec.train.batch_size, source)
        tokens, cond = self.found.draw(total, own_generator(source), rows)
        return tokens.to(run.generator.device), cond.to(run.generator.device)


def needs_of(spec: CleanSpec) -> Needs:
    """What a run has to have for such images."""
    return Needs(images=spec.images)


def drawings_of(spec: CleanSpec) -> Sequence[Drawing]:
    """What has to be drawn before there are such images."""
    return [Drawing(spec.teacher_images)] if spec.images == "teacher" else []


def check_starts_masked(run: Run, name: str) -> None:
    """Refuse a student that would start from what the objective never shows it."""
    init = run.spec.init
    if init.mask_ratio != FixedRatio(value=1.0) or init.control != "none":
        raise SpecError(
            f"Objective {name} shows the student masks and tokens of images, and `init` lets it "
            "start from something else.",
            "Set `init.mask_ratio=1` and `init.control=none`.",
        )
