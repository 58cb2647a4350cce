"""The credit of revealed tokens: the part of the KL's gradient that masked tokens do not show.

With d = log psi - log phi of auxiliary and teacher, and p the student at the input that drew x, the
gradient of KL(student || teacher) at the student's logits is A + B:

    A_l = E w 1[l masked] p_l (d_l - <p_l, d_l>)
    B_i = E w 1[i revealed] (onehot(x_i) - p_i) (C - b),      C = sum_{masked l} <p_l, d_l>

A is what IDLM asks for, and Di[M]O's reverse KL where the student has one input. B is a score
function: a token that was revealed gets the credit, or the blame, for how well the masked ones then
agree. Its baseline b is the running mean of w C for as many masked tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dimo_cli.engine.field import guided, log_probs
from dimo_cli.engine.heads import HeadRows, backward_to_hidden
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.objective import MaskedRows, Objective
from dimo_cli.engine.objectives.dimo import Dimo
from dimo_cli.engine.objectives.idlm import Idlm, student_gradient
from dimo_cli.engine.share import mean_over_ranks
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.divergences import AdaptiveWeight
from dimo_cli.specs.objectives import beyond_reverse_kl
from dimo_cli.teachers.protocol import Backbone, moved

MEMORY = 0.9  # of the running means of the baseline
CREDIT = "credit_of_level_"
MOST_LEVELS = 16  # of masked tokens: as many counts as that, or so many ranges of them


def obstacle(spec: DistillSpec) -> str | None:
    """Why a run's loss has no such credit; None if it has."""
    if reason := beyond_reverse_kl(spec.objectives, spec.loss.divergence.kind):
        return reason
    if spec.loss.student_input != "x_init":
        return f"`loss.student_input` is {spec.loss.student_input}, where no token was drawn"
    if not spec.student.in_one_step:
        return "`student.steps` are several, of which each has drawn a part of the tokens"
    if spec.masking.content != "tokens":
        return "`masking.content` is soft, so that teacher and auxiliary see no drawn tokens"
    if isinstance(spec.loss.weight, AdaptiveWeight):
        return "`loss.weight` is adaptive, and depends on the tokens itself"
    return None


def check_credit(spec: DistillSpec) -> None:
    """Refuse a credit that would not belong to the loss."""
    if spec.loss.revealed_credit and (reason := obstacle(spec)) is not None:
        raise SpecError(
            f"`loss.revealed_credit` is {spec.loss.revealed_credit:g}, but {reason}.",
            "Use objective idlm, or dimo with `loss.divergence=rkl`; or leave the credit out.",
        )


def earned(rows: MaskedRows) -> Tensor:
    """<p, d> of each masked slot of some rows [n, G]; 0 at the others."""
    of_teacher, of_auxiliary = rows.temperatures
    log_phi = log_probs(guided(rows.teacher()), of_teacher)
    log_psi = log_probs(rows.auxiliary().float(), of_auxiliary)
    _, credit = student_gradient(log_probs(rows.student().float(), 1.0), log_psi, log_phi)
    return credit * rows.slots


def score_gradient(log_p: Tensor, tokens: Tensor, advantage: Tensor) -> Tensor:
    """(onehot(x) - p) times an advantage [...], at logits with log-probabilities [..., V]."""
    score = F.one_hot(tokens, log_p.shape[-1]) - log_p.exp()
    return score * advantage[..., None]


def revealed_rows(mask: Mask) -> Tensor:
    """At which positions [N] of the flat [B L] any slot is revealed."""
    return (~mask.slots).any(-1).flatten().nonzero().squeeze(-1)


