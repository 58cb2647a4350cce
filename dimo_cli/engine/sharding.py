"""Networks whose blocks are spread over all ranks (FSDP2), and what is left whole in each rank.

The blocks hold nearly all weights, so that their shards decide the memory. Embeddings, norms and
the head stay whole: the head is called on chunks of masked positions, whose number differs between
ranks, and gathering it each time would make ranks wait for calls that never come.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dimo_cli.distributed.ranks import sharding_wanted
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import ROUNDS
from dimo_cli.teachers.linear_maps import blocks_of
from dimo_cli.teachers.protocol import Backbone

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.tensor import DTensor


GATHERED = 3  # blocks whole at a time: one at work with its gradient, and the next


def check_shardable(spec: DistillSpec) -> None:
    """Refuse settings that sharding does not go with."""
    if spec.train.compile is True:
        raise SpecError(
            "`train.compile` cannot be combined with sharding: compiled blocks are not gathered.",
            "Leave out one of `--shard` and `train.compile`.",
        )
    if spec.student.latent:
        raise SpecError(
            "`student.latent` cannot be combined with sharding: its token joins the sequence after "
            "the blocks were spread.",
            "Leave out one of `--shard` and `student.latent`.",
        )
    if named := [one.kind for one in spec.objectives if one.kind in ROUNDS]:
        raise SpecError(
            f"Objective {named[0]} cannot be combined with sharding: its rounds keep whole copies "
            "of the student.",
            "Leave out `--shard`, or choose another objective.",
        )
    if spec.student.ema.offload:
        raise SpecError(
            "`student.ema.offload` cannot be combined with sharding: the average is sharded, too.",
            "Leave out one of `--shard` and `student.ema.offload`.",
        )
    if spec.student.ema.post_hoc.every is not None:
        raise SpecError(
            "`student.ema.post_hoc` cannot be combined with sharding: its averages are whole.",
            "Leave out one of `--shard` and `student.ema.post_hoc.every`.",
        )


def sharding_plugin(spec: DistillSpec) -> FullyShardedDataParallelPlugin | None:
    """How accelerate's configuration wants networks to be sharded; None where it does not."""
    if not sharding_wanted() or not dist.is_initialized():
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise SpecError(
            f"The launcher's configuration asks for version {version} of FSDP; dimo knows "
            "version 2.",
            "Set `fsdp_version: 2`, or use `dimo distill --gpus N --shard`.",
        )
    check_shardable(spec)
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy

    plugin = FullyShardedDataParallelPlugin()
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise SpecError(
            "`fsdp_offload_params` is not supported.",
            "Set it to false; for less memory, set `train.gradient_checkpointing=true`.",
        )
    return plugin


def shard_blocks(
    network: Backbone, plugin: FullyShardedDataParallelPlugin, kept: Iterable[nn.Parameter] = ()
) -> None:
    """Spread the blocks of a network over all ranks, in place, but for weights that are `kept`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    whole = set(kept)
    blocks = [block for block in blocks_of(network) if set(block.parameters()) - whole]
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            reshard_after_forward=plugin.reshard_after_forward,
            ignored_params=whole,
        )
    inside = {parameter for block in blocks for parameter in block.parameters()}
    whole |= {parameter for parameter in network.parameters() if parameter not in inside}
    fully_shard(network, mesh=mesh, ignored_params=whole)
    register_fsdp_forward_method(network, "hidden")


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this rank holds only some rows of it."""
    # Imported here, it would delay every start by most of a second; who shards has imported it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def own_rows(tensor: Tensor) -> slice:
    """Which rows of a tensor this rank holds."""
    if not is_sharded(tensor):
        return slice(0, len(tensor)) if tensor.ndim else slice(None)
    count, rank = tensor.device_mesh.size(), tensor.device_mesh.get_local_rank()
    each = -(-len(tensor) // count)  # as torch.chunk: the last ones may get less, or nothing
    start = min(len(tensor), rank * each)
    rows = slice(start, min(len(tensor), start + each))
    assert rows.stop - rows.start == len(tensor.to_local())
    return rows


@torch.no_grad()
def gather(network: nn.Module, into: nn.Module | None) -> None:
    """Fill `into` with the whole weights of a sharded network; every rank takes part.

    Ranks without an `into` only give what they have.
    """
    targets = None if into is None else into.state_dict()
    for name, tensor in network.state_dict().items():
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if targets is not None:
            targets[name].copy_(whole)
