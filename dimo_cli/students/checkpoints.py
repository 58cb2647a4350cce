"""A checkpoint of a run as a student: the averaged weights, as the final student has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dimo_cli.engine.lora import own_copy, trained_part
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill
from dimo_cli.hub.published import StateDict
from dimo_cli.run_folder.checkpoints import AVERAGE, DamagedCheckpoint, read_contents, spec_of
from dimo_cli.run_folder.listing import spec_values, within
from dimo_cli.run_folder.naming import (
    BEST,
    LAST,
    best_step,
    checkpoint_names,
    newest_facts,
)
from dimo_cli.run_folder.verifying import check_contents, is_of
from dimo_cli.specs.checkpoint import Contents
from dimo_cli.specs.manifest import MANIFEST, Choice, StudentManifest
from dimo_cli.students.adapters import adapters_sha256, peft_names
from dimo_cli.students.folder import describe_run, write_network
from dimo_cli.students.names import AtCheckpoint
from dimo_cli.students.student import LoadOptions, Student, assemble_student

WHOLE = f"{AVERAGE}.safetensors"


def open_checkpoint(name: AtCheckpoint, options: LoadOptions) -> Student:
    """The student that a run had at a checkpoint; every file that is read is checked."""
    folder = name.folder
    with readable(name):
        contents = check_contents(folder, AVERAGE)
        weights = averaged_weights(folder, contents)
        manifest = manifest_at(name, contents, weights)
    if manifest.lora is not None:
        weights = peft_names(weights)
    return assemble_student(manifest, weights, f"`{name}`", options)


def at_best(run: Path, student: Student) -> Student | None:
    """What a run's student was at the best checkpoint; None where that is its own, or unknown."""
    step = best_step(run)
    if step is None or step == student.manifest.training.steps:
        return None
    if BEST not in checkpoint_names(run):
        return None
    name = AtCheckpoint(run, BEST)
    with readable(name):
        contents = check_contents(name.folder, AVERAGE)
        weights = averaged_weights(name.folder, contents)
        manifest = manifest_at(name, contents, weights)
    device = next(student.backbone.parameters()).device
    backbone = own_copy(student.backbone)
    fill(trained_part(backbone), weights, f"`{name}`")
    return replace(student, manifest=manifest, backbone=backbone.to(device).eval())


def look_at_checkpoint(name: AtCheckpoint) -> StudentManifest:
    """The manifest of such a student, without its weights."""
    with readable(name):
        return manifest_at(name, read_contents(name.folder))


@contextmanager
def readable(name: AtCheckpoint) -> Iterator[None]:
    """Say in a sentence what is wrong with a checkpoint that cannot be read."""
    try:
        yield
    except (DamagedCheckpoint, SafetensorError) as problem:
        raise MissingError(
            f"`{name}` is damaged: {problem}.", "Name another checkpoint of the run."
        ) from None


def manifest_at(
    name: AtCheckpoint, contents: Contents, weights: StateDict | None = None
) -> StudentManifest:
    """What the student of a checkpoint is; its hash is left out where it has no file of its own."""
    spec = spec_of(contents, name.folder)
    if spec is None or contents.teacher is None:
        raise SpecError(
            f"`{name.folder}` was written by an earlier dimo, and does not say whose student it "
            "is.",
            "Go on with the run: its next checkpoints do.",
        )
    digest = weights_hash(contents, weights, bool(spec.student.lora.rank))
    return describe_run(spec, contents.teacher, digest, contents.step, choice_of(name, contents))


def choice_of(name: AtCheckpoint, contents: Contents) -> Choice | None:
    """By what rule a checkpoint was named."""
    if contents.step is None:
        return None
    if name.checkpoint == LAST:
        return Choice(rule="last", step=contents.step)
    if name.checkpoint != BEST:
        return Choice(rule="step", step=contents.step)
    progress = newest_facts(name.run).get("progress", {})
    if progress.get("best_step") != contents.step:  # the run goes on, and has a better one by now
        progress = {}
    return Choice(
        rule="best",
        step=contents.step,
        metric=progress.get("best_metric"),
        value=progress.get("best_value"),
        images=within(spec_values(name.run), "monitor", "fid_samples", int),
    )


def weights_hash(contents: Contents, weights: StateDict | None, is_lora: bool) -> str:
    """The hash that the file of these weights has, or would have."""
    if WHOLE not in contents.files:
        raise DamagedCheckpoint(f"it has no {WHOLE}")
    if is_lora:
        return adapters_sha256(weights) if weights else "0" * 64
    if not is_sharded(contents):
        return contents.files[WHOLE].sha256
    return hashlib.sha256(save(weights)).hexdigest() if weights else "0" * 64


def is_sharded(contents: Contents) -> bool:
    """Whether several ranks wrote the average, each its rows."""
    return any(is_of(name, AVERAGE) and name != WHOLE for name in contents.files)


def averaged_weights(folder: Path, contents: Contents) -> StateDict:
    """The averaged weights of a checkpoint, put together where several ranks wrote them."""
    weights = load_file(folder / WHOLE) if WHOLE in contents.files else {}
    parts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(contents.files):
        if is_of(name, AVERAGE) and name != WHOLE:
            for key, rows in load_file(folder / name).items():
                parts.setdefault(key, []).append(rows)
    return {**weights, **{key: torch.cat(rows) for key, rows in parts.items()}}


def write_checkpoint(name: AtCheckpoint, folder: Path, options: LoadOptions) -> None:
    """Write the student of a checkpoint into a folder of its own."""
    student = open_checkpoint(name, options)
    folder.mkdir(parents=True)
    write_network(student.backbone, folder, student.manifest.teacher)
    text = student.manifest.model_dump_json(indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
