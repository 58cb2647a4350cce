"""A run's student with another average: put together from the snapshots that the run kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dimo_cli.engine.lora import own_copy
from dimo_cli.engine.power_ema import Mixture, Profile, exponent_of, mixture
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.run_folder.checkpoints import DamagedCheckpoint
from dimo_cli.run_folder.identity import identity_of
from dimo_cli.run_folder.naming import LAST
from dimo_cli.run_folder.snapshots import (
    PARTS,
    SNAPSHOTS,
    read_list,
    snapshot_path,
    snapshot_steps,
)
from dimo_cli.run_folder.verifying import check_file
from dimo_cli.specs.averaging import LONGEST, SHORTEST
from dimo_cli.specs.manifest import Choice
from dimo_cli.specs.snapshots import SnapshotList
from dimo_cli.students.checkpoints import open_checkpoint
from dimo_cli.students.names import AtCheckpoint
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.teachers.protocol import Backbone

MOST_ERROR = 0.25  # of a profile: beyond, the average is another one than was asked for


@dataclass(frozen=True)
class Kept:
    """The snapshots of a run: the steps they are of, and the two lengths."""

    run: Path
    steps: tuple[int, ...]
    lengths: tuple[float, float]

    @property
    def profiles(self) -> list[Profile]:
        """What each average weighs: both of a step, then those of the next."""
        return [Profile(exponent_of(one), step) for step in self.steps for one in self.lengths]

    def mixture(self, length: float) -> Mixture:
        """How an average of a length is put together; refused where it would be another one."""
        if not SHORTEST <= length <= LONGEST:
            raise SpecError(
                f"`--length` {length:g} is out of range: {SHORTEST} to {LONGEST} are possible.",
                "A length is the spread of the average as a share of the run; at 0.289 it is the "
                "plain mean of all steps.",
            )
        made = mixture(self.profiles, Profile(exponent_of(length), self.steps[-1]))
        if made.error > MOST_ERROR:
            raise SpecError(
                f"A length of {length:g} cannot be made from the {len(self.steps)} snapshots of "
                f"`{self.run}`: what comes nearest to its weights is off by {made.error:.0%}.",
                f"Choose a length nearer to {self.lengths[0]:g} or {self.lengths[1]:g}, or train "
                "with a lower `student.ema.post_hoc.every`.",
            )
        return made

    def combine(self, made: Mixture) -> dict[str, Tensor]:
        """The weights of a mixture, summed in float64, one after another."""
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            paths = [snapshot_path(self.run, step) for step in self.steps]
            files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
            sources = [(file, part) for file in files for part in PARTS]
            shares = made.shares.tolist()
            for key in files[0].keys():  # noqa: SIM118 - it is no mapping
                part, _, name = key.partition("/")
                if part == PARTS[0]:
                    tensors = (file.get_tensor(f"{one}/{name}") for file, one in sources)
                    found[name] = weighted_sum(shares, tensors)
        return found


def weighted_sum(shares: Sequence[float], tensors: Iterable[Tensor]) -> Tensor:
    """Their sum, in float64 and back."""
    total: Tensor | float = 0.0
    for share, tensor in zip(shares, tensors, strict=True):
        total = total + share * tensor.double()
    assert isinstance(total, Tensor)
    return total.float()


def kept_by(run: Path) -> Kept:
    """The snapshots of a run, if every file is as it was written."""
    listed = read_list(run)
    if listed.run != identity_of(run):
        raise SpecError(
            f"The snapshots in `{run / SNAPSHOTS}` are of another run.",
            "Name the folder that they were written to.",
        )
    steps = tuple(snapshot_steps(run))
    if not steps:
        raise MissingError(
            f"`{run}` has no snapshots yet.",
            "The first is written after `student.ema.post_hoc.every` steps.",
        )
    for step in steps:
        check_snapshot(snapshot_path(run, step), listed)
    return Kept(run, steps, listed.lengths)


def check_snapshot(path: Path, listed: SnapshotList) -> None:
    """Refuse a snapshot that is not as it was written."""
    try:
        if path.name not in listed.files:
            raise DamagedCheckpoint(f"{path.name} is not on the list of snapshots")
        check_file(path.parent, path.name, listed.files[path.name])
    except DamagedCheckpoint as problem:
        raise MissingError(
            f"`{path}` is damaged: {problem}.",
            "Delete that file to go on with the others, which make coarser averages.",
        ) from None


def open_last(run: Path, options: LoadOptions) -> Student:
    """The run's student as it is: what a snapshot does not hold is in its last checkpoint."""
    return open_checkpoint(AtCheckpoint(run, LAST), options)


def with_average(student: Student, kept: Kept, length: float) -> tuple[Student, Mixture]:
    """The student with the average of another length; its manifest has no hash of it yet."""
    made = kept.mixture(length)
    try:
        weights = kept.combine(made)
    except (SafetensorError, OSError) as problem:
        raise MissingError(f"A snapshot of `{kept.run}` cannot be read: {problem}.") from None
    step, training = kept.steps[-1], student.manifest.training
    if training.steps and training.samples is not None:
        samples = training.samples // training.steps * step
        training = training.model_copy(update={"steps": step, "samples": samples})
    chosen = Choice(rule="average", step=step, length=length, snapshots=len(kept.steps))
    manifest = student.manifest.model_copy(update={"training": training, "chosen": chosen})
    backbone = filled(own_copy(student.backbone), weights)
    return replace(student, manifest=manifest, backbone=backbone), made


@torch.no_grad()
def filled(backbone: Backbone, weights: Mapping[str, Tensor]) -> Backbone:
    """A network with these weights in place of its own, each of which it must have."""
    own = dict(backbone.named_parameters())
    if unknown := sorted(weights.keys() - own.keys()):
        raise MissingError(f"The snapshots hold weights that the student lacks: {unknown[0]}.")
    for name, weight in weights.items():
        own[name].copy_(weight)
    return backbone
