"""LoRA: a frozen weight W and its adapter, W + scale B A, in the place of W.

A network with adapters is a tree of modules of its own over the very tensors of the teacher. So a
role has nothing to be switched to: its blocks hold its own A and B, whoever calls them, at whatever
time, compiled or not, and again when activations are recomputed. What it holds beside them is
frozen: embeddings, heads, norms and biases are the teacher's.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.engine.step_vectors import STEP_VECTORS, vectors_of
from dimo_cli.errors import SpecError
from dimo_cli.specs.lora import GROUPS, LoraSpec
from dimo_cli.teachers.linear_maps import Factor, owner_of, target_names
from dimo_cli.teachers.protocol import Backbone
from dimo_cli.teachers.stored import first_row, is_stored, numbers_of, restore, restore_all

WEIGHT = ".weight"
A, B = "lora_A", "lora_B"  # as peft has them


class AdaptedLinear(nn.Linear):
    """y = W x + b + scale B A x."""

    scale: float
    lora_A: Factor
    lora_B: Factor

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        low = F.linear(input, self.lora_A.weight)
        return super().forward(input) + self.scale * F.linear(low, self.lora_B.weight)


@cache
def adapted_linear(kind: type[nn.Linear]) -> type[nn.Linear]:
    """A kind of linear map with an adapter."""
    return type(f"Adapted{kind.__name__}", (AdaptedLinear, kind), {})


@cache
def adapted_weight(kind: type[nn.Module], name: str) -> type[nn.Module]:
    """A module that multiplies with a weight itself, which it finds with its adapter added."""

    def weight(module: Any) -> Tensor:
        delta = module.lora_B.weight @ module.lora_A.weight
        return numbers_of(module, name) + module.scale * delta

    return type(f"Adapted{kind.__name__}", (kind,), {name: property(weight)})


def chosen_targets(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """The weights that get an adapter, in the order of the network; refused without any."""
    names = target_names(backbone)
    found: set[str] = set()
    for target in targets:
        pattern = backbone.lora_targets.get(target, target)
        fitting = {name for name in names if re.fullmatch(pattern, name)}
        if not fitting:
            raise SpecError(
                f"`lora.targets` has {target!r}, which is the name of no linear map in the blocks "
                f"of {type(backbone).__name__}.",
                f"Use {', '.join(GROUPS)}, or a regular expression that matches the whole of one "
                f"of: {', '.join(kinds_of(names))}.",
            )
        found |= fitting
    return [name for name in names if name in found]


def kinds_of(names: Sequence[str]) -> list[str]:
    """Names with their numbers left open: one for all blocks that are alike."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def shared_view(backbone: Backbone) -> Backbone:
    """The same weights in modules of their own, in eval mode whatever mode the network is in."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors}).eval()


def with_adapters(
    base: Backbone, spec: LoraSpec, make: Callable[[str, tuple[int, int]], tuple[Tensor, Tensor]]
) -> Backbone:
    """A view of a network with adapters; `make` gives A and B for a target and its [out, in]."""
    if any(isinstance(module, Factor) for module in base.modules()):
        raise ValueError("this network has adapters already")
    names = chosen_targets(base, spec.targets)
    view = shared_view(base.requires_grad_(False))
    for target in names:
        module, name = owner_of(view, target)
        weight = module._parameters[name]
        assert weight is not None
        # Of a linear map this rank may hold but some rows.
        shape = (weight.shape[0], weight.shape[1])
        if isinstance(module, nn.Linear):
            shape = (module.out_features, module.in_features)
        down, up = make(target, shape)
        kind: Any = type(module)
        is_linear = isinstance(module, nn.Linear)
        module.__class__ = adapted_linear(kind) if is_linear else adapted_weight(kind, name)
        own: Any = module
        own.scale = spec.scale
        own.lora_A, own.lora_B = Factor(down), Factor(up)
    return view


def new_adapters(base: Backbone, spec: LoraSpec, seed: int) -> Backbone:
    """A view of a network with adapters that do nothing yet: A is random, and B is zero."""
    generator = torch.Generator().manual_seed(seed)
    device = next(base.parameters()).device

    def make(target: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        width, bound = shape[1], 1 / math.sqrt(shape[1])
        down = torch.empty(spec.rank, width, device="cpu").uniform_(
            -bound, bound, generator=generator
        )
        return down.to(device), torch.zeros(shape[0], spec.rank, device=device)

    return with_adapters(base, spec, make)


def adapted_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a network that have an adapter."""
    for path, module in network.named_modules():
        if isinstance(module._modules.get(A), Factor):
            yield path, module


def has_adapters(network: nn.Module) -> bool:
    """Whether a network has adapters."""
    return next(adapted_modules(network), None) is not None


def trained_part(network: nn.Module) -> nn.Module:
    """What is trained of a network, averaged and kept: its adapters, or all of it if it has none.

    The parameters are the network's own, under their names in it. Beside adapters there are the
    vectors by which an auxiliary is told steps.
    """
    found = list(adapted_modules(network))
    if not found:
        return network
    root = nn.Module()
    for path, module in found:
        node = root
        for part in path.split("."):
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = cast(nn.Module, node._modules[part])
        for name in (A, B):
            node.add_module(name, module.get_submodule(name))
    if (vectors := vectors_of(network)) is not None:
        root.add_module(STEP_VECTORS, vectors)
    return root


