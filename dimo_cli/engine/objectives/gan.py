"""The adversarial loss (Soft-Di[M]O, Eq. 7 and 8): a discriminator tells the student from data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dimo_cli.engine.bregman import sample_factors
from dimo_cli.engine.draws import on_host, own_generator, samples_among, stacked
from dimo_cli.engine.gan import (
    Discriminator,
    augmentation_mask,
    discriminator_loss,
    generator_loss,
    masked_embeds,
)
from dimo_cli.engine.objective import (
    Generation,
    RealTokens,
    Run,
    Seen,
    SoftLoss,
    SoftObjective,
)
from dimo_cli.engine.one_step import draw_tokens
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.relax import one_hots, relaxed
from dimo_cli.engine.share import mean_over_ranks
from dimo_cli.specs.refine import GanSpec, RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond, moved


@dataclass(slots=True)
class Judged:
    """A generation that the discriminator is still to learn from."""

    real: Tensor
    fake: Tensor
    """The student's token weights [B, L, G, V], without a graph."""
    cond: Cond


class GanObjective(SoftObjective):
    """The student against a discriminator with the teacher as feature extractor."""

    name = "gan"
    can_be_recorded = True

    def __init__(self, spec: GanSpec, relax: RelaxSpec, data: RealTokens | None) -> None:
        self.spec, self.relax, self.data = spec, relax, data
        self.step, self.alike_from = 0, spec.first_step
        self.prepared: Mapping[str, Tensor] | None = None
        self.judged: list[Judged] = []
        self.real: Tensor | None = None
        self.fake_logits: Tensor | None = None
        """What the discriminator said of the student's last pass [B], before it learned of it."""

    def attach(self, run: Run) -> None:
        self.run, spec = run, self.spec
        self.discriminator = Discriminator(
            run.teacher,
            heads=spec.heads,
            width=spec.width,
            dropout=spec.dropout,
            noise=spec.feature_noise,
        ).at(run.generator.device)
        self.optimizer = NetworkOptimizer(self.discriminator, spec.optimizer, run.spec.train.steps)

    def networks(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator}

    def optimizers(self) -> dict[str, NetworkOptimizer]:
        return {"discriminator": self.optimizer}

    def backbones(self) -> list[Backbone]:
        return [self.discriminator.backbone]

    def begin(self, step: int) -> None:
        self.step, self.judged, self.fake_logits = step, [], None

    def conditions(self, count: int) -> Cond | None:
        """Real and generated images share their conditions (H.3), so the data decides them."""
        if self.data is None:
            return None
        source = on_host(self.run.generator)
        total, rows = samples_among(count, source)
        real, cond = self.data.draw(total, own_generator(source), rows)
        self.real = moved(real, self.run.generator.device)
        return cond

    def loss_of(self, generation: Generation, logits: Tensor) -> SoftLoss | None:
        cond = generation.cond
        if self.real is not None:
            self.judged.append(Judged(self.real, self.fake(logits.detach()), cond))
        if self.step < self.spec.first_step:
            return None
        return lambda weights: self.loss(weights, cond)

    def factor(self) -> Tensor | float:
        """w_GAN; automatic: what gives its gradient the norm of Di[M]O's.

        Until both norms were seen it is 0.
        """
        if self.spec.weight != "auto":
            return float(self.spec.weight)
        distill, gan = self.run.norm("distill"), self.run.norm("gan")
        return torch.where((distill > 0) & (gan > 0), distill / gan, 0.0)

    def fake(self, logits: Tensor) -> Tensor:
        """The token weights that the discriminator is to tell from real tokens.

        They are relaxed as for the student: else it would learn what relaxing looks like.
        """
        relax, generator = self.relax, self.run.generator
        if relax.kind == "reinforce":
            return one_hots(draw_tokens(logits / relax.temperature, generator), logits)
        return relaxed(relax.kind, logits, generator, relax.temperature)

    def loss(self, weights: Tensor, cond: Cond) -> Tensor:
        """Eq. 8 for each sample, under a mask of its own."""
        embeds = self.masked(weights, self.mask("asked", len(weights)))
        logits = self.discriminator(embeds, cond, self.run.generator)
        self.fake_logits = logits.detach()
        return generator_loss(logits)

    def weigh(self, weights: Tensor) -> Tensor:
        """Di-Bregman: by how much likelier the student is to draw a sample than the data."""
        divergence = self.spec.bregman
        if divergence == "reverse_kl" or self.fake_logits is None:
            return weights
        factors, mean, share = sample_factors(divergence, self.fake_logits)
        self.run.log("bregman_weight", mean)
        self.run.log("bregman_effective_share", share)
        return weights * factors

    def prepare_ask(self, count: int) -> Mapping[str, Tensor]:
        real = {"real": self.real} if self.real is not None else {}
        return real | {"asked": self.draw_mask(count)}

    def prepare_follow(self, count: int) -> Mapping[str, Tensor]:
        return {"followed": self.draw_mask(count)}

    def take(self, prepared: Mapping[str, Tensor] | None) -> None:
        self.prepared = prepared
        if prepared is not None:
            self.real = prepared.get("real")

    def mask(self, name: str, count: int) -> Tensor:
        """A mask of the student's pass or of the discriminator's, drawn now or beforehand."""
        return self.draw_mask(count) if self.prepared is None else self.prepared[name]

    def draw_mask(self, count: int) -> Tensor:
        """Slots to be masked before the discriminator looks, r ~ U[mask_low, mask_high]."""
        space, spec = self.run.teacher.space, self.spec
        return augmentation_mask(space, count, spec.mask_low, spec.mask_high, self.run.generator)

    def masked(self, tokens_or_weights: Tensor, mask: Tensor) -> Tensor:
        """Embeddings with masked slots, as the teacher's backbone knows them."""
        teacher = self.run.teacher
        # A sum over thousands of small probabilities is not for half precision.
        with torch.autocast(mask.device.type, enabled=False):
            return masked_embeds(teacher.backbone, teacher.space, tokens_or_weights, mask)

    def follow(self, step: int, measure: bool) -> Seen:
        """Train the discriminator (Eq. 7): real and fake under the same masks and conditions."""
        run = self.run
        values: dict[str, Tensor | float] = {}
        if measure and self.spec.weight == "auto":
            values["gan_weight"] = self.factor()
        for index, judged in enumerate(self.judged):
            run.turn_to(index)
            mask = self.mask("followed", len(judged.real))
            with run.autocast():
                both = torch.cat([self.masked(judged.real, mask), self.masked(judged.fake, mask)])
                cond = Cond.cat([judged.cond, judged.cond])
                source = stacked(run.generator, 2)
                real, fake = self.discriminator(both, cond, source).float().chunk(2)
                loss = discriminator_loss(real, fake)
                (loss / len(self.judged)).backward()
        (loss,) = mean_over_ranks([loss])
        norm = self.optimizer.update(step, unless=run.verdict.found_inf)
        if run.verdict.refuses("discriminator", norm, loss):
            return Seen({"discriminator_loss": loss}, skipped="discriminator")
        if measure:
            values |= {
                "discriminator_loss": loss.detach(),
                "real_logit": real.detach().mean(),
                "fake_logit": fake.detach().mean(),
            }
        return Seen(values)
