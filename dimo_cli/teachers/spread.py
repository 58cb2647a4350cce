"""A frozen network spread over all ranks: each holds some rows of every linear map in its blocks.

A product gathers them, on the way back once more, and keeps nothing. All networks that share the
weights share this as well: there is one copy of the base, whoever looks through it. Every rank has
to take part in every pass. The first one keeps all rows in the CPU's memory, to draw by itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dimo_cli.teachers.linear_maps import owner_of, target_names
from dimo_cli.teachers.protocol import Backbone
from dimo_cli.teachers.stored import FIRST_ROW, ROWS, become_stored

WEIGHT = "weight"


class Kept:
    """A matrix that waits on the CPU, the same for all copies of its module."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return self


def spread(backbone: Backbone) -> None:
    """Leave this rank its rows of each linear map; networks made over it later share them."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for module in linear_maps(backbone):
        own: Any = module
        weight = cast(Tensor, module._parameters[WEIGHT]).detach()
        if FIRST_ROW not in vars(module):
            become_stored(module, WEIGHT)
        each = -(-len(weight) // world)
        mine = weight[rank * each : (rank + 1) * each]
        part = weight.new_zeros(each, *weight.shape[1:])
        part[: len(mine)] = mine
        own.rows = len(weight)
        own.kept = Kept(weight.cpu()) if rank == 0 else None
        module._parameters[WEIGHT] = nn.Parameter(part, requires_grad=False)


def linear_maps(backbone: Backbone) -> list[nn.Linear]:
    """The linear maps in the blocks; matrices that modules multiply with themselves stay whole."""
    owners = [owner_of(backbone, target)[0] for target in target_names(backbone)]
    return [module for module in owners if isinstance(module, nn.Linear)]


@torch.no_grad()
def make_whole(backbone: Backbone) -> None:
    """Give a network of the first rank all its rows again; its copies stay as they are."""
    for module in linear_maps(backbone):
        own: Any = module
        if ROWS in vars(module):
            weight = own.kept.whole.to(module.weight.device)
            module._parameters[WEIGHT] = nn.Parameter(weight, requires_grad=False)
            del own.rows, own.kept
