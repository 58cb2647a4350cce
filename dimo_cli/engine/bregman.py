"""Di-Bregman (arXiv 2510.16983): another divergence than the reverse KL, by how samples weigh.

With r = q / p of the student q and the data p, a Bregman divergence of a convex h has the gradient

    E h''(r) r (score of q - score of p) dG

for samples G: that of the reverse KL, h = r log r, at which each sample counts h''(r) r times. A
discriminator knows the ratio of a sample, r = (1 - D) / D. Tokens have no score that would be
exact at one sample, so with them it holds to first order around r = 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dimo_cli.engine.share import mean_over_ranks

LEAST, MOST = 0.1, 10.0  # that a ratio is believed to be

# h''(r) r, up to a factor, by the name of the divergence; that of the reverse KL is 1.
COEFFICIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "neyman": lambda r: r,  # h = (r - 1)^2 / 2
    "forward_kl": lambda r: 1 / r,  # h = -log r
    "jensen_shannon": lambda r: 1 / (1 + r),  # h = r log r - (1 + r) log((1 + r) / 2)
}


@torch.no_grad()
def density_ratio(logits: Tensor) -> Tensor:
    """r = (1 - D) / D of samples with a discriminator's logits, within its bounds."""
    return logits.float().neg().exp().clamp(LEAST, MOST)


@torch.no_grad()
def sample_factors(divergence: str, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each sample of a pass counts [B], 1 on average, by a discriminator's logits [B].

    Also the mean that it was divided by, that of all ranks, and the effective share of samples:
    (mean w)^2 / mean w^2, which is 1 where all count alike.
    """
    weights = COEFFICIENTS[divergence](density_ratio(logits))
    mean, square = mean_over_ranks([weights.mean(), weights.square().mean()])
    return weights / mean, mean, mean.square() / square
