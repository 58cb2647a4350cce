"""The matrices of a frozen network in fewer bits: bf16, or int8 with a scale for each row.

Weights alone are rounded, and nothing that is multiplied with them. So a network of rounded weights
is a network like any other, whose gradients are exact. With int8 inputs as well, products are
faster, and what flows back is the gradient of another function.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.specs.stored import StoredAs
from dimo_cli.teachers.linear_maps import owner_of, target_names
from dimo_cli.teachers.protocol import Backbone

LARGEST = 127  # of int8, on both sides
ROWS = "rows"  # of a module's matrix, where this rank holds some of them
FIRST_ROW = "first_row"  # what a module remembers of its matrix: by that a network is known


def rounded(weight: Tensor, kind: StoredAs) -> tuple[Tensor, Tensor | None]:
    """A matrix [out, in] in fewer bits, and the scale of each row where it has one."""
    if kind == "bf16":
        return weight.to(torch.bfloat16), None
    scale = weight.float().abs().amax(1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale).round().to(torch.int8), scale


def restored(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The numbers of a stored matrix."""
    return weight.to(dtype) if scale is None else (weight * scale).to(dtype)


def numbers_of(module: nn.Module, name: str) -> Tensor:
    """The numbers of a module's matrix in float32, however it is stored."""
    weight = gathered(cast(Tensor, module._parameters[name]), vars(module).get(ROWS))
    return restored(weight, module._buffers.get(scale_name(name)), torch.float32)


def scale_name(name: str) -> str:
    """The buffer beside a matrix of int8."""
    return f"{name}_scale"


def in_bytes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in a quarter of their size: int8 with a scale for each row, and vectors halved."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            found[name] = tensor.half()
            continue
        values, scale = rounded(tensor.flatten(1), "int8")
        assert scale is not None
        found |= {name: values.view_as(tensor), scale_name(name): scale.squeeze(1)}
    return found


def in_numbers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds as a network has it; what is not in bytes stays as it is."""
    scales = {name: scale_name(name) for name in weights if scale_name(name) in weights}
    found = {name: tensor for name, tensor in weights.items() if name not in scales.values()}
    for name, scale in scales.items():
        rows = restored(weights[name].flatten(1), weights[scale][:, None], torch.float32)
        found[name] = rows.view_as(weights[name])
    return found


def gathered(weight: Tensor, rows: int | None) -> Tensor:
    """A whole matrix of so many rows, of which each rank gives its own; None: it is whole here."""
    if rows is None:
        return weight
    parts = weight.new_empty(len(weight) * dist.get_world_size(), *weight.shape[1:])
    dist.all_gather_into_tensor(parts, weight.contiguous())
    return parts[:rows]


class Product(torch.autograd.Function):
    """x W^T + b with a stored W, of which nothing larger is kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        bias: Tensor | None = None,
        rows: int | None = None,
    ) -> Tensor:
        """Map [..., in] to [..., out]; of so many `rows`, this rank has some."""
        ctx.save_for_backward(weight, scale)
        ctx.rows = rows
        bias = None if bias is None else bias.to(x.dtype)
        return F.linear(x, restored(gathered(weight, rows), scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradient at x: all else is frozen."""
        weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        whole = restored(gathered(weight, ctx.rows), scale, gradient.dtype)
        return gradient @ whole, None, None, None, None


class StoredLinear(nn.Linear):
    """A linear map of a stored matrix."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        place = input.device.type
        if torch.is_autocast_enabled(place):
            input = input.to(torch.get_autocast_dtype(place))
        scale, rows = self._buffers.get(scale_name("weight")), vars(self).get(ROWS)
        found: Tensor = Product.apply(input, self.weight, scale, self.bias, rows)
        return found


@cache
def stored_linear(kind: type[nn.Linear]) -> type[nn.Linear]:
    """A kind of linear map with a stored matrix."""
    return type(f"Stored{kind.__name__}", (StoredLinear, kind), {"plain": kind})


@cache
def stored_matrix(kind: type[nn.Module], name: str) -> type[nn.Module]:
    """A module that multiplies with a weight itself, which it finds in float32."""
    return type(
        f"Stored{kind.__name__}",
        (kind,),
        {name: property(lambda module: numbers_of(module, name)), "plain": kind},
    )


@torch.no_grad()
def store(backbone: Backbone, kind: StoredAs) -> None:
    """Round the matrices in a frozen network's blocks for good; embeddings, head and norms stay.

    Whoever shared the weights before keeps them as they were.
    """
    if kind == "fp32":
        return
    for target in target_names(backbone):
        module, name = owner_of(backbone, target)
        if FIRST_ROW in vars(module):
            continue
        values, scale = rounded(cast(Tensor, module._parameters[name]), kind)
        become_stored(module, name)
        module._parameters[name] = nn.Parameter(values, requires_grad=False)
        if scale is not None:
            module.register_buffer(scale_name(name), scale)


def become_stored(module: nn.Module, name: str) -> None:
    """Let a module compute with a stored matrix, whichever it will be."""
    own: Any = module
    own.first_row = name, cast(Tensor, module._parameters[name])[0].to(torch.bfloat16).clone()
    of: Any = type(module)
    is_linear = isinstance(module, nn.Linear)
    module.__class__ = stored_linear(of) if is_linear else stored_matrix(of, name)


def is_stored(network: nn.Module) -> bool:
    """Whether a network has stored matrices."""
    return any(FIRST_ROW in vars(module) for module in network.modules())


def first_row(module: nn.Module, name: str) -> Tensor:
    """The first row of a module's matrix in bf16, as it was before it was stored."""
    known, row = vars(module).get(FIRST_ROW, (None, None))
    if known == name:
        return cast(Tensor, row)
    return cast(Tensor, module._parameters[name]).detach()[0].to(torch.bfloat16)


@torch.no_grad()
def restore(module: nn.Module, name: str) -> None:
    """Give a module its matrix in float32, and make it what it was."""
    if vars(module).get(FIRST_ROW, ("",))[0] != name:
        return
    weight = nn.Parameter(numbers_of(module, name), requires_grad=False)
    own: Any = module
    module.__class__ = own.plain
    module._parameters[name] = weight
    module._buffers.pop(scale_name(name), None)
    del own.first_row


def restore_all(backbone: Backbone) -> None:
    """Give a network all its stored matrices in float32."""
    for target in target_names(backbone):
        restore(*owner_of(backbone, target))


def plain_copy(backbone: Backbone) -> Backbone:
    """A copy of a network, with the numbers of stored matrices in float32."""
    found = copy.deepcopy(backbone)
    restore_all(found)
    return found
