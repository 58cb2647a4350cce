"""Published weights put into networks, strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from dimo_cli.errors import DimoError, MissingError
from dimo_cli.files.sound import check_weights
from dimo_cli.hub.published import HubFile, Published, StateDict, Store

N = TypeVar("N", bound=nn.Module)


@contextmanager
def described_by(file: HubFile) -> Iterator[None]:
    """Refuse a configuration file of which no network can be built, whatever is wrong with it."""
    try:
        yield
    except DimoError:
        raise
    except Exception as error:  # of pydantic, of the networks' library, or of torch
        reason = " ".join(str(error).split())[:160]
        raise MissingError(
            f"`{file}` does not describe a network that dimo knows ({type(error).__name__}: "
            f"{reason}).",
            f"Is it the published file of `{file.repo}`?",
        ) from error


def on_meta(build: Callable[[], N]) -> N:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return build().requires_grad_(False).eval()


def fill(network: N, weights: StateDict, what: str) -> N:
    """Give a meta network its weights, strictly: no key too few, none too many, no other shape."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    for problem, names in (("lacks", missing), ("has unknown", unexpected), ("differs:", shapes)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise MissingError(
                f"{what} does not fit this architecture: it {problem} {shown}.",
                "Is it the file of this preset? For a model of your own, describe it with "
                "`--set teacher.architecture.KEY=VALUE`.",
            )
    check_weights(weights, expected, what)
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    network.load_state_dict(typed, assign=True)
    return network.requires_grad_(False).eval()


def fill_published(network: N, published: Published, store: Store) -> N:
    """Give a meta network its published weights."""
    return fill(network, store.weights(published), f"`{published.files[0]}`")
