"""Weights that are not finite, and where to look for the cause."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from dimo_cli.engine.sharding import local
from dimo_cli.files.sound import is_finite


def names_of_unsound(networks: Mapping[str, nn.Module]) -> list[str]:
    """Those with a weight that is not finite."""
    return [
        name
        for name, network in networks.items()
        if not all(is_finite(local(parameter)) for parameter in network.parameters())
    ]


def optimizer_path(network: str) -> str:
    """Where a network's optimizer is in the spec."""
    averages = dict.fromkeys(("ema", "short_average", "long_average"), "student.optimizer")
    paths = {"discriminator": "gan.optimizer", **averages}
    return paths.get(network, f"{network}.optimizer")
