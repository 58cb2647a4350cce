"""Adversarial refinement (Soft-Di[M]O, section 3.2.1): the teacher looks, light heads judge.

The discriminator sees embeddings, some of them masked: soft ones of the student, one-hot ones of
real images. The frozen teacher makes features of them at several depths.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.engine.draws import Source, normal, on_host, uniform
from dimo_cli.engine.lora import shared_view
from dimo_cli.engine.masking import exact_mask
from dimo_cli.errors import SpecError
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher, TokenSpace, moved

WIDEST = 1024  # gives about the sizes of Table 5: 72 M for MaskGit, 85 M for MaskBit, 65 M MaskGen


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Eq. 7 for the discriminator: the mean of -log D(real) - log(1 - D(fake))."""
    return (F.softplus(-real_logits) + F.softplus(fake_logits)).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Eq. 8, the non-saturating loss of the student, [B]: -log D(fake) of each sample."""
    return F.softplus(-fake_logits)


def augmentation_mask(
    space: TokenSpace, count: int, lowest: float, highest: float, generator: Source
) -> Tensor:
    """Masks [B, L, G] at ratios r ~ U[lowest, highest], one ratio a sample.

    Real and fake embeddings are to get the same mask (H.3), so it is drawn apart from both.
    """
    source = on_host(generator)
    ratio = uniform((count,), source)
    ratio = lowest + (highest - lowest) * ratio
    slots = space.length * space.groups
    mask = exact_mask(torch.round(ratio * slots).long(), slots, source)
    return moved(mask.view(count, space.length, space.groups), generator.device)


def masked_embeds(
    backbone: Backbone, space: TokenSpace, tokens_or_probs: Tensor, mask: Tensor
) -> Tensor:
    """Emb(.)_r [B, L, D]: tokens [B, L, G] or probabilities [B, L, G, V] with masked slots."""
    if tokens_or_probs.is_floating_point():
        return backbone.embed_probs(tokens_or_probs, mask)
    return backbone.embed(tokens_or_probs.masked_fill(mask, space.mask_id))


def even_taps(depth: int, count: int) -> tuple[int, ...]:
    """`count` layers evenly spaced over `depth`, the last among them."""
    if count > depth:
        raise SpecError(f"`gan.heads` is {count}, but this teacher has {depth} layers to tap.")
    return tuple(math.ceil((index + 1) * depth / count) - 1 for index in range(count))


@torch.no_grad()
def layer_sizes(backbone: Backbone, teacher: Teacher) -> list[tuple[int, int]]:
    """(length, width) of what each layer puts out, found by sending one sample through."""
    device = next(backbone.parameters()).device
    shape = (1, teacher.space.length, teacher.space.groups)
    embeds = backbone.embed(torch.zeros(shape, dtype=torch.long, device=device))
    with torch.device("cpu"):  # planners build all of this under the meta device
        cond = teacher.conditioner.blank(1)
    _, outputs = backbone.hidden(embeds, cond.to(device), range(sys.maxsize))
    return [(output.shape[1], output.shape[2]) for output in outputs]


def plane_of(length: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a layer that sees the grid at its own or a coarser resolution."""
    rows, columns = grid
    factor = math.isqrt(rows * columns // length) if length else 0
    if factor == 0 or rows % factor or columns % factor or rows * columns != length * factor**2:
        raise SpecError(f"A layer of {length} positions does not fit the grid {rows} x {columns}.")
    return rows // factor, columns // factor


class Head(nn.Module):
    """Convolutions over one layer's features, averaged over all positions."""

    def __init__(
        self, features: int, width: int, layers: int, plane: tuple[int, int] | None, dropout: float
    ) -> None:
        """`plane` None: positions are in a row, as one-dimensional tokens have no place."""
        super().__init__()
        self.plane = plane
        widths = [features, *[width] * layers]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            convolution = (
                nn.Conv2d(before, after, 3, padding=1)
                if plane
                else nn.Conv1d(before, after, 5, padding=2)
            )
            # No norm over positions: averaged over them, all samples would look alike.
            parts += [convolution, nn.SiLU(), nn.Dropout(dropout)]
        self.convolutions = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, n, D] to [B, width]."""
        x = features.transpose(1, 2)
        if self.plane:
            x = x.unflatten(-1, self.plane)
        return self.convolutions(x).flatten(2).mean(-1)


class Discriminator(nn.Module):
    """Frozen teacher, one head per tapped layer, and an MLP over all heads: one logit a sample.

    Only the heads and the MLP are its parameters. The teacher's weights are shared, not copied, and
    gradients pass through them to the embeddings.
    """

    backbone: Backbone

    def __init__(
        self,
        teacher: Teacher,
        taps: Sequence[int] | None = None,
        *,
        heads: int = 4,
        width: int | None = None,
        layers: int = 2,
        dropout: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        """`taps` are layers of the backbone; None spaces as many as `heads` evenly.

        A head has `layers` convolutions of `width` channels (None: twice the teacher's width, up to
        1024). `noise` is that of the features in training, in units of their spread.
        """
        super().__init__()
        if any(parameter.requires_grad for parameter in teacher.backbone.parameters()):
            raise ValueError("the discriminator needs a frozen backbone")
        # Past nn.Module's bookkeeping: the teacher is neither trained nor saved with the heads.
        object.__setattr__(self, "backbone", shared_view(teacher.backbone))
        sizes = layer_sizes(self.backbone, teacher)
        self.taps = even_taps(len(sizes), heads) if taps is None else tuple(sorted(set(taps)))
        for tap in self.taps:
            if not 0 <= tap < len(sizes):
                raise SpecError(f"There is no layer {tap} to tap: 0 to {len(sizes) - 1} are there.")
        width = width or min(WIDEST, 2 * max(sizes[tap][1] for tap in self.taps))
        self.noise = noise
        self.heads = nn.ModuleList()
        for length, features in (sizes[tap] for tap in self.taps):
            plane = plane_of(length, teacher.space.grid) if teacher.space.grid else None
            self.heads.append(Head(features, width, layers, plane, dropout))
        self.mlp = nn.Sequential(
            nn.Linear(len(self.taps) * width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def forward(self, embeds: Tensor, cond: Cond, generator: Source | None = None) -> Tensor:
        """Logits [B] of embeddings [B, L, D]; `generator` draws the feature noise of training."""
        _, tapped = self.backbone.hidden(embeds, self.backbone.prepared(cond), self.taps)
        # Layers differ in scale by far: heads and noise are to find the same in all of them.
        features = [F.layer_norm(tap, tap.shape[-1:]) for tap in tapped]
        if self.training and self.noise:
            features = [tap + self.noise * noise_like(tap, generator) for tap in features]
        pooled = [head(tap) for head, tap in zip(self.heads, features, strict=True)]
        logits: Tensor = self.mlp(torch.cat(pooled, dim=-1))
        return logits.squeeze(-1)

    def at(self, device: torch.device) -> Discriminator:
        """On a device; where it is there already, it is left alone, in shapes alone as well."""
        there = all(parameter.device == device for parameter in self.parameters())
        return self if there else self.to(device)


def noise_like(tensor: Tensor, generator: Source | None) -> Tensor:
    """Standard Gaussian noise of a tensor's shape, from the run's own generator."""
    if generator is None:
        raise ValueError("feature noise needs the run's generator")
    return normal(tensor.shape, generator, tensor.dtype)
