"""How much each objective asks of the student's logits: norms that weights can be set by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dimo_cli.engine.share import Share, mean_over_ranks
from dimo_cli.teachers.protocol import moved

NORM_MEMORY = 0.9  # of the running gradient norms behind an automatic weight


class RunningNorm:
    """The norm of a gradient, averaged over the last steps, on the device; NaN: none seen yet.

    From the first step on it stays in one place, where a recorded step finds it again.
    """

    def __init__(self, value: float = math.nan) -> None:
        self.value = torch.tensor(value, dtype=torch.float64)

    def see(self, norm: Tensor) -> None:
        """Blend in the norm of this step; what is not finite is not remembered."""
        norm = norm.double()
        self.value = value = moved(self.value, norm.device)
        before = torch.where(value.isnan(), norm, value)
        blended = NORM_MEMORY * before + (1 - NORM_MEMORY) * norm
        value.copy_(torch.where(norm.isfinite(), blended, value))


class GradientNorms:
    """A running norm for each objective by its name; all masked ones together are `distill`."""

    def __init__(self) -> None:
        self.norms: dict[str, RunningNorm] = {}
        self.squares: dict[str, Tensor] = {}

    def begin(self) -> None:
        """A step begins."""
        self.squares = {}

    def see(self, name: str, gradient: Tensor) -> None:
        """Add what a loss asks of a pass's logits, as the mean over its samples, to its norm."""
        squares = gradient.square().sum(dtype=torch.float32)
        self.squares[name] = self.squares.get(name, 0) + squares

    def end(self, share: Share) -> None:
        """Remember how much each loss asked of all logits of the step, in whichever rank."""
        names = sorted(self.squares)
        ranks = share.samples // (share.batch * share.passes)
        for name, squares in zip(
            names, mean_over_ranks([self.squares[name] for name in names]), strict=True
        ):
            passes = share.passes * ranks
            norm = self.norms.setdefault(name, RunningNorm())
            norm.see((squares.double() * ranks).sqrt() / passes)

    def of(self, name: str) -> Tensor:
        """The norm of an objective; NaN where none was seen yet."""
        return self.norms.setdefault(name, RunningNorm()).value

    def values(self) -> dict[str, float]:
        """The norms that were seen, as numbers; it waits for the card."""
        values = {name: norm.value.item() for name, norm in self.norms.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def load(self, values: dict[str, float]) -> None:
        """Continue from `values`."""
        self.norms = {name: RunningNorm(value) for name, value in values.items()}
