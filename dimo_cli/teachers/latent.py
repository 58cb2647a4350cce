"""A latent number of an image, as one more token: it makes a student a mixture (di4c, 2410.08709).

Given lambda ~ U[0, 1] the student draws its tokens apart from each other; over all lambda it does
not. The token stands behind all others, at no position, and nothing is read off it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dimo_cli.errors import SpecError
from dimo_cli.teachers.protocol import LATENT, Backbone, TokenSpace

FEATURES, HIDDEN = 128, 512
SEED = 0x40_0000_0000


def sinusoids(value: Tensor, features: int = FEATURES) -> Tensor:
    """Sines and then cosines [B, features] of 1000 lambda, from frequency 1 down to 1e-4."""
    half = features // 2
    steps = torch.arange(half, device=value.device, dtype=torch.float32)
    angles = 1000 * value.float()[:, None] * torch.exp(-math.log(10_000) / (half - 1) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class LatentToken(nn.Sequential):
    """lambda [B] to a token [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))

    def forward(self, value: Tensor) -> Tensor:
        """The token of each lambda."""
        token: Tensor = super().forward(sinusoids(value).to(next(self.parameters()).dtype))
        return token

    @torch.no_grad()
    def begin(self, seed: int) -> LatentToken:
        """Weights as torch gives linear maps, from a seed of their own."""
        generator = torch.Generator().manual_seed(SEED + seed)
        for layer in self:
            if not isinstance(layer, nn.Linear):
                continue
            bound = layer.in_features**-0.5
            for weight in (layer.weight, layer.bias):
                drawn = torch.rand(weight.shape, generator=generator)
                weight.copy_(bound * (2 * drawn - 1))
        return self


def check_has_room(backbone: Backbone, name: str) -> None:
    """Refuse a family whose sequence no token can be added to."""
    if not backbone.takes_latent:
        raise SpecError(
            f"`student.latent` adds a token to the sequence of tokens, and the network of `{name}` "
            "has no room for one: it knows each place of its sequence.",
            "Use a teacher of the families digits, shapes, emoji, maskgit or maskbit.",
        )


def give_latent(backbone: Backbone, space: TokenSpace, seed: int = 0) -> Backbone:
    """Let a network read a latent; the same one is returned."""
    first = next(backbone.parameters())
    tokens = torch.full((1, space.length, space.groups), space.mask_id, device=first.device)
    with torch.no_grad():
        width = backbone.embed(tokens).shape[-1]
    with torch.device("cpu"):  # planners build networks under the meta device
        network = LatentToken(width).begin(seed)
    if first.device.type != "cpu":
        network.to(first.device)
    backbone.add_module(LATENT, network)
    return backbone
