"""What a GPU's tensor cores are given: bf16 weights where nothing trains, and TF32 where fp32 is.

Under bf16 autocast a weight is rounded to bf16 each time it is used, and a frozen one is never kept
so: stored in bf16, it gives the same numbers, in half the memory and without being rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dimo_cli.teachers.protocol import Backbone


def matrices(backbone: Backbone) -> list[nn.Parameter]:
    """The weights that only matrix products and convolutions use, which autocast rounds anyway.

    Norms, positions and embeddings are not among them: those work in float32.
    """
    others = {id(parameter) for parameter in backbone.embedding_parameters()}
    for module in backbone.modules():
        if isinstance(module, nn.Embedding):
            others |= {id(parameter) for parameter in module.parameters()}
    return [
        parameter
        for name, parameter in backbone.named_parameters()
        if name.endswith("weight")
        and parameter.ndim in (2, 4)
        and parameter.is_floating_point()
        and id(parameter) not in others
    ]


def store_in_bf16(backbone: Backbone) -> Callable[[], None]:
    """Round a frozen network's matrices for good, or until the function that is returned is called.

    The originals wait in the CPU's memory. Whoever shares the parameters shares this, too.
    """
    rounded = matrices(backbone)
    originals: list[Tensor] = [parameter.data.cpu() for parameter in rounded]
    for parameter in rounded:
        if parameter.requires_grad:
            raise ValueError("a network that is trained needs all its digits")
        parameter.data = parameter.data.to(torch.bfloat16)

    def restore() -> None:
        for parameter, original in zip(rounded, originals, strict=True):
            parameter.data = original.to(parameter.device)

    return restore


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let CUDA multiply float32 numbers with 10 bits of mantissa meanwhile, 8 times as fast."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
