"""Both updates at a large vocabulary: the peak of memory, in units of one whole logits tensor.

The student's update (the divergence's gradient through its head) and the auxiliary's update (its
cross-entropy through its head), from hidden states to the gradients of hidden states. The usual
way, with whole tensors, is measured at a size that it can be measured at.
"""

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import device_of, environment, in_turn, medians, peak_bytes
from dimo_cli.engine.auxiliary import auxiliary_loss
from dimo_cli.engine.divergence import ForwardKL
from dimo_cli.engine.field import TeacherLogits, logit_field
from dimo_cli.engine.heads import HeadRows, backward_through_head
from dimo_cli.engine.one_step import rows_at_once
from dimo_cli.teachers.protocol import Backbone, LastLinear, TokenSpace

BARS = {"dimo": 0.40}
MASKED = 0.64  # the mean share under the arccos schedule
SMOOTHING = 0.1
GUIDANCE = 4.0


@dataclass(frozen=True)
class Size:
    """B samples of L tokens of V codes, and hidden states of width D."""

    batch: int
    length: int
    vocab: int
    width: int

    @property
    def logits_bytes(self) -> int:
        """One whole logits tensor in float32."""
        return 4 * self.batch * self.length * self.vocab

    @property
    def space(self) -> TokenSpace:
        """The same as a token space."""
        return TokenSpace(self.length, 1, self.vocab, self.vocab, self.vocab, 1, None)


# D / V is Meissonic's everywhere.
LARGE = Size(4, 4096, 8192, 1024)
SMALL = Size(4, 2048, 8192, 1024)
COMPARED = Size(2, 256, 8192, 1024)


class Heads(nn.Module):
    """The heads of student, teacher and auxiliary, with what they look at."""

    def __init__(self, size: Size, device: torch.device) -> None:
        super().__init__()
        self.size = size
        with torch.device(device):
            self.student, self.teacher, self.auxiliary = (Head(size) for _ in range(3))
            shape = (size.batch, size.length, size.width)
            self.states = {
                name: torch.randn(shape)
                for name in ("student", "conditional", "unconditional", "auxiliary")
            }
            self.targets = torch.randint(size.vocab, shape[:2])
            self.rows = (torch.rand(shape[:2]) < MASKED).flatten().nonzero().squeeze(-1)
        self.teacher.requires_grad_(False)

    def leaf(self, name: str) -> Tensor:
        """Hidden states that a gradient is wanted of."""
        return self.states[name].detach().requires_grad_()

    def forget(self) -> None:
        """Throw gradients away."""
        self.zero_grad(set_to_none=True)


class Head(nn.Linear):
    """An output layer, called as a backbone's head is."""

    def __init__(self, size: Size) -> None:
        super().__init__(size.width, size.vocab, bias=False)

    def head(self, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits [..., 1, V]."""
        return self(hidden)[..., None, :]

    def last_linear(self, hidden: Tensor) -> LastLinear:
        """All of it."""
        return LastLinear(hidden, self.weight)


def chunked(heads: Heads) -> None:
    """Both updates as dimo computes them."""
    rows, chunk = heads.rows, rows_at_once(heads.size.space, heads.rows.is_cuda)
    flat = {name: states.flatten(0, 1) for name, states in heads.states.items()}

    @torch.no_grad()
    def field(part: slice) -> Tensor:
        """The gradient of the divergence at some rows."""
        conditional, without, auxiliary = (
            network.head(flat[name][rows[part]])
            for network, name in (
                (heads.teacher, "conditional"),
                (heads.teacher, "unconditional"),
                (heads.auxiliary, "auxiliary"),
            )
        )
        scale = torch.full((len(conditional), 1, 1), GUIDANCE, device=rows.device)
        teacher = TeacherLogits(conditional, without, scale)
        return logit_field(ForwardKL(), teacher, auxiliary, torch.ones_like(scale))[0]

    def of_auxiliary(head: HeadRows, part: slice) -> Tensor:
        targets, logits = heads.targets.flatten()[rows[part]], head.logits()
        found = logits.detach().flatten(0, 1)
        _, gradient = auxiliary_loss(found, targets, label_smoothing=SMOOTHING)
        return gradient.view_as(logits)

    student, auxiliary = (cast(Backbone, head) for head in (heads.student, heads.auxiliary))
    backward_through_head(
        student, heads.leaf("student"), rows, chunk, lambda head, part: field(part)
    )
    backward_through_head(auxiliary, heads.leaf("auxiliary"), rows, chunk, of_auxiliary)
    heads.forget()


def whole(heads: Heads) -> None:
    """Both updates with tensors of all logits."""
    mask = torch.zeros(heads.targets.numel(), dtype=torch.bool, device=heads.rows.device)
    mask = mask.index_fill_(0, heads.rows, True).view_as(heads.targets)
    logits = heads.student(heads.leaf("student"))
    with torch.no_grad():
        conditional = heads.teacher(heads.states["conditional"])
        unconditional = heads.teacher(heads.states["unconditional"])
        guided = unconditional + GUIDANCE * (conditional - unconditional)
        p, q = guided.softmax(-1), heads.auxiliary(heads.states["auxiliary"]).softmax(-1)
    target = (logits - torch.where(mask[..., None], q - p, 0.0)).detach()
    (0.5 * F.mse_loss(logits, target, reduction="sum")).backward()
    found = heads.auxiliary(heads.leaf("auxiliary"))[mask]
    F.cross_entropy(
        found, heads.targets[mask], label_smoothing=SMOOTHING, reduction="sum"
    ).backward()
    heads.forget()


def peak_over_logits(size: Size, device: torch.device, update: Any) -> dict[str, float]:
    """The peak above weights and hidden states, over one logits tensor.

    The gradients of the heads' weights, which depend on neither batch nor length, are left out.
    """
    heads = Heads(size, device)
    frozen = copy.deepcopy(heads).requires_grad_(False)
    frozen.states, frozen.targets, frozen.rows = heads.states, heads.targets, heads.rows
    with peak_bytes(device) as found:
        update(frozen)
    return {
        **vars(size),
        "peak_bytes": found["peak"],
        "logits_bytes": size.logits_bytes,
        "ratio": found["peak"] / size.logits_bytes,
    }


def measure(gpu: bool, rounds: int) -> dict[str, Any]:
    """Small sizes; the real ones are measured by `benchmarks.real`."""
    device = device_of(gpu)
    found = peak_over_logits(SMALL, device, chunked)
    usual = peak_over_logits(COMPARED, device, whole)
    heads = Heads(COMPARED, device)
    times = in_turn({"dimo": lambda: chunked(heads), "whole": lambda: whole(heads)}, rounds)
    return {
        "benchmark": "loss",
        **environment(device),
        "masked": MASKED,
        "memory": {"dimo": found, "whole": usual},
        "seconds": {**vars(COMPARED), **medians(times)},
        "ratios": {"dimo": found["ratio"], "whole": usual["ratio"]},
        "bars": BARS,
    }
