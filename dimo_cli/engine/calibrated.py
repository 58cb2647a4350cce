"""What a divergence at masked tokens is worth: laws of mask counts, and the weight that calibrates.

If the auxiliary has learned the student's outputs exactly, and the teacher's predictions belong to
one joint law, then with k of S slots masked with probability P(k), uniformly among all subsets,

    KL(student || teacher) = E sum_{masked l} w(k) KL(aux_l || teacher_l),   w(k) = 1 / (k P(k))

by the chain rule of the KL, averaged over all orders of the tokens. An auxiliary that has not
learned them adds its excess of cross-entropy: at the drawn tokens, log aux - log teacher is then a
lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dimo_cli.engine.field import guided, log_probs
from dimo_cli.engine.objective import MaskedRows
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.init import MaskingSpec

# P(ratio <= r) of each mask schedule for 0 <= r <= 1.
LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: r,
    "square": torch.sqrt,
    "root": lambda r: r**2,
    "cosine": lambda r: 1 - torch.arccos(r) / (math.pi / 2),
    "arccos": lambda r: 1 - torch.cos(r * math.pi / 2),
}


def count_probabilities(
    schedule: str, slots: int, device: torch.device | str | None = None
) -> Tensor:
    """P(k) for k = 1 ... S masked slots: the ratio times S, rounded, and at least one."""
    edges = (torch.arange(1, slots, dtype=torch.float64, device=device) + 0.5) / slots
    below = LAWS[schedule](edges)
    return torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))


def calibrated_weights(
    schedule: str, slots: int, still_open: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """w(k) = 1 / (k P(k)) for k = 1 ... S; those of a step that leaves slots open.

    More than the `still_open` are masked then, as many more as the law says of the others: the KL
    is that of any S - `still_open` tokens, since those after them are not judged. They are
    computed where they are used: a recorded step sends nothing to its card.
    """
    counts = torch.arange(still_open + 1, slots + 1, dtype=torch.float64, device=device)
    weights = 1 / (counts * count_probabilities(schedule, slots - still_open, device))
    return torch.cat([weights.new_zeros(still_open), weights])


def obstacle(masking: MaskingSpec) -> str | None:
    """Why no weight calibrates the student's mask law; None if one does."""
    if masking.student not in LAWS:
        return f"`masking.student` {masking.student} never masks only a few tokens"
    if masking.method != "exact":
        return f"`masking.method` is {masking.method}, not exact"
    if masking.lowest > 0 or masking.highest < 1:
        return "`masking.lowest` and `masking.highest` leave numbers of masked tokens out"
    if masking.bridge:
        return "`masking.bridge` never masks what a step kept"
    if masking.content != "tokens":
        return "`masking.content` is soft, so that teacher and auxiliary see no drawn tokens"
    return None


def check_calibrated(masking: MaskingSpec) -> None:
    """Refuse a calibrated weight where there is none."""
    if (reason := obstacle(masking)) is not None:
        raise SpecError(
            f"`loss.weight` is calibrated, but {reason}: no weight makes the loss a KL.",
            "Use `masking.student` linear, cosine or arccos with exact counts over the whole range "
            "and `masking.content=tokens`, or another `loss.weight`.",
        )


class KlMonitor:
    """The reverse KL of student to teacher in nats per token, less the auxiliary's excess.

    The chain rule at the tokens that the student drew: the mean over masked slots of
    log aux - log teacher, times 1 / (S P(k)) for k of S, over the samples. The teacher is the one
    that is distilled, with its guidance and temperature.
    """

    def __init__(self, schedule: str, slots: int) -> None:
        self.schedule, self.slots = schedule, slots

    @torch.no_grad()
    def sums(self, rows: MaskedRows, still_open: int = 0) -> Tensor:
        """The sum over some rows of what each masked slot adds to its sample."""
        log_p = log_probs(guided(rows.teacher()), rows.temperatures[0])
        nats = nats_at_tokens(rows.auxiliary().float().log_softmax(-1), log_p, rows.tokens())
        table = calibrated_weights(self.schedule, self.slots, still_open, nats.device)
        table /= self.slots - still_open
        weights = table[rows.masked() - 1]
        return (nats.double() * weights[:, None] * rows.slots).sum()


def monitor_of(spec: DistillSpec, slots: int, anchor: float) -> KlMonitor | None:
    """What watches a run's KL; None where its masks or its auxiliary do not allow it."""
    if obstacle(spec.masking) is not None or anchor or spec.train.dropout:
        return None
    return KlMonitor(spec.masking.student, slots)


def nats_at_tokens(log_q: Tensor, log_p: Tensor, tokens: Tensor) -> Tensor:
    """log q - log p at drawn tokens [...], of log-probabilities [..., V]."""
    return (log_q - log_p).gather(-1, tokens[..., None]).squeeze(-1)
