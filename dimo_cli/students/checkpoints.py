"""A checkpoint of a run as a student: the averaged weights, as the final student has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.published import StateDict
from dimo_cli.run_folder.checkpoints import AVERAGE, DamagedCheckpoint, read_contents, spec_of
from dimo_cli.run_folder.verifying import check_contents, is_of
from dimo_cli.specs.checkpoint import Contents
from dimo_cli.specs.manifest import MANIFEST, StudentManifest
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
        manifest = manifest_at(folder, contents, weights)
    if manifest.lora is not None:
        weights = peft_names(weights)
    return assemble_student(manifest, weights, f"`{name}`", options)


def look_at_checkpoint(name: AtCheckpoint) -> StudentManifest:
    """The manifest of such a student, without its weights."""
    folder = name.folder
    with readable(name):
        return manifest_at(folder, read_contents(folder))


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
    folder: Path, contents: Contents, weights: StateDict | None = None
) -> StudentManifest:
    """What the student of a checkpoint is; its hash is left out where it has no file of its own."""
    spec = spec_of(contents, folder)
    if spec is None or contents.teacher is None:
        raise SpecError(
            f"`{folder}` was written by an earlier dimo, and does not say whose student it is.",
            "Go on with the run: its next checkpoints do.",
        )
    is_lora = bool(spec.student.lora.rank)
    digest = weights_hash(contents, weights, is_lora)
    return describe_run(spec, contents.teacher, digest, contents.step)


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
