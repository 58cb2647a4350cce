"""A training step on tensors without memory: nothing is computed, but all memory is accounted for.

The very code of a step runs under torch's fake tensors. So whatever a spec changes about a step
(chunks, checkpointing, guidance, losses) changes the estimate as well.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.lora import own_copy
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.optimizer import Ema, NetworkOptimizer
from dimo_cli.teachers.protocol import Cond, Conditioner, Teacher
from dimo_cli.training.precision import matrices

N = TypeVar("N", bound=nn.Module)
WEIGHTS, OPTIMIZERS = "weights", "gradients_and_optimizers"
ACTIVATIONS, LOGITS = "activations", "logits"
PURPOSES = (WEIGHTS, OPTIMIZERS, ACTIVATIONS, LOGITS)


class Ledger(FakeTensorMode):
    """Fake tensors, the bytes of those alive by purpose, and what they were at the most.

    Of masked positions there are no more than `most_rows`: chunks do not outlive one another.
    """

    def __init__(self, vocab: int, most_rows: int) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.vocab, self.most_rows = vocab, most_rows
        self.depth = 0
        self.purpose = ACTIVATIONS
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.entries: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(  # type: ignore[override]
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if stand_in := STAND_INS.get(func):
            found = stand_in(*args)
            return found[: self.most_rows] if func is NONZERO else found
        self.depth += 1
        try:
            found = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.depth -= 1
        if self.depth == 0:  # what kernels are made of is torch's own business
            tree_map_only(Tensor, self.see, found)
        return found

    def see(self, tensor: Tensor) -> None:
        """Enter a tensor's memory, unless it is known."""
        storage = tensor.untyped_storage()
        if storage in self.entries:
            return
        purpose = self.purpose
        if purpose == ACTIVATIONS and tensor.ndim > 1 and tensor.shape[-1] == self.vocab:
            purpose = LOGITS
        entry: list[Any] = [purpose, storage.nbytes()]
        self.entries[storage] = entry
        self.live[entry[0]] += entry[1]
        weakref.finalize(storage, self.leave, entry)
        if self.live.total() > self.peak.total():
            self.peak = self.live.copy()

    def leave(self, entry: list[Any]) -> None:
        """Strike out what was freed."""
        self.live[entry[0]] -= entry[1]

    def reassign(self, tensor: Tensor, purpose: str) -> None:
        """Give a tensor's memory another purpose."""
        entry = self.entries.get(tensor.untyped_storage())
        if entry is not None:
            self.leave(entry)
            entry[0] = purpose
            self.live[purpose] += entry[1]

    @contextmanager
    def counting_as(self, purpose: str) -> Iterator[None]:
        """Enter everything that is made meanwhile under one purpose."""
        before, self.purpose = self.purpose, purpose
        try:
            yield
        finally:
            self.purpose = before


def any_number(tensor: Tensor) -> bool | int | float:
    """What a tensor without content reads as: finite, true, and not zero."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


def all_places(mask: Tensor) -> Tensor:
    """The places where a mask without content is true: everywhere."""
    return torch.empty((mask.numel(), mask.ndim), dtype=torch.long, device=mask.device)


def device_of(tensor: Tensor) -> torch.device:
    """Asked for at every turn, and known without the long way through fake tensors."""
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


NONZERO = torch.ops.aten.nonzero.default
# Operations whose result depends on numbers that are not there, and one that is too slow.
STAND_INS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.prim.device.default: device_of,
    torch.ops.aten._local_scalar_dense.default: any_number,
    NONZERO: all_places,
}


class BlankConditions(Conditioner):
    """Conditions of the right shapes, from no data and no text encoder."""

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner = conditioner

    def blank(self, count: int) -> Cond:
        cond = self.conditioner.blank(count)
        # Made anew: what is blank may be one number, expanded.
        tensors = {name: torch.empty_like(t, device="cpu") for name, t in cond.tensors.items()}
        return Cond(tensors, ("",) * count)

    def null(self, count: int) -> Cond:
        return self.blank(count)

    def draw(self, count: int, generator: torch.Generator) -> Cond:
        return self.blank(count)


@dataclass(frozen=True, slots=True)
class BlankImages:
    """Real images as tokens, from no data."""

    teacher: Teacher

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Cond]:
        """Tokens of the right shape."""
        space = self.teacher.space
        tokens = torch.zeros((count, space.length, space.groups), dtype=torch.long)
        return tokens[rows], self.teacher.conditioner.blank(count)[rows]


@dataclass(frozen=True, slots=True)
class BlankPairs:
    """Pairs of a start and an image, from no network."""

    images: BlankImages

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Cond]:
        """Tokens of the right shape."""
        tokens, cond = self.images.draw(count, generator, rows)
        return tokens, tokens, cond


def blank_supplies(teacher: Teacher) -> Supplies:
    """What objectives of a step learn from, in shapes alone."""
    images = BlankImages(teacher)
    return Supplies(images, lambda source, count, steps: BlankPairs(images))


def without_content(network: N) -> N:
    """A copy of a network whose weights have shapes and no memory."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): blank_like(tensor) for tensor in tensors})


