"""FPD (arXiv 2605.21484): the student's images should be fixed points of the teacher's step.

The student's tokens x are masked again at a ratio r, and the teacher fills them in once: y. Were
the student's images the teacher's, y would be as likely as x. So the features of x are to drift to
those of y, and away from those of the student's other images (`drift`); the gradient gets through
the drawn tokens straight, as if they were the student's probabilities.

A teacher fills masks independently, so what a step leaves as it is is not its joint law but where
r masks single tokens: smaller ratios are more exact. The features are those of the teacher's own
layers, as its discriminator sees them (`gan`), averaged over a grid; the paper decodes images and
takes DINOv3's. The law of r, its schedule and the guidance in the step are not published: r is
fixed, and the guidance that of `teacher.guidance`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dimo_cli.engine.draws import Source
from dimo_cli.engine.drift import drifting_field, drifting_loss
from dimo_cli.engine.field import guided, log_probs
from dimo_cli.engine.gan import even_taps, layer_sizes, plane_of
from dimo_cli.engine.masking import Mask, draw_mask
from dimo_cli.engine.objective import Generation, Run, WholeObjective
from dimo_cli.engine.one_step import draw_tokens
from dimo_cli.engine.relax import one_hots
from dimo_cli.engine.teacher_pass import TeacherPass
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import FpdSpec
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Cond


def straight_through(logits: Tensor, tokens: Tensor) -> Tensor:
    """Drawn tokens [B, L, G] as weights [B, L, G, V], with the gradient of the probabilities."""
    soft = logits.softmax(-1)
    return one_hots(tokens, soft) + (soft - soft.detach())


def grid_means(features: Tensor, plane: tuple[int, int] | None, side: int) -> Tensor:
    """Features [B, n, D] averaged over a grid of side x side, as sets [cells, B, D].

    Tokens without a place in the plane are averaged over as many parts of their row.
    """
    x = features.transpose(1, 2)
    if plane is None:
        means = F.adaptive_avg_pool1d(x, min(x.shape[-1], side * side))
    else:
        rows, columns = (min(side, length) for length in plane)
        means = F.adaptive_avg_pool2d(x.unflatten(-1, plane), (rows, columns)).flatten(2)
    return means.permute(2, 0, 1)


class Fpd(WholeObjective):
    """Features drift to those of what the teacher makes of the student's images."""

    name = "fpd"
    looks = 5  # the teacher's step, its look at x, that again and back, and its look at y

    def __init__(self, settings: FpdSpec, weight: float = 1.0) -> None:
        self.settings, self.weight = settings, weight

    def attach(self, run: Run) -> None:
        super().attach(run)
        sizes, grid = layer_sizes(run.teacher.backbone, run.teacher), run.teacher.space.grid
        self.taps = even_taps(len(sizes), min(self.settings.layers, len(sizes)))
        self.planes = [plane_of(sizes[tap][0], grid) if grid else None for tap in self.taps]
        self.pass_of = TeacherPass(run.teacher, run.spec.teacher.guidance)

    def factor(self) -> float:
        return self.weight

    def ask(
        self, generation: Generation, logits: Tensor, relax: RelaxSpec, generator: Source
    ) -> tuple[Tensor, Tensor] | None:
        tokens, cond = generation.tokens, generation.cond
        better = one_hots(self.refined(tokens, cond), logits)
        with torch.no_grad():
            wanted = self.features(better, cond)
        with torch.enable_grad():
            found = self.features(straight_through(logits, tokens), cond)
            loss = sum_of_drifts(found, wanted)
        (gradient,) = torch.autograd.grad(loss, logits)
        return gradient, loss.detach().expand(len(tokens))

    @torch.no_grad()
    def refined(self, tokens: Tensor, cond: Cond) -> Tensor:
        """y [B, L, G]: one step of the teacher on the tokens, masked again at the ratio r."""
        run, space = self.run, self.run.teacher.space
        ratio = torch.full((len(tokens),), self.settings.ratio)
        mask = Mask.of(draw_mask(tokens.shape, ratio, run.generator), tokens.device)
        x_tilde = tokens.masked_fill(mask.slots, space.mask_id)
        project = self.pass_of.logits(run.teacher.backbone.embed(x_tilde), cond, ratio)
        everywhere = torch.arange(tokens.shape[0] * tokens.shape[1], device=tokens.device)
        log_p = log_probs(guided(project(everywhere)), run.spec.loss.teacher_temperature)
        log_p[..., space.codes :] = -torch.inf
        drawn = draw_tokens(log_p.view(*tokens.shape, -1), run.generator)
        return torch.where(mask.slots, drawn, tokens)

    def features(self, weights: Tensor, cond: Cond) -> list[Tensor]:
        """Of token weights [B, L, G, V], for each layer sets [cells, B, D]."""
        backbone = self.run.teacher.backbone
        # A sum over thousands of small probabilities is not for half precision.
        with torch.autocast(weights.device.type, enabled=False):
            embeds = backbone.embed_probs(weights)
        _, tapped = backbone.hidden(embeds, backbone.prepared(cond), self.taps)
        # Layers differ in scale by far, and distances are to say the same in all of them.
        return [
            grid_means(F.layer_norm(layer.float(), layer.shape[-1:]), plane, self.settings.cells)
            for layer, plane in zip(tapped, self.planes, strict=True)
        ]


def sum_of_drifts(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The drifting losses of all layers, each the mean over its cells."""
    total = torch.zeros((), device=found[0].device)
    for here, there in zip(found, wanted, strict=True):
        total = total + drifting_loss(here, *drifting_field(here.detach(), there)).mean()
    return total


def build(spec: DistillSpec, weight: float, **settings: Any) -> Fpd:
    """The objective of `kind: fpd`."""
    return Fpd(FpdSpec.model_validate(settings), weight)
