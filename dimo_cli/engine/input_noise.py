"""Noise in what the student sees: vectors of its own at masked slots (IMDM), or for a whole image.

A student that draws all tokens at once can make them fit each other only by what its input has in
common for all of them. With eps drawn anew for each image,

    embedding + W2 GELU(W1 eps + b1)

at every masked slot (IMDM, arXiv 2605.10518), or at every position of an image with one eps for all
of it (the noise input of D-MMD, arXiv 2603.20155, of which is not published how it enters). W2 is
zero at first: the student starts as its teacher, bit for bit, and learns to listen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.engine.draws import Source, normal, uniform
from dimo_cli.engine.lora import shared_view
from dimo_cli.errors import SpecError
from dimo_cli.specs.input_noise import InputNoise
from dimo_cli.teachers.protocol import Backbone, TokenSpace

NAME = "input_noise"
"""Under which a student has it, and its weights."""
SEED = 0x30_0000_0000
"""What W1 is drawn from, beside the seed of the run, whose own draws stay as they are."""


def truncated_normal(shape: tuple[int, int], seed: int) -> Tensor:
    """Numbers of N(0, 0.02^2) within two deviations, in one draw, as planners can."""
    generator = torch.Generator().manual_seed(seed)
    most = math.erf(2 / math.sqrt(2))  # the probability of that
    drawn = torch.empty(shape, device="cpu").uniform_(-most, most, generator=generator)
    return drawn.erfinv_() * (0.02 * math.sqrt(2))


class NoiseNetwork(nn.Module):
    """From noise to vectors that are added to the embeddings."""

    def __init__(
        self,
        spec: InputNoise,
        width: int,
        mask_id: int,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.mask_id, self.dim = spec, mask_id, spec.dim or width
        self.lift = nn.Linear(self.dim, 4 * width, device=device)
        self.land = nn.Linear(4 * width, width, bias=False, device=device)
        with torch.no_grad():
            drawn = truncated_normal((4 * width, self.dim), SEED + seed)
            self.lift.weight.copy_(drawn.to(self.lift.weight.device))
            self.lift.bias.zero_()
            self.land.weight.zero_()

    def draw(self, tokens: Tensor, generator: Source) -> Tensor:
        """Noise for input tokens [B, L, G]: one for each slot, or for each image, [B, ..., n]."""
        slots = tokens.shape if self.spec.kind == "mask" else (len(tokens), 1, 1)
        shape = (*slots, self.dim)
        if self.spec.law == "gaussian":
            return normal(shape, generator).to(tokens.device)
        return (2 * uniform(shape, generator) - 1).to(tokens.device)

    def forward(self, tokens: Tensor, eps: Tensor) -> Tensor:
        """What is added to the embeddings of tokens [B, L, G]: [B, L or 1, D].

        The masked parts of a token add up.
        """
        added: Tensor = self.land(F.gelu(self.lift(eps)))
        if self.spec.kind == "mask":
            added = added * (tokens == self.mask_id)[..., None]
        return added.sum(2)


def noise_of(backbone: Backbone) -> NoiseNetwork | None:
    """The noise network of a student; None: it has none."""
    found = backbone._modules.get(NAME)
    return found if isinstance(found, NoiseNetwork) else None


def give_noise(
    backbone: Backbone, spec: InputNoise | None, space: TokenSpace, seed: int = 0
) -> Backbone:
    """Give a network a noise network, if a spec has one; it changes nothing until it is trained."""
    if spec is not None:
        device = next(backbone.parameters()).device
        tokens = torch.zeros(1, space.length, space.groups, dtype=torch.long, device=device)
        with torch.no_grad():
            width = backbone.embed(tokens).shape[-1]
        backbone.add_module(NAME, NoiseNetwork(spec, width, space.mask_id, seed, device))
    return backbone


def input_embeds(backbone: Backbone, tokens: Tensor, generator: Source) -> Tensor:
    """Embeddings [B, L, D] of a student's input, with its noise if it has some."""
    embeds = backbone.embed(tokens)
    noise = noise_of(backbone)
    if noise is None:
        return embeds
    return embeds + noise(tokens, noise.draw(tokens, generator)).to(embeds.dtype)


def with_noise_of(student: Backbone, start: Backbone) -> Backbone:
    """What a student starts from, with its noise network if `start` has none: as if it were new."""
    own, other = noise_of(student), noise_of(start)
    if other is not None and (own is None or own.spec.kind != other.spec.kind):
        kind = "none" if own is None else own.spec.kind
        raise SpecError(
            f"The student to start from was trained with `init.noise` {other.spec.kind}, and here "
            f"it is {kind}.",
            f"Set `init.noise={other.spec.kind}` with `init.noise.dim={other.dim}`.",
        )
    if own is None or other is not None:
        return start
    start = shared_view(start)
    start.add_module(NAME, own)
    return start
