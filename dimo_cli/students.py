"""The student folder: a one-step generator on disk, and in memory.

    student/dimo.json           what it is and how it is sampled
    student/model.safetensors   averaged backbone weights
    student/README.md           model card
    student/preview.png         a grid of samples

Nothing in it depends on the clock or the machine: the same run gives the same bytes.
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.checkpoint import contiguous
from dimo_cli.engine.sampling import sample_student
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import DistillSpec, Divergence, InitSpec
from dimo_cli.teachers.digits import builtin_path
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.registry import TEACHERS, load_teacher

MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"
BUILTIN = Path(builtin_path("digits-student"))


class TeacherFacts(Spec):
    """Which teacher a student was distilled from."""

    name: str
    family: str
    revision: str
    license: str


class TrainingFacts(Spec):
    """How a student was made."""

    method: str = "Di[M]O"
    steps: int
    samples: int
    seed: int
    divergence: Divergence


class StudentManifest(Spec):
    """dimo.json, version 1."""

    format: Literal[1] = 1
    dimo_version: str
    teacher: TeacherFacts
    init: InitSpec
    temperature: float = Field(1.0, gt=0)
    training: TrainingFacts
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


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
            return self.teacher.tokenizer.decode(tokens)


def describe_run(spec: DistillSpec, teacher: Teacher, weights_sha256: str) -> StudentManifest:
    """The manifest of the student that a run made."""
    batch = spec.train.batch_size * spec.train.accumulate
    return StudentManifest(
        dimo_version=__version__,
        teacher=TeacherFacts(
            name=teacher.name,
            family=teacher.family,
            revision=teacher.revision,
            license=teacher.license,
        ),
        init=spec.init,
        temperature=spec.student.temperature,
        training=TrainingFacts(
            steps=spec.train.steps,
            samples=spec.train.steps * batch,
            seed=spec.train.seed,
            divergence=spec.loss.divergence,
        ),
        weights_sha256=weights_sha256,
    )


def save_student(folder: Path, spec: DistillSpec, teacher: Teacher, backbone: Backbone) -> Student:
    """Write manifest, weights and card; the preview is drawn by whoever can draw."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(backbone), folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    manifest = describe_run(spec, teacher, digest)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
    return Student(manifest, teacher, backbone.eval())


def model_card(manifest: StudentManifest) -> str:
    """A short model card: what it is, how to use it, where it comes from."""
    teacher, training = manifest.teacher, manifest.training
    divergence = ", ".join(str(value) for value in training.divergence.model_dump().values())
    return f"""---
license: {teacher.license.lower()}
tags: [dimo, one-step, masked-diffusion]
---
# One-step student of `{teacher.name}`

Distilled with {training.method} ({training.steps} steps, {training.samples:,} generated samples,
seed {training.seed}, divergence {divergence}) from the masked diffusion teacher
`{teacher.name}` (revision {teacher.revision}). It turns an initial token sequence into an image in
a single pass. It was trained without any images, on the teacher alone, and inherits the teacher's
biases.

![samples](preview.png)

    dimo sample --student . -n 16 --grid samples.png

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
        f"Finish it with `dimo distill --resume {target}`."
        if (target / "run.yaml").exists()
        else "A student folder has a dimo.json and a model.safetensors."
    )
    raise MissingError(f"`{target}` {state}.", hint)


def load_student(target: Path) -> Student:
    """Load a student from a run or student folder, strictly and with its hash checked.

    Its networks are put on the GPU if there is one.
    """
    folder = find_student(target)
    try:
        manifest = StudentManifest.model_validate_json(
            (folder / MANIFEST).read_text(encoding="utf-8")
        )
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise SpecError(f"`{folder / MANIFEST}` is not a valid manifest: {detail}.") from None
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise MissingError(f"Cannot read `{folder / WEIGHTS}`: {error.strerror}.") from None
    if hashlib.sha256(data).hexdigest() != manifest.weights_sha256:
        raise MissingError(
            f"`{folder / WEIGHTS}` does not match the hash in its manifest: "
            "it is truncated or was changed.",
            "Copy or download the student again.",
        )
    if manifest.teacher.name not in TEACHERS:
        raise MissingError(
            f"This student needs the teacher `{manifest.teacher.name}`, "
            f"which dimo {__version__} does not know.",
            "Upgrade dimo.",
        )
    teacher = load_teacher(manifest.teacher.name)
    backbone = copy.deepcopy(teacher.backbone)
    try:
        weights = load_file(folder / WEIGHTS)
        backbone.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (RuntimeError, SafetensorError) as error:
        problem = re.sub(r"\s+", " ", str(error))[:300]
        raise MissingError(f"`{folder / WEIGHTS}` does not fit its teacher: {problem}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Student(manifest, teacher.to(device), backbone.requires_grad_(False).eval().to(device))