def frozen_part(network: nn.Module) -> list[nn.Parameter]:
    """The weights beside adapters, which every role has in common; none where there are none."""
    if not has_adapters(network):
        return []
    trained = {id(parameter) for parameter in trained_part(network).parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in trained]


def own_copy(network: Backbone) -> Backbone:
    """A copy of a network: of its adapters alone, over the same frozen weights, if it has some."""
    if not has_adapters(network):
        return copy.deepcopy(network)
    shared = [*frozen_part(network), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})


def adapter_targets(network: Backbone) -> list[str]:
    """The targets of a network's adapters."""
    return [
        path if isinstance(module, nn.Linear) else f"{path}.{adapted_name(module)}"
        for path, module in adapted_modules(network)
    ]


def adapted_name(module: nn.Module) -> str:
    """The parameter of a module that has the adapter, where it is no linear map."""
    return next(
        name for name in module._parameters if isinstance(vars(type(module)).get(name), property)
    )


@torch.no_grad()
def merged(network: Backbone) -> Backbone:
    """A plain network that computes the same: W + scale B A in the place of W.

    That is rounded once, from float32 at least. The one with the adapters, and whoever shares its
    weights, stay as they are.
    """
    plain = copy.deepcopy(network)
    for _, module in list(adapted_modules(plain)):
        own: Any = module
        name = "weight" if isinstance(module, nn.Linear) else adapted_name(module)
        up, down, scale = own.lora_B.weight, own.lora_A.weight, own.scale
        del own.lora_A, own.lora_B, own.scale
        module.__class__ = plain_kind(type(module))
        restore(module, name)
        weight = cast(nn.Parameter, module._parameters[name])
        dtype = torch.promote_types(weight.dtype, torch.float32)
        change = scale * (up.to(dtype) @ down.to(dtype))
        weight.data = (weight.to(dtype) + change).to(weight.dtype)
    restore_all(plain)
    return plain


def plain_kind(kind: type[nn.Module]) -> type[nn.Module]:
    """The kind of module that an adapted one was."""
    return cast(
        type[nn.Module], kind.__mro__[2] if issubclass(kind, AdaptedLinear) else kind.__mro__[1]
    )


@torch.no_grad()
def begin_with(network: Backbone, start: Backbone) -> None:
    """Let what is trained of a network compute what another one does.

    All weights of a network take an adapter in; adapters go on from adapters alone, with another
    scale if need be.
    """
    if not has_adapters(network):
        if has_adapters(start):
            network.load_state_dict(merged(start).state_dict())
        elif not is_stored(start):  # or it is the teacher, of whose own weights this is a copy
            network.load_state_dict(start.state_dict())
        return
    check_alike(network, start)
    before = dict(adapted_modules(start))
    for path, module in adapted_modules(network) if before else ():
        own, other = cast(Any, module), cast(Any, before[path])
        own.lora_A.weight.copy_(other.lora_A.weight)
        own.lora_B.weight.copy_(other.lora_B.weight * (other.scale / own.scale))


def check_alike(network: Backbone, start: Backbone) -> None:
    """Refuse adapters that cannot go on from those of a student, or from a student without."""
    if not has_adapters(start):
        if {id(p) for p in start.parameters()} < {id(p) for p in network.parameters()}:
            return  # it is the teacher itself, which new adapters start as
        raise SpecError(
            "`student.lora.rank` is set, but the student to start from has weights of its own.",
            "Make adapters of it with `dimo extract`, or leave `student.lora` out.",
        )
    shapes, wanted = (
        {name: tuple(p.shape) for name, p in trained_part(part).named_parameters()}
        for part in (start, network)
    )
    if shapes != wanted:
        raise SpecError(
            f"The student to start from has adapters of rank {rank_of(start)} at "
            f"{len(shapes) // 2} places, and `student.lora` asks for rank {rank_of(network)} at "
            f"{len(wanted) // 2}.",
            f"Set `student.lora.rank={rank_of(start)}` and the targets that it was trained with.",
        )


def rank_of(network: Backbone) -> int:
    """The rank of a network's adapters."""
    return rank_and_alpha(network)[0]


def rank_and_alpha(network: Backbone) -> tuple[int, float]:
    """The rank of a network's adapters, and what their scale is in units of 1/rank."""
    module: Any = next(module for _, module in adapted_modules(network))
    rank = len(module.lora_A.weight)
    return rank, rank * module.scale


def fingerprint(base: Backbone) -> str:
    """What tells a network's weights from others: the first rows of all that may have an adapter.

    In bf16, so that it is the same however they are stored.
    """
    digest = hashlib.sha256()
    for target in target_names(base):
        row = first_row(*owner_of(base, target)).to("cpu").contiguous()
        digest.update(row.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
