"""Whether a step's numbers are finite, without waiting for a card that is still computing them.

On a CPU they are there: a step is refused at once. On a card what has been found stays there, where
the optimizers look at it before they move a weight; Python asks when it has to wait anyway.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import torch
from torch import Tensor

NETWORKS = ("student", "auxiliary", "discriminator")


class Verdict:
    """Of each step, the first network whose numbers were not finite; and how many such there were.

    Only a card counts, since it alone is not asked at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.asks = device, device.type == "cpu"

    @cached_property
    def numbers(self) -> Tensor:
        """1 for each network that was bad in this step, their counts, and how many in a row."""
        return torch.zeros(2 * len(NETWORKS) + 1, device=self.device)

    @property
    def bad(self) -> Tensor:
        """1 for the first network that was not finite in this step."""
        return self.numbers[: len(NETWORKS)]

    @property
    def counts(self) -> Tensor:
        """Skipped steps of each network, and then how many are the last in a row."""
        return self.numbers[len(NETWORKS) :]

    def begin(self) -> None:
        """A new step, of which nothing is known yet."""
        if not self.asks:
            self.bad.zero_()

    @property
    def found_inf(self) -> Tensor | None:
        """On a card, 1 where something was not finite in this step; None where that is known."""
        return None if self.asks else self.bad.amax()

    def refuses(self, network: str, *numbers: Tensor) -> bool:
        """Take in numbers of a network; returns whether the step is to end here."""
        if self.asks:
            return not all(number.isfinite() for number in numbers)
        finite = torch.stack([number.isfinite() for number in numbers]).all()
        self.bad[NETWORKS.index(network)] += (1 - self.bad.amax()) * (~finite)
        return False

    def end(self) -> None:
        """Count what was found in this step."""
        if not self.asks:
            self.counts[:-1] += self.bad
            self.counts[-1:].add_(1).mul_(self.bad.amax())

    def read(self) -> tuple[Counter[str], int]:
        """Skipped steps by network since this was last read, and how many are the last in a row.

        It waits for the card.
        """
        if self.asks:
            return Counter(), 0
        *counts, in_row = self.counts.tolist()
        self.counts[:-1].zero_()
        found = Counter({n: round(c) for n, c in zip(NETWORKS, counts, strict=True) if c})
        return found, round(in_row)

    def go_on(self, in_row: int) -> None:
        """Continue where the last `in_row` steps were skipped."""
        if not self.asks:
            self.counts[:-1].zero_()
            self.counts[-1:].fill_(in_row)