def blank_like(tensor: Tensor) -> Any:
    """A tensor or parameter of the same shape; to be called among fake tensors."""
    blank = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(blank, tensor.requires_grad)
    return blank


class Fence(TorchFunctionMode):
    """Around networks in shapes alone: a copy of a tensor is one made anew, while this lasts.

    Torch's own copies of fake tensors share no memory with views of themselves.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and isinstance(args[0], FakeTensor):
            return blank_like(args[0])
        return func(*args, **(kwargs or {}))


def without_weights(teacher: Teacher) -> Teacher:
    """A copy of a teacher in shapes alone; to be called among fake tensors."""
    return replace(
        teacher,
        backbone=without_content(teacher.backbone),
        tokenizer=without_content(teacher.tokenizer),
        conditioner=BlankConditions(teacher.conditioner),
    )


Build = Callable[[Teacher, torch.Generator, Callable[[], Any]], Distillation]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Bytes by purpose: at the peak of a step of one pass, and held once that pass is through."""

    peak: Mapping[str, int]
    held: Mapping[str, int]

    def of_passes(self, passes: int) -> dict[str, int]:
        """At the peak of a step of several passes, the last of which finds what the others left.

        Each leaves something of its own; gradients they share.
        """
        found = dict(self.peak)
        if passes > 1:
            for name, size in self.held.items():
                found[name] += size * (1 if name == OPTIMIZERS else passes - 1)
        return found


def rehearse(
    teacher: Teacher, build: Build, half: bool, most_rows: int, averages: int = 1
) -> Rehearsed:
    """A step of what `build` makes out of a teacher; `half`: under bf16 autocast.

    `averages` are the running ones that are in the same memory as everything else.
    """
    ledger = Ledger(teacher.space.vocab, most_rows)
    with ledger, Fence():
        with ledger.counting_as(WEIGHTS):
            method = build(without_weights(teacher), torch.Generator(), autocast(half))
            kept = [Ema(own_copy(method.student), method.student) for _ in range(averages)]
            if half:
                for parameter in matrices(method.teacher.backbone):
                    parameter.data = parameter.data.bfloat16()
        for network in method.networks().values():
            for parameter in network.parameters():
                follow_gradient(parameter, ledger)
        with ledger.counting_as(OPTIMIZERS):
            for optimizer in method.optimizers().values():
                make_moments(optimizer)
        ledger.peak = ledger.live.copy()
        before = ledger.live.copy()
        after = watch_end_of_passes(method, ledger)
        method.step(1)
        for ema in kept:
            ema.update(0.9)
    peak = {name: ledger.peak[name] for name in PURPOSES}
    return Rehearsed(peak, {name: after[name] - before[name] for name in PURPOSES})


def autocast(half: bool) -> Callable[[], Any]:
    """As on a GPU in bf16, or none."""
    return (lambda: torch.autocast("cpu", torch.bfloat16)) if half else contextlib.nullcontext


def follow_gradient(parameter: nn.Parameter, ledger: Ledger) -> None:
    """Count a parameter's gradient as such once it is there."""
    if parameter.requires_grad:
        parameter.register_post_accumulate_grad_hook(
            lambda p: ledger.reassign(p.grad, OPTIMIZERS) if p.grad is not None else None
        )


def make_moments(optimizer: NetworkOptimizer) -> None:
    """Take a step, so that what the optimizer keeps is there; from now on its norm is known."""
    for parameter in optimizer.parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer.optimizer.step()
    optimizer.forget()
    optimizer.norm = lambda: torch.ones(())  # type: ignore[method-assign]


def watch_end_of_passes(method: Distillation, ledger: Ledger) -> Counter[str]:
    """What is held when all passes are through, and the student is updated, once that is."""
    held: Counter[str] = Counter()
    update = method.student_optimizer.update

    def watched(*args: Any, **kwargs: Any) -> Any:
        held.update(ledger.live)
        return update(*args, **kwargs)

    method.student_optimizer.update = watched  # type: ignore[method-assign]
    return held
