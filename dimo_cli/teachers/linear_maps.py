"""The matrices of a network's blocks, by name: nearly all of its weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from dimo_cli.teachers.protocol import Backbone

CONTAINERS = {nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Linear}


class Factor(nn.Module):
    """A factor of an adapter, under the name that peft gives its weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of its outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks_of(child)


def target_names(backbone: Backbone) -> list[str]:
    """The matrices of linear maps in the network's blocks.

    A linear map goes by its own name; a matrix that a module multiplies with itself, as attention
    with packed projections does, by that of the parameter.
    """
    kinds = tuple({type(block) for block in blocks_of(backbone)} - CONTAINERS)
    inside: set[int] = set()
    for module in (*blocks_of(backbone), *(m for m in backbone.modules() if isinstance(m, kinds))):
        inside |= {id(part) for part in module.modules()}
    return [
        f"{path}{'' if isinstance(module, nn.Linear) else f'.{name}'}"
        for path, module in backbone.named_modules()
        if id(module) in inside
        for name in matrices_of(module)
    ]


def matrices_of(module: nn.Module) -> list[str]:
    """The parameters of a module that are the matrix of a linear map."""
    if isinstance(module, nn.Linear):
        return ["weight"]
    if isinstance(module, (nn.Embedding, Factor)):
        return []
    return [
        name
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.ndim == 2 and name.endswith("weight")
    ]


def owner_of(backbone: nn.Module, target: str) -> tuple[nn.Module, str]:
    """The module that has a weight, and the weight's name in it."""
    path, _, last = target.rpartition(".")
    parent = backbone.get_submodule(path)
    if last in parent._parameters:
        return parent, last
    return parent.get_submodule(last), "weight"
