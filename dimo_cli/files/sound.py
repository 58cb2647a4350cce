"""Weights that a network can compute with: real numbers of a known kind, all of them finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimo_cli.errors import MissingError, NotFinite

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PART = 2**22  # numbers that are looked at together


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite.

    One that is not spoils every sum it is in, and a sum reads a tensor as fast as memory is and
    needs no room beside it. Only where large numbers add up to infinity are they asked one by one.
    """
    return all(
        bool(part.sum().isfinite()) or bool(part.isfinite().all())
        for part in tensor.detach().reshape(-1).split(PART)
    )


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that would be cast to something else, and those that are not finite.

    `expected` are the tensors of the network that they are for: a whole number stays one.
    """
    for name, tensor in weights.items():
        if not is_of_kind(tensor.dtype, expected[name].dtype):
            given = str(tensor.dtype).removeprefix("torch.")
            raise MissingError(
                f"{what} holds `{name}` as {given}, which is no kind of number for it.",
                "Weights are float32, float16, bfloat16 or float64: save it in one of these.",
            )
    check_finite(weights, what)


def is_of_kind(given: torch.dtype, expected: torch.dtype) -> bool:
    """Whether numbers of one dtype stand for numbers of another without a change of meaning."""
    if expected.is_floating_point:
        return given in FLOATS
    return given == expected or not (given.is_floating_point or given.is_complex)


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not finite, by name."""
    bad = [name for name, tensor in weights.items() if not is_finite(tensor)]
    if bad:
        more = f" and {len(bad) - 1} more" if bad[1:] else ""
        raise NotFinite(
            f"The weights of {what} are not finite: `{bad[0]}`{more}.",
            "The file is damaged, or the training that made it diverged: copy it again, or train "
            "again with lower learning rates.",
        )
