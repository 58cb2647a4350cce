"""IDLM (arXiv 2602.19066), masked: the reverse KL with the student's probabilities in front.

Di[M]O multiplies the log-ratio d = log psi - log phi of auxiliary and teacher by the auxiliary's
probabilities, IDLM by the student's own at the input that made the tokens:

    gradient at the logits:  w p (d - <p, d>)

They agree where the auxiliary says what the student says, and differ for a student whose input is
random: then only this one is the gradient of the KL at masked tokens. Tokens that a student of
several steps kept of an earlier one are carried over: it is asked for nothing there.
"""

from __future__ import annotations

from torch import Tensor

from dimo_cli.engine.field import guided, log_probs
from dimo_cli.engine.objective import MaskedObjective, MaskedRows, Needs
from dimo_cli.specs.distill import DistillSpec


def student_gradient(log_p: Tensor, log_psi: Tensor, log_phi: Tensor) -> tuple[Tensor, Tensor]:
    """p (d - <p, d>) [..., V], and the loss <p, d> [...] that it descends with d held fixed."""
    p, d = log_p.exp(), log_psi - log_phi
    loss = (p * d).sum(-1)
    return p * (d - loss[..., None]), loss


class Idlm(MaskedObjective):
    """The student's own probabilities times the log-ratio of auxiliary and teacher."""

    name = "idlm"
    needs = Needs(auxiliary=True, student=True)

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def ask(self, rows: MaskedRows, measure: bool) -> tuple[Tensor, Tensor | None]:
        auxiliary, (of_teacher, of_auxiliary) = rows.auxiliary(), rows.temperatures
        log_phi = log_probs(guided(rows.teacher()), of_teacher)
        log_psi = log_probs(auxiliary.float(), of_auxiliary)
        log_p = log_probs(rows.student().float(), 1.0)
        gradient, loss = student_gradient(log_p, log_psi, log_phi)
        return (gradient * rows.scale * self.weight).to(auxiliary.dtype), loss


def build(spec: DistillSpec, weight: float) -> Idlm:
    """The objective of `kind: idlm`."""
    return Idlm(weight)
