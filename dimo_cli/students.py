"""The student folder: a one-step generator on disk, and in memory.

    student/dimo.json           what it is and how it is sampled
    student/model.safetensors   averaged backbone weights
    student/README.md           model card
    student/preview.png         a grid of samples

Nothing in it depends on the clock or the machine: the same run gives the same bytes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.checkpoint import contiguous
from dimo_cli.engine.sampling import sample_student
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub import file_sha256
from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import DistillSpec, Divergence, InitSpec, TeacherSource
from dimo_cli.teachers.blueprint import StateDict, fill
from dimo_cli.teachers.digits import builtin_path
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.registry import EMBEDDED, load_plugins, load_teacher, teacher_names

MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"
BUILTIN = {name: Path(builtin_path(f"{name}-student")) for name in ("digits", "shapes")}
"""Students that ship in the package, by the teacher's name."""


class TeacherFacts(Spec):
    """Which teacher a student was distilled from."""

    name: str
    family: str
    revision: str
    license: str
    architecture: dict[str, Any] = Field(default_factory=dict)


class TrainingFacts(Spec):
    """How a student was made; what its makers did not publish is null."""

    method: str = "Di[M]O"
    steps: int | None = None
    samples: int | None = None
    seed: int | None = None
    divergence: Divergence | None = None


class StudentManifest(Spec):
    """dimo.json, version 1."""

    format: Literal[1] = 1
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What else to load beside a student, and from where."""

    with_teacher: bool = False
    """Also the teacher's backbone, to sample or compare it; else only what the student needs."""
    local_dir: str | None = None
    say: Callable[[str], None] = lambda line: None
    device: torch.device | str | None = None
    """Where its networks go; None: the GPU if there is one."""


