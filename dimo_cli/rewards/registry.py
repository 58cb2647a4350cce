"""Which rewards there are. The only place that maps a name to a reward's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.plugins import register_plugins

if TYPE_CHECKING:  # names are checked before torch is imported
    import torch

    from dimo_cli.hub.store import HubStore
    from dimo_cli.rewards.protocol import Reward
    from dimo_cli.specs.base import Spec

MODULES = {
    "clip": "clip",
    "pickscore": "clip",
    "hps_v2.0": "clip",
    "hps_v2.1": "clip",
    "image_reward": "image_reward",
    "aesthetic": "aesthetic",
    "shapes_clip": "shapes",
    "shapes_preference": "shapes",
    "shapes_witness": "shapes",
    "emoji_clip": "emoji",
    "emoji_preference": "emoji",
}


def _loader(name: str) -> Callable[..., Reward]:
    def load(store: HubStore, sizes: Spec | None = None) -> Reward:
        module = import_module(f"dimo_cli.rewards.{MODULES[name]}")
        reward: Reward = module.load(name, store, sizes)
        return reward

    return load


REWARDS: dict[str, Callable[..., Reward]] = {name: _loader(name) for name in MODULES}


def register_reward(name: str, load: Callable[[HubStore], Reward]) -> None:
    """Add a reward of one's own, to be used by its name wherever dimo's are."""
    if name in REWARDS:
        raise SpecError(f"There is a reward `{name}` already.", "Choose another name.")
    REWARDS[name] = lambda store, sizes=None: load(store)


def load_plugins() -> None:
    """Register the rewards of installed packages (entry point group `dimo.rewards`)."""
    register_plugins("dimo.rewards", register_reward, known=REWARDS)


def check_reward(name: str) -> None:
    """Refuse a reward that does not exist."""
    if name not in REWARDS:
        load_plugins()
    if name not in REWARDS:
        raise SpecError(f"{name!r} is not a known reward.", did_you_mean(name, REWARDS))


def load_reward(
    name: str, store: HubStore, device: torch.device | str = "cpu", sizes: Spec | None = None
) -> Reward:
    """A reward with its published weights; `sizes` is for a network of one's own."""
    check_reward(name)
    return REWARDS[name](store, sizes).to(device)


def blank_reward(name: str) -> Reward:
    """A reward in its published sizes without weights, for planning: nothing is downloaded.

    One of a user's own has no such form, and is loaded.
    """
    check_reward(name)
    if name not in MODULES:
        from dimo_cli.hub.store import HubStore

        return REWARDS[name](HubStore())
    reward: Reward = import_module(f"dimo_cli.rewards.{MODULES[name]}").blank(name)
    return reward


def load_rewards(names: Sequence[str], store: HubStore, device: torch.device) -> dict[str, Reward]:
    """Reward models by name, ready to be differentiated."""
    rewards = {name: load_reward(name, store, device) for name in names}
    for reward in rewards.values():
        reward.gradient_checkpointing = True
    return rewards