class Baseline:
    """The mean of what samples with as many masked slots have earned, over the last steps.

    It is that of steps before, so that no sample is compared with itself, and the same however a
    batch is cut. A level that was not seen yet has none: 0.
    """

    def __init__(self, slots: int) -> None:
        self.slots, self.levels = slots, min(slots, MOST_LEVELS)
        self.means = torch.full((self.levels,), torch.nan, dtype=torch.float64)
        self.forget()

    def forget(self) -> None:
        """A step begins, of which nothing was seen."""
        self.totals = torch.zeros(2, self.levels, dtype=torch.float64)

    def level(self, masked: Tensor) -> Tensor:
        """In which of the ranges of 1 ... S masked slots a number of them is [B]."""
        return ((masked - 1) * self.levels).div(self.slots, rounding_mode="floor")

    def of(self, masked: Tensor) -> Tensor:
        """The baseline of samples with so many masked slots [B]."""
        return moved(self.means, masked.device).nan_to_num()[self.level(masked)]

    def see(self, credit: Tensor, masked: Tensor) -> None:
        """Take note of what the samples of a pass have earned [B]."""
        self.totals = moved(self.totals, credit.device)
        both = torch.stack([credit.double(), torch.ones_like(credit, dtype=torch.float64)])
        self.totals = self.totals.index_add(1, self.level(masked), both)

    def end(self) -> None:
        """Blend in a step, of all ranks; levels that it did not have stay as they are."""
        (totals,) = mean_over_ranks([self.totals])
        before = moved(self.means, totals.device)
        now = totals[0] / totals[1]
        blended = torch.where(before.isnan(), now, MEMORY * before + (1 - MEMORY) * now)
        self.means = torch.where(now.isfinite(), blended, before)


class RevealedCredit:
    """What the samples of a pass have earned, and the gradient at the student for it."""

    def __init__(self, share: float, slots: int) -> None:
        """`share` multiplies part B as the objectives' weights multiply part A."""
        self.share, self.baseline = share, Baseline(slots)

    def begin(self) -> None:
        """A step begins."""
        self.baseline.forget()

    def end(self) -> None:
        """A step is over."""
        self.baseline.end()

    def state(self) -> dict[str, float]:
        """The baseline by level, as far as it was seen."""
        means = enumerate(self.baseline.means.tolist())
        return {f"{CREDIT}{level}": mean for level, mean in means if not math.isnan(mean)}

    def load_state(self, state: dict[str, float]) -> dict[str, float]:
        """Continue from `state`; what of it is not the baseline's is returned."""
        levels = range(self.baseline.levels)
        means = [state.get(f"{CREDIT}{level}", math.nan) for level in levels]
        self.baseline.means = torch.tensor(means, dtype=torch.float64)
        return {name: value for name, value in state.items() if not name.startswith(CREDIT)}

    def begin_pass(self, samples: int, device: torch.device) -> None:
        """A pass begins."""
        self.earned = torch.zeros(samples, device=device)

    def see(self, rows: MaskedRows, sample: Tensor) -> None:
        """Add what masked rows [n] of samples [n] have earned."""
        self.earned = self.earned.index_add(0, sample, earned(rows).sum(-1))

    def advantage(self, mask: Mask, weight: Tensor, passes: int) -> Tensor:
        """w C - b of each sample, times its share of the step [B]; `weight` is w times that.

        The baseline is in units of w C, which do not depend on how a batch is cut.
        """
        masked, samples = mask.slots.flatten(1).sum(-1), passes * len(weight)
        credit = self.earned * weight
        self.baseline.see(credit * samples, masked)
        return self.share * (credit - self.baseline.of(masked).to(credit.dtype) / samples)

    def ask(
        self,
        student: Backbone,
        hidden: Tensor,
        tokens: Tensor,
        mask: Mask,
        advantage: Tensor,
        chunk_tokens: int,
    ) -> Tensor:
        """The gradient at the student's hidden states [B, L, D]; its head gets its own."""
        rows, drawn = revealed_rows(mask), tokens.flatten(0, 1)
        each = (~mask.slots * advantage[:, None, None]).flatten(0, 1)

        def ask_rows(head: HeadRows, part: slice) -> Tensor:
            here = rows[part]
            log_p = log_probs(head.logits().detach().float(), 1.0)
            return score_gradient(log_p, drawn[here], each[here])

        return backward_to_hidden(student, hidden, rows, chunk_tokens, ask_rows)


def credit_of(
    spec: DistillSpec, objectives: Sequence[Objective], slots: int
) -> RevealedCredit | None:
    """What a run gives to revealed tokens; None: nothing."""
    check_credit(spec)
    masked = [one for one in objectives if isinstance(one, Dimo | Idlm)]
    if not spec.loss.revealed_credit or not masked:
        return None
    return RevealedCredit(spec.loss.revealed_credit * sum(one.weight for one in masked), slots)
