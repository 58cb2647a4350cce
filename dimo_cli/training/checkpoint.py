"""Checkpoints: written beside, fsynced, renamed; the newest readable one wins.

A checkpoint is a folder `step-N` with one safetensors file per network, the rest of the training
state (optimizers, random generators, counters) in `state.pt`, read with weights_only. Without its
`contents.json` none is read: sizes and hashes of all files, the run that it is of, and the settings
that this run cannot change. Of several ranks the first one writes; what is sharded is written by
all of them, in pieces.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dimo_cli.console.next_steps import resume
from dimo_cli.distributed.ranks import (
    as_first_says,
    from_all,
    is_first,
    is_lost_connection,
    own_rank,
    wait_for_all,
)
from dimo_cli.errors import MissingError, lacks_memory
from dimo_cli.files.torch_files import load_torch
from dimo_cli.files.writing import OLD, replace_folder, whole_file
from dimo_cli.run_folder.checkpoints import STATE, DamagedCheckpoint
from dimo_cli.run_folder.identity import ForeignCheckpoint, check_owner
from dimo_cli.run_folder.naming import steps_in
from dimo_cli.run_folder.state import is_refinement
from dimo_cli.run_folder.verifying import NOBODY, check_contents, facts_of, write_contents
from dimo_cli.specs.checkpoint import FileFacts
from dimo_cli.training.pieces import Pieces, fill, sharded_part, whole_part, write_piece

TEMPORARY, DAMAGED = ".tmp-", ".damaged"


def random_state(generator: torch.Generator, host: torch.Generator) -> dict[str, Any]:
    """The state of every source of randomness a run can touch; `host` may be the same one."""
    version, words, gauss = random.getstate()
    return {
        "run": generator.get_state(),
        "host": host.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if generator.device.type == "cuda" else [],
        "python": [version, list(words), gauss],
    }


def restore_random_state(
    state: dict[str, Any], generator: torch.Generator, host: torch.Generator
) -> None:
    """Continue every random stream where `random_state` left it.

    Earlier versions had no stream on the host: where it is one of its own, it begins anew. They
    kept the states of all cards, and not of a process's own alone.
    """
    if "host" in state:
        host.set_state(state["host"])
    generator.set_state(state["run"])
    torch.set_rng_state(state["torch"])
    cards = state["cuda"]
    if cards and generator.device.type == "cuda":
        torch.cuda.set_rng_state(cards[min(torch.cuda.current_device(), len(cards) - 1)])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def is_of_this_device(state: dict[str, Any], generator: torch.Generator) -> bool:
    """Whether a random state fits the generator: that of a card has another size than a CPU's."""
    return bool(state["run"].shape == generator.get_state().shape)


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owner = NOBODY
        """The run that they belong to, as soon as its folder is there."""

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return steps_in(self.root)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lives."""
        return self.root / f"step-{step}"

    def tidy(self) -> None:
        """Take away what a killed process left half done, and finish a replacement it began.

        Only for the process that holds the run's lock.
        """
        for path in list(self.root.glob(f"{OLD}*")):
            final = self.root / path.name.removeprefix(OLD)
            if not final.exists():
                path.rename(final)
        for pattern in (f"{OLD}*", f"{TEMPORARY}*"):
            for path in self.root.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def save(
        self,
        step: int,
        networks: Mapping[str, nn.Module],
        state: dict[str, Any],
        shards: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Path:
        """Write the checkpoint of a step whole, or not at all. Every rank has to call this.

        `shards` are further tensors by name, of which each rank holds other rows.
        """
        temporary = self.root / as_first_says(f"{TEMPORARY}step-{step}-{os.getpid()}")
        try:
            if is_first():
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            wait_for_all()
            known = self.write_pieces(temporary, networks, shards or {})
            if is_first():
                for name, network in networks.items():
                    with whole_file(temporary / f"{name}.safetensors") as file:
                        save_file(whole_part(network), file)
                torch.save(state, temporary / STATE)
                progress = state.get("progress")
                write_contents(temporary, known, self.owner, step, progress)
                replace_folder(temporary, self.path(step))
            wait_for_all()
        except (OSError, SafetensorError, RuntimeError) as error:  # as they say a full disk
            if isinstance(error, RuntimeError) and is_lost_connection(error):
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            run = self.root.parent
            again = resume(run, is_refinement=is_refinement(run))
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
            raise MissingError(
                f"Cannot write the checkpoint of step {step}: {reason}.",
                f"Check space and permissions of {self.root}, then continue with {again}: the "
                "older checkpoints are whole.",
            ) from error
        return self.path(step)

    def write_pieces(
        self,
        folder: Path,
        networks: Mapping[str, nn.Module],
        shards: Mapping[str, Mapping[str, Tensor]],
    ) -> dict[str, FileFacts]:
        """Write this rank's rows of what is sharded; returns the facts of all ranks' pieces."""
        tensors = {name: sharded_part(network) for name, network in networks.items()} | dict(shards)
        written = {}
        for name, part in tensors.items():
            if part:
                path = write_piece(folder, name, part, *own_rank())
                written[path.name] = facts_of(path)
        return {name: facts for files in from_all(written) for name, facts in files.items()}

    def load(self, step: int, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Check a checkpoint, fill the networks from it, and return the rest of the state."""
        check_owner(self.path(step), check_contents(self.path(step)), self.owner)
        return self.read(step, networks)

    def read(self, step: int, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Fill the networks from a checkpoint, strictly, and return the rest of the state."""
        folder = self.path(step)
        state: dict[str, Any] = load_torch(folder / STATE)
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in networks}
        for name, network in networks.items():
            fill(network, tensors[name], self.pieces(step, name))
        return state

    def pieces(self, step: int, name: str) -> Pieces:
        """What the ranks wrote of something that was sharded."""
        return Pieces(self.path(step), name)

    def load_newest(
        self, networks: Mapping[str, nn.Module]
    ) -> tuple[int, dict[str, Any], list[str]]:
        """Load the newest sound checkpoint; also say which newer ones are damaged, and in what.

        Those are set aside under another name, where they take no sound one's place. Of several
        ranks the first one decides.
        """
        if not is_first():
            step = as_first_says(0)
            return step, self.read(step, networks), []
        damaged: dict[Path, str] = {}
        for step in reversed(self.steps()):
            try:
                state = self.load(step, networks)
            except (torch.OutOfMemoryError, ForeignCheckpoint):  # nothing is damaged
                raise
            except Exception as error:  # any damage at all: fall back to the one before
                if lacks_memory(error):
                    raise
                damaged[self.path(step)] = reason_of(error)
                continue
            for folder in damaged:
                set_aside(folder)
            as_first_says(step)
            return step, state, [f"{path.name} ({reason})" for path, reason in damaged.items()]
        told = ", ".join(f"{path.name} ({reason})" for path, reason in damaged.items())
        raise MissingError(
            f"No readable checkpoint in {self.root}." + (f" Damaged: {told}." if told else ""),
            "Start a new run in another folder with `--out`.",
        )

    def prune(self, keep: int, best: int | None) -> None:
        """Delete all but the `keep` newest checkpoints and the best one."""
        for step in self.steps()[:-keep]:
            if step != best:
                # Renamed first: what is half deleted must not look like a checkpoint.
                doomed = self.root / f"{TEMPORARY}{self.path(step).name}"
                self.path(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def reason_of(error: Exception) -> str:
    """What is wrong with a checkpoint, in one line."""
    if isinstance(error, DamagedCheckpoint):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, so that it is neither read nor counted."""
    with suppress(OSError):
        aside = folder.with_name(folder.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