@dataclass(frozen=True)
class Student:
    """A one-step generator ready to sample: its backbone within its teacher's world."""

    manifest: StudentManifest
    teacher: Teacher
    backbone: Backbone

    @property
    def short_id(self) -> str:
        """Enough of the weights' hash to tell students apart."""
        return self.manifest.weights_sha256[:12]

    def sample(
        self,
        cond: Cond,
        generator: torch.Generator,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
    ) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1], in one pass of the backbone and one decode."""
        tokens = sample_student(
            self.backbone,
            self.teacher.space,
            self.teacher.tokenizer,
            cond,
            self.manifest.init,
            generator,
            temperature=temperature or self.manifest.temperature,
            top_k=top_k,
            top_p=top_p,
        )
        with torch.inference_mode():
            return self.teacher.tokenizer.decode(tokens, cond)


def describe_run(
    spec: DistillSpec, teacher: Teacher, weights_sha256: str, steps: int | None = None
) -> StudentManifest:
    """The manifest of the student that a run made in so many steps (None: all of the spec's)."""
    steps = spec.train.steps if steps is None else steps
    batch = spec.train.batch_size * spec.train.accumulate
    return StudentManifest(
        dimo_version=__version__,
        teacher=TeacherFacts(
            name=teacher.name,
            family=teacher.family,
            revision=teacher.revision,
            license=teacher.license,
            architecture=spec.teacher.architecture,
        ),
        init=spec.init,
        temperature=spec.student.temperature,
        training=TrainingFacts(
            method=spec.method,
            steps=steps,
            samples=steps * batch,
            seed=spec.train.seed,
            divergence=spec.loss.divergence,
        ),
        weights_sha256=weights_sha256,
    )


def save_student(
    folder: Path,
    spec: DistillSpec,
    teacher: Teacher,
    backbone: Backbone,
    steps: int | None = None,
) -> Student:
    """Write manifest, weights and card; the preview is drawn by whoever can draw."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(backbone), folder / WEIGHTS)
    digest = file_sha256(folder / WEIGHTS)
    manifest = describe_run(spec, teacher, digest, steps)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(manifest, teacher.takes_prompts), encoding="utf-8")
    return Student(manifest, teacher, backbone.eval())


def model_card(manifest: StudentManifest, teacher_takes_prompts: bool) -> str:
    """A short model card: what it is, how to use it, where it comes from."""
    teacher, training = manifest.teacher, manifest.training
    assert training.divergence is not None
    divergence = ", ".join(str(value) for value in training.divergence.model_dump().values())
    seen = "It was trained without any images, on the teacher alone."
    if "GAN" in training.method:
        seen = "It was trained on the teacher and against real images."
    use = '--prompt "a red fox in the snow"' if teacher_takes_prompts else "-n 16"
    return f"""---
license: {teacher.license.lower()}
tags: [dimo, one-step, masked-diffusion]
---
# One-step student of `{teacher.name}`

Distilled with {training.method} ({training.steps} steps, {training.samples or 0:,} generated
samples, seed {training.seed}, divergence {divergence}) from the masked diffusion teacher
`{teacher.name}` (revision {teacher.revision}). It turns an initial token sequence into an image in
a single pass. {seen} It inherits the teacher's biases.

![samples](preview.png)

    dimo sample --student . {use} --grid samples.png

Weights sha256 `{manifest.weights_sha256}`, made by dimo {manifest.dimo_version}.
"""


def find_student(target: Path) -> Path:
    """The student folder that a run folder or a student folder holds."""
    for folder in (target, target / "student"):
        if (folder / MANIFEST).is_file():
            return folder
    if not target.exists():
        raise MissingError(
            f"`{target}` does not exist.",
            "Give a run or student folder, or make one with `dimo distill --preset digits`.",
        )
    state = "holds an unfinished run" if (target / "run.yaml").exists() else "holds no student"
    hint = (
        f"Finish it with `dimo distill --resume {target}`, or `dimo refine` if it was that."
        if (target / "run.yaml").exists()
        else "A student folder has a dimo.json and a model.safetensors."
    )
    raise MissingError(f"`{target}` {state}.", hint)


def load_student(target: Path, options: LoadOptions | None = None) -> Student:
    """Load a student from a run or student folder, strictly and with its hash checked.

    Its networks are put on the GPU if there is one.
    """
    folder = find_student(target)
    manifest = read_manifest(folder / MANIFEST)
    weights = read_weights(folder / WEIGHTS, manifest.weights_sha256)
    return assemble_student(manifest, weights, f"`{folder / WEIGHTS}`", options or LoadOptions())


def read_manifest(path: Path) -> StudentManifest:
    """A student's manifest, validated."""
    try:
        return StudentManifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise SpecError(f"`{path}` is not a valid manifest: {detail}.") from None


def read_weights(path: Path, sha256: str) -> StateDict:
    """A student's weights, if they are what its manifest says."""
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise MissingError(f"Cannot read `{path}`: {error.strerror}.") from None
    if digest != sha256:
        raise MissingError(
            f"`{path}` does not match the hash in its manifest: it is truncated or was changed.",
            "Copy or download the student again.",
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        problem = re.sub(r"\s+", " ", str(error))[:300]
        raise MissingError(f"`{path}` does not fit its teacher: {problem}") from None


def best_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def assemble_student(
    manifest: StudentManifest, weights: StateDict, what: str, options: LoadOptions
) -> Student:
    """A student of these weights in its teacher's world."""
    if manifest.teacher.name not in teacher_names():
        load_plugins()
    if manifest.teacher.name not in teacher_names():
        raise MissingError(
            f"This student needs the teacher `{manifest.teacher.name}`, "
            f"which dimo {__version__} does not know.",
            "Upgrade dimo.",
        )
    source = teacher_source(manifest, options.local_dir)
    teacher = load_teacher(source, options.say, with_backbone=options.with_teacher)
    device = options.device or best_device()
    backbone = fill(copy.deepcopy(teacher.backbone), weights, what).to(device)
    if not next(teacher.backbone.parameters()).is_meta:
        teacher.backbone.to(device)
    teacher.tokenizer.to(device)
    teacher.conditioner.to(device)
    return Student(manifest, teacher, backbone)


def teacher_source(manifest: StudentManifest, local_dir: str | None) -> TeacherSource:
    """Where the teacher that a manifest names comes from."""
    facts = manifest.teacher
    pinned = facts.revision if re.fullmatch(r"[0-9a-f]{40}", facts.revision) else None
    if facts.name in EMBEDDED:
        return TeacherSource(name=facts.name)
    return TeacherSource(
        name=facts.name,
        revision=pinned,
        local_dir=local_dir,
        architecture=facts.architecture,
    )
