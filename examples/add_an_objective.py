"""An objective of one's own: a reverse KL that no single token can dominate. The rest is dimo's.

    python examples/add_an_objective.py distill --preset digits \
        --set "objectives=[{kind: clipped, most: 2.0}]" --out runs/clipped

An objective asks for a gradient at the student's logits: `dimo_cli/engine/objective.py` says what
it is shown, and what it may ask for.
"""

from dimo_cli.engine.field import guided
from dimo_cli.engine.objective import MaskedObjective, Needs
from dimo_cli.engine.objectives.registry import register_objective
from dimo_cli.main import main


class Clipped(MaskedObjective):
    """q (d - <q, d>) with d = log q - log p of auxiliary q and teacher p, within `most`."""

    name = "clipped"
    needs = Needs(auxiliary=True)

    def __init__(self, weight, most):
        self.weight, self.most = weight, most

    def ask(self, rows, measure):
        log_p = guided(rows.teacher()).log_softmax(-1)
        log_q = rows.auxiliary().float().log_softmax(-1)
        q, ratio = log_q.exp(), (log_q - log_p).clamp(-self.most, self.most)
        mean = (q * ratio).sum(-1)
        return q * (ratio - mean[..., None]) * rows.scale * self.weight, mean


def build(spec, weight, most=3.0):
    """Its settings are the parameters behind `weight`."""
    return Clipped(weight, most)


register_objective("clipped", build)
if __name__ == "__main__":
    main()
