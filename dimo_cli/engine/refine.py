"""Soft-Di[M]O (Eq. 10): adversarial and reward losses at the student's logits, beside Di[M]O.

Both look at relaxed tokens: the discriminator through the teacher's soft embeddings, the rewards
through the soft codes of the tokenizer's decoder. Their gradient joins that of Di[M]O in the
student's one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dimo_cli.engine.distill import Distillation, Generation, SharedMask, StepReport
from dimo_cli.engine.draws import on_host, own_generator, samples_among, stacked
from dimo_cli.engine.gan import (
    Discriminator,
    augmentation_mask,
    discriminator_loss,
    generator_loss,
    masked_embeds,
)
from dimo_cli.engine.lora import begin_with, trained_part
from dimo_cli.engine.one_step import draw_tokens
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.relax import estimate, one_hots, relaxed
from dimo_cli.engine.share import Share, mean_over_ranks
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher, moved

NORM_MEMORY = 0.9  # of the running gradient norms behind an automatic weight


class RealTokens(Protocol):
    """Real images as tokens, with what they are images of."""

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Cond]:
        """`rows` of `count` random tokens [B, L, G] and their conditions, where they were drawn."""


Rewards = Mapping[str, tuple[Callable[[Tensor, Sequence[str]], Tensor], float]]
"""By name: scores [B] of images [B, 3, H, W] for their prompts, and the weight of the score."""


@dataclass(slots=True)
class Judged:
    """A generation that the discriminator is still to learn from."""

    real: Tensor
    fake: Tensor
    """The student's token weights [B, L, G, V], without a graph."""
    cond: Cond


class RunningNorm:
    """The norm of a gradient, averaged over the last steps, on the device; NaN: none seen yet."""

    def __init__(self) -> None:
        self.value = torch.tensor(torch.nan, dtype=torch.float64)

    def see(self, norm: Tensor) -> None:
        """Blend in the norm of this step; what is not finite is not remembered."""
        norm = norm.double()
        value = moved(self.value, norm.device)
        before = torch.where(value.isnan(), norm, value)
        blended = NORM_MEMORY * before + (1 - NORM_MEMORY) * norm
        self.value = torch.where(norm.isfinite(), blended, value)


