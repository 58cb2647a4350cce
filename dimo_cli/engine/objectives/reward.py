"""Rewards (Soft-Di[M]O, Eq. 9): judges of the decoded image, through soft codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dimo_cli.engine.objective import Generation, SoftLoss, SoftObjective
from dimo_cli.teachers.protocol import Cond

Rewards = Mapping[str, tuple[Callable[[Tensor, Sequence[str]], Tensor], float]]
"""By name: scores [B] of images [B, 3, H, W] for their prompts, and the weight of the score."""


class RewardObjective(SoftObjective):
    """Minus the weighted sum of rewards."""

    name = "reward"

    def __init__(self, rewards: Rewards, weight: float) -> None:
        self.rewards, self.weight = rewards, weight

    def loss_of(self, generation: Generation, logits: Tensor) -> SoftLoss:
        return lambda weights: self.loss(weights, generation.cond)

    def factor(self) -> float:
        return self.weight

    def loss(self, weights: Tensor, cond: Cond) -> Tensor:
        """Eq. 9 for each sample: minus the weighted sum of rewards of the decoded image."""
        images = self.run.teacher.tokenizer.decode_probs(weights, cond)
        total = torch.zeros(len(images), device=images.device)
        for name, (score, factor) in self.rewards.items():
            scores = score(images, cond.texts)
            self.run.log(f"reward_{name}", scores.detach().mean())
            total = total - factor * scores
        return total
