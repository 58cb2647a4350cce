"""Soft-Di[M]O (Eq. 10): adversarial and reward losses at the student's logits, beside Di[M]O.

Both look at relaxed tokens: the discriminator through the teacher's soft embeddings, the rewards
through the soft codes of the tokenizer's decoder. Their gradient joins that of Di[M]O in the
student's one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.input_noise import with_noise_of
from dimo_cli.engine.lora import begin_with, trained_part
from dimo_cli.engine.objective import MaskedObjective, Objective, RealTokens, Supplies
from dimo_cli.engine.objectives.gan import GanObjective
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.engine.objectives.reward import RewardObjective, Rewards
from dimo_cli.engine.share import Share
from dimo_cli.engine.step_vectors import with_own_vectors
from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.protocol import Backbone, Teacher


class Refinement(Distillation):
    """A distillation of a student that is there already, with all losses of Soft-Di[M]O."""

    follows_norms = True

    def __init__(
        self,
        teacher: Teacher,
        spec: RefineSpec,
        generator: torch.Generator,
        autocast: Callable[[], AbstractContextManager[None]],
        share: Share | None = None,
        *,
        start: Backbone,
        data: RealTokens | None = None,
        rewards: Rewards | None = None,
        auxiliary: Mapping[str, Tensor] | None = None,
        supplies: Supplies | None = None,
    ) -> None:
        """The student starts from `start`; the auxiliary from the teacher, if it has no weights."""
        losses, relax = refining_objectives(spec, data, rewards or {}), spec.relax
        super().__init__(teacher, spec, generator, autocast, share, losses, relax, supplies)
        check_same_latent(self.student, start)
        begin_with(self.student, with_noise_of(self.student, start))
        if auxiliary is not None:
            psi = trained_part(self.auxiliary)
            psi.load_state_dict(with_own_vectors(psi, auxiliary))


def check_same_latent(student: Backbone, start: Backbone) -> None:
    """Refuse to go on from a student with another network than is asked for."""
    if student.has_latent != start.has_latent:
        raise SpecError(
            f"`student.latent` is {str(student.has_latent).lower()}, and the student to start from "
            f"has {'a' if start.has_latent else 'no'} latent.",
            f"Set `student.latent={str(start.has_latent).lower()}`.",
        )


def refining_objectives(
    spec: RefineSpec, data: RealTokens | None, rewards: Rewards
) -> list[Objective]:
    """The losses that a refinement has, in the order in which they draw."""
    found: list[Objective] = []
    if spec.gan.enabled:
        found.append(GanObjective(spec.gan, spec.relax, data))
    if rewards:
        found.append(RewardObjective(rewards, spec.reward.weight))
    if spec.distill_weight:
        found += named_objectives(spec, spec.distill_weight)
    has_masked = any(isinstance(one, MaskedObjective) for one in found)
    if spec.gan.enabled and spec.gan.weight == "auto" and not has_masked:
        raise SpecError(
            "`gan.weight` is auto, but none of `objectives` asks anything of masked tokens, whose "
            "gradient the adversarial one would be made as long as.",
            "Set `gan.weight` to a number.",
        )
    return found
