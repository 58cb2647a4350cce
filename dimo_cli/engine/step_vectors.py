"""What tells an auxiliary which step of the student an image is from: a vector for each step.

A student of several steps draws from another law in each of them. One auxiliary that knows only
their mixture lets later steps make up for what earlier ones draw wrong; one that is told the step
knows the law of each. The vector is added to all embeddings of its input, in every family alike,
and is zero at first: the auxiliary starts as the teacher, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dimo_cli.engine.rollout import Path
from dimo_cli.teachers.protocol import Backbone, TokenSpace

STEP_VECTORS = "step_vectors"
"""Under which an auxiliary has them, and its weights."""


class StepVectors(nn.Module):
    """A vector [D] for each step that is trained."""

    def __init__(
        self, steps: Sequence[Path], width: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.steps = list(steps)
        self.vectors = nn.Parameter(torch.zeros(len(self.steps), width, device=device))

    def forward(self, embeds: Tensor, path: Path) -> Tensor:
        """Embeddings [B, L, D] of images that were drawn in a step."""
        told: Tensor = self.vectors[self.steps.index(path)]
        return embeds + told.to(embeds.dtype)


def give_step_vectors(backbone: Backbone, steps: Sequence[Path], space: TokenSpace) -> Backbone:
    """Let a network be told which of these steps its input is from."""
    device = next(backbone.parameters()).device
    tokens = torch.zeros(1, space.length, space.groups, dtype=torch.long, device=device)
    with torch.no_grad():
        width = backbone.embed(tokens).shape[-1]
    backbone.add_module(STEP_VECTORS, StepVectors(steps, width, device))
    return backbone


def vectors_of(network: nn.Module) -> StepVectors | None:
    """The vectors by which a network is told steps; None: it is not."""
    found = network._modules.get(STEP_VECTORS)
    return found if isinstance(found, StepVectors) else None


def told_step(backbone: Backbone, embeds: Tensor, path: Path) -> Tensor:
    """Embeddings [B, L, D] with the vector of their step, for a network that is told it."""
    vectors = vectors_of(backbone)
    return embeds if vectors is None else vectors(embeds, path)


def with_own_vectors(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of another auxiliary for this one, which keeps its vectors if they do not fit."""
    own = {name: t for name, t in network.state_dict().items() if is_of_vectors(name)}
    theirs = {name: t for name, t in weights.items() if is_of_vectors(name)}
    rest = {name: t for name, t in weights.items() if name not in theirs}
    fit = {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}
    return rest | (theirs if fit else own)


def is_of_vectors(name: str) -> bool:
    """Whether this is a weight of the vectors."""
    return name.startswith(f"{STEP_VECTORS}.")
