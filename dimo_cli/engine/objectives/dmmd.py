"""D-MMD (arXiv 2603.20155), one-step: an auxiliary that is anchored at the teacher.

The auxiliary learns the student's tokens and, with weight a, the teacher's own predictions. Its
optimum is psi = (q + a phi) / (1 + a), of the student's posterior q and the teacher phi, so that

    d = log psi - log phi >= log(a / (1 + a))

is bounded below: no token is pushed away without limit. The student's gradient is that of IDLM,
w p (d - <p, d>). With a = 1 and q = p it descends 2 KL((p + phi) / 2 || phi), an f-divergence
whose generator is `dmmd` among those of `loss.divergence`. With a = 0 this is IDLM.
"""

from __future__ import annotations

from dimo_cli.engine.objective import Needs
from dimo_cli.engine.objectives.idlm import Idlm
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec


class Dmmd(Idlm):
    """IDLM's gradient with an anchored auxiliary."""

    name = "dmmd"

    def __init__(self, weight: float = 1.0, anchor: float = 1.0) -> None:
        super().__init__(weight)
        self.needs = Needs(auxiliary=True, student=True, anchor=anchor)


def build(spec: DistillSpec, weight: float, anchor: float = 1.0) -> Dmmd:
    """The objective of `kind: dmmd`; `anchor` is the weight a of the teacher's predictions."""
    if isinstance(anchor, bool) or not isinstance(anchor, int | float) or not 0 < anchor < 1e6:
        raise SpecError(
            f"`anchor` of objective dmmd is {anchor!r}: must be a number above 0.",
            "Use 1 as the paper, or kind idlm for no anchor.",
        )
    return Dmmd(weight, float(anchor))