class Refinement(Distillation):
    """Di[M]O with further losses on the student, and a discriminator where one is asked for."""

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
    ) -> None:
        """The student starts from `start`; the auxiliary from the teacher, if it has no weights."""
        self.refine, self.data, self.rewards = spec, data, rewards or {}
        super().__init__(teacher, spec, generator, autocast, share)
        begin_with(self.student, start)
        if auxiliary is not None:
            trained_part(self.auxiliary).load_state_dict(auxiliary)
        self.steps_done = 0
        self.norms = {name: RunningNorm() for name in ("distill", "gan", "reward")}
        self.seen: dict[str, Tensor] = {}
        self.judged: list[Judged] = []
        self.squares: dict[str, Tensor] = {}
        self.real: Tensor | None = None
        self.discriminator: Discriminator | None = None
        if spec.gan.enabled:
            self.discriminator = Discriminator(
                teacher,
                heads=spec.gan.heads,
                width=spec.gan.width,
                dropout=spec.gan.dropout,
                noise=spec.gan.feature_noise,
            ).at(generator.device)
            self.discriminator_optimizer = NetworkOptimizer(
                self.discriminator, spec.gan.optimizer, spec.train.steps
            )

    def backbones(self) -> list[Backbone]:
        more = [self.discriminator.backbone] if self.discriminator else []
        return [*super().backbones(), *more]

    def networks(self) -> dict[str, nn.Module]:
        more = {"discriminator": self.discriminator} if self.discriminator else {}
        return {**super().networks(), **more}

    def suspects(self) -> list[str]:
        return [name for name, value in self.seen.items() if not math.isfinite(value.item())]

    def state(self) -> dict[str, float]:
        return self.norm_values()

    def norm_values(self) -> dict[str, float]:
        """The norms that were seen, as numbers; it waits for the card."""
        values = {name: norm.value.item() for name, norm in self.norms.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def load_state(self, state: dict[str, float]) -> None:
        for name, norm in self.norms.items():
            norm.value = torch.tensor(state.get(name, torch.nan), dtype=torch.float64)

    def optimizers(self) -> dict[str, NetworkOptimizer]:
        more = {"discriminator": self.discriminator_optimizer} if self.discriminator else {}
        return {**super().optimizers(), **more}

    @property
    def uses_auxiliary(self) -> bool:
        return bool(self.refine.distill_weight)

    def draw_conditions(self, count: int) -> Cond:
        """Real and generated images share their conditions (H.3), so the data decides them."""
        if self.discriminator is None or self.data is None:
            return super().draw_conditions(count)
        source = on_host(self.generator)
        total, rows = samples_among(count, source)
        real, cond = self.data.draw(total, own_generator(source), rows)
        self.real = moved(real, self.generator.device)
        return cond

    def step(self, step: int, measure: bool = False) -> StepReport:
        """Update student, auxiliary and discriminator, in the order of Algorithm 1."""
        self.steps_done, self.judged, self.squares = step, [], {}
        return super().step(step, measure)

    def backward_student(
        self, generation: Generation, measure: bool
    ) -> tuple[Tensor, SharedMask | None]:
        """The gradients of all losses (Eq. 10), in one backward pass through the student."""
        generation.extra_gradient = self.soft_gradient(generation)
        if not self.refine.distill_weight:
            generation.hidden.backward(generation.extra_gradient)
            return torch.zeros((), device=generation.tokens.device), None
        return super().backward_student(generation, measure)

    def see_logit_gradient(self, gradient: Tensor) -> None:
        self.see_squares("distill", gradient * self.spec.train.accumulate)

    def see_squares(self, name: str, gradient: Tensor) -> None:
        """Add what a loss asks of a pass's logits, as the mean over its samples, to its norm."""
        self.squares[name] = self.squares.get(name, 0) + gradient.square().sum()

    def see_norms(self) -> None:
        """Remember how much each loss asked of all logits of the step, in whichever rank."""
        names = sorted(self.squares)
        ranks = self.share.samples // (self.share.batch * self.share.passes)
        for name, squares in zip(
            names, mean_over_ranks([self.squares[name] for name in names]), strict=True
        ):
            passes = self.share.passes * ranks
            self.norms[name].see((squares.double() * ranks).sqrt() / passes)

    def sample_weights(self, *args: Any) -> Tensor:
        """w(t) of each sample, times the weight of the Di[M]O loss."""
        return super().sample_weights(*args) * self.refine.distill_weight

    def soft_gradient(self, generation: Generation) -> Tensor:
        """What GAN and rewards ask of the hidden states [B, L, D]; the head gets its share too.

        Each loss is differentiated to the logits alone, which also gives its norm there.
        """
        leaf = generation.hidden.detach().requires_grad_()
        with self.autocast():
            logits = self.student.head(leaf).float()
            flat = logits.detach().requires_grad_()
            if self.discriminator is not None and self.real is not None:
                self.judged.append(Judged(self.real, self.fake(flat.detach()), generation.cond))
            total = torch.zeros_like(flat)
            for name, objective in self.objectives(generation.cond).items():
                surrogate, values = estimate(
                    self.refine.relax.kind,
                    flat,
                    objective,
                    self.generator,
                    self.refine.relax.temperature,
                )
                (gradient,) = torch.autograd.grad(surrogate / len(flat), flat)
                self.see_squares(name, gradient)
                self.seen[f"{name}_loss"] = values.mean()
                total += self.weight_of(name) * gradient
            logits.backward(total / self.spec.train.accumulate)
        assert leaf.grad is not None
        return leaf.grad

    def fake(self, logits: Tensor) -> Tensor:
        """The token weights that the discriminator is to tell from real tokens.

        They are relaxed as for the student: else it would learn what relaxing looks like.
        """
        relax = self.refine.relax
        if relax.kind == "reinforce":
            return one_hots(draw_tokens(logits / relax.temperature, self.generator), logits)
        return relaxed(relax.kind, logits, self.generator, relax.temperature)

    def objectives(self, cond: Cond) -> dict[str, Callable[[Tensor], Tensor]]:
        """The losses [B] of token weights [B, L, G, V] that are on at this step."""
        found: dict[str, Callable[[Tensor], Tensor]] = {}
        if self.discriminator is not None and self.steps_done >= self.refine.gan.first_step:
            found["gan"] = lambda weights: self.gan_loss(weights, cond)
        if self.rewards:
            found["reward"] = lambda weights: self.reward_loss(weights, cond)
        return found

    def weight_of(self, name: str) -> Tensor | float:
        """w_GAN or w_reward; automatic: what gives the gradient the norm of Di[M]O's.

        Until both norms were seen it is 0.
        """
        weight = self.refine.gan.weight if name == "gan" else self.refine.reward.weight
        if weight != "auto":
            return float(weight)
        distill, gan = self.norms["distill"].value, self.norms["gan"].value
        return torch.where((distill > 0) & (gan > 0), distill / gan, 0.0)

    def gan_loss(self, weights: Tensor, cond: Cond) -> Tensor:
        """Eq. 8 for each sample, under a mask of its own."""
        assert self.discriminator is not None
        embeds = self.masked(weights, self.draw_mask(len(weights)))
        return generator_loss(self.discriminator(embeds, cond, self.generator))

    def reward_loss(self, weights: Tensor, cond: Cond) -> Tensor:
        """Eq. 9 for each sample: minus the weighted sum of rewards of the decoded image."""
        images = self.teacher.tokenizer.decode_probs(weights, cond)
        total = torch.zeros(len(images), device=images.device)
        for name, (score, factor) in self.rewards.items():
            scores = score(images, cond.texts)
            self.seen[f"reward_{name}"] = scores.detach().mean()
            total = total - factor * scores
        return total

    def draw_mask(self, count: int) -> Tensor:
        """Slots to be masked before the discriminator looks, r ~ U[mask_low, mask_high]."""
        gan = self.refine.gan
        return augmentation_mask(
            self.teacher.space, count, gan.mask_low, gan.mask_high, self.generator
        )

    def masked(self, tokens_or_weights: Tensor, mask: Tensor) -> Tensor:
        """Embeddings with masked slots, as the teacher's backbone knows them."""
        # A sum over thousands of small probabilities is not for half precision.
        with torch.autocast(mask.device.type, enabled=False):
            return masked_embeds(self.teacher.backbone, self.teacher.space, tokens_or_weights, mask)

    def update_others(self, step: int, measure: bool) -> StepReport:
        """Train the discriminator (Eq. 7): real and fake under the same masks and conditions."""
        self.see_norms()
        values = self.measured() if measure else {}
        if self.discriminator is None:
            return StepReport(values)
        for index, judged in enumerate(self.judged):
            self.turn_to(index)
            mask = self.draw_mask(len(judged.real))
            with self.autocast():
                both = torch.cat([self.masked(judged.real, mask), self.masked(judged.fake, mask)])
                cond = Cond.cat([judged.cond, judged.cond])
                source = stacked(self.generator, 2)
                real, fake = self.discriminator(both, cond, source).float().chunk(2)
                loss = discriminator_loss(real, fake)
                (loss / len(self.judged)).backward()
        (loss,) = mean_over_ranks([loss])
        norm = self.discriminator_optimizer.update(step, unless=self.verdict.found_inf)
        if self.verdict.refuses("discriminator", norm, loss):
            return StepReport({"discriminator_loss": loss.item()}, skipped="discriminator")
        if measure:
            values |= {
                "discriminator_loss": loss.item(),
                "real_logit": real.mean().item(),
                "fake_logit": fake.mean().item(),
            }
        return StepReport(values)

    def measured(self) -> dict[str, float]:
        """Losses, scores and norms of this step as numbers; it waits for the card."""
        values = {name: value.item() for name, value in self.seen.items()}
        values |= self.measured_norms()
        if self.refine.gan.weight == "auto" and self.discriminator is not None:
            values["gan_weight"] = float(self.weight_of("gan"))
        return values

    def measured_norms(self) -> dict[str, float]:
        """What each loss asks of the logits: as it is, with its weight, and against Di[M]O's."""
        norms = self.norm_values()
        values = {f"{name}_norm": value for name, value in norms.items()}
        distill = norms.pop("distill", 0.0)  # its weight is in it already
        for name, norm in norms.items():
            weighted = float(self.weight_of(name)) * norm
            values[f"weighted_{name}_norm"] = weighted
            if distill:
                values[f"{name}_ratio"] = weighted / distill
        return values
