"""A new family: 4x4 pictures of stripes, and a one-step student of it. Seconds on a CPU.

    python examples/add_a_teacher.py runs/stripes

A family is a backbone, a tokenizer and a conditioner, as `dimo_cli/teachers/protocol.py` has them.
"""

import sys
from pathlib import Path

import torch

from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import Backbone, SamplerDefaults, Teacher, Tokenizer, TokenSpace
from dimo_cli.teachers.registry import register_teacher

SIDE, MASK = 4, 2


class StripesBackbone(Backbone):
    """Logits from the evidence of a row (class 0) or a column (class 1)."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        self.sharpness = torch.nn.Parameter(torch.eye(2))
        self.output = torch.nn.Parameter(torch.tensor([[-3.0, 3.0], [0.0, 0.0]]))

    def embed(self, tokens):
        return self.table[tokens.squeeze(-1)]

    def embed_probs(self, probs, mask=None):
        embeds = probs.squeeze(-2) @ self.table[:MASK]
        return embeds if mask is None else torch.where(mask, self.table[MASK], embeds)

    def hidden(self, embeds, cond, taps=()):
        grid = (embeds @ self.sharpness).unflatten(1, (SIDE, SIDE))
        rows, columns = (grid.mean(axis, keepdim=True).expand_as(grid) for axis in (2, 1))
        is_row = (cond.tensors["label"] == 0)[:, None, None, None]
        seen = torch.where(is_row, rows, columns).flatten(1, 2)
        return (seen, [seen] * len(taps)) if taps else seen

    def head(self, hidden, positions=None):
        return (hidden @ self.output)[..., None, :]

    def embedding_parameters(self):
        return [self.table]


class Pixels(Tokenizer):
    """A token is a pixel: black, 0, or white, 1."""

    def encode(self, images):
        return (images.mean(1).flatten(1) > 0).long()[..., None]

    def decode(self, tokens, cond=None):
        return (2.0 * tokens - 1).view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)

    def decode_probs(self, probs, cond=None):
        return self.decode(probs[..., 1])


def load_stripes():
    space = TokenSpace(SIDE * SIDE, 1, 2, 2, MASK, SIDE, (SIDE, SIDE))
    parts = (space, StripesBackbone().eval(), Pixels(), ClassConditioner(2))
    sampler = SamplerDefaults(steps=8, guidance=1.0, plan=heuristic_plan("random"))
    return Teacher("stripes", "stripes", "1", "CC0-1.0", *parts, sampler, ("rows", "columns"))


register_teacher("stripes", load_stripes)
monitor = {"fid_every": 0, "table_samples": 0}  # no feature network knows stripes
spec = {"teacher": {"name": "stripes"}, "train": {"steps": 50}, "monitor": monitor}
result = distill(DistillSpec.model_validate(spec), Path(sys.argv[1]), PlainView(print))
print(f"One-step student {result.student.short_id} in {result.folder}/student")
