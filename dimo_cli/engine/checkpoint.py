"""Checkpoints: written beside, fsynced, renamed; the newest readable one wins.

A checkpoint is a folder `step-N` with one safetensors file per network and the rest of the
training state (optimizers, random generators, counters) in `state.pt`, read with weights_only.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dimo_cli.errors import MissingError

STEP_FOLDER = re.compile(r"step-(\d+)$")


def fsync_path(path: Path) -> None:
    """Make what was written to a file or folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder into place, over an older one of the same name."""
    for path in [*temporary.iterdir(), temporary]:
        fsync_path(path)
    old = final.with_name(f".old-{final.name}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    fsync_path(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def random_state(generator: torch.Generator) -> dict[str, Any]:
    """The state of every source of randomness a run can touch."""
    version, words, gauss = random.getstate()
    return {
        "run": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(words), gauss],
    }


def restore_random_state(state: dict[str, Any], generator: torch.Generator) -> None:
    """Continue every random stream where `random_state` left it."""
    generator.set_state(state["run"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        names = self.root.iterdir() if self.root.is_dir() else []
        found = [STEP_FOLDER.match(path.name) for path in names]
        return sorted(int(match.group(1)) for match in found if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lives."""
        return self.root / f"step-{step}"

    def save(self, step: int, networks: Mapping[str, nn.Module], state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step whole, or not at all."""
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".tmp-step-{step}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for name, network in networks.items():
                save_file(contiguous(network), temporary / f"{name}.safetensors")
            torch.save(state, temporary / "state.pt")
            replace_folder(temporary, self.path(step))
        except (OSError, SafetensorError, RuntimeError) as error:  # as they say a full disk
            shutil.rmtree(temporary, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            raise MissingError(
                f"Cannot write the checkpoint of step {step}: {reason}.",
                f"Check space and permissions of {self.root}; the older checkpoints are whole.",
            ) from error
        return self.path(step)

    def load(self, step: int, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Fill the networks from a checkpoint, strictly, and return the rest of the state."""
        folder = self.path(step)
        path = folder / "state.pt"
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in networks}
        for name, network in networks.items():
            network.load_state_dict(tensors[name])
        return state

    def load_newest(
        self, networks: Mapping[str, nn.Module]
    ) -> tuple[int, dict[str, Any], list[str]]:
        """Load the newest readable checkpoint; also say which newer ones were not readable."""
        unreadable: list[str] = []
        for step in reversed(self.steps()):
            try:
                return step, self.load(step, networks), unreadable
            except Exception as error:  # any damage at all: fall back to the one before
                unreadable.append(f"{self.path(step)} ({type(error).__name__})")
        raise MissingError(
            f"No readable checkpoint in {self.root}."
            + (f" Damaged: {', '.join(unreadable)}." if unreadable else ""),
            "Start a new run in another folder with `--out`.",
        )

    def prune(self, keep: int, best: int | None) -> None:
        """Delete all but the `keep` newest checkpoints and the best one."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)


def contiguous(network: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict that safetensors can write."""
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
