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
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.cards.card import student_card
from dimo_cli.cards.facts import CardFacts
from dimo_cli.cards.licenses import license_of
from dimo_cli.engine.checkpoint import contiguous, replace_folder
from dimo_cli.engine.sampling import sample_student
from dimo_cli.errors import MissingError, SpecError, nearest
from dimo_cli.hub import file_sha256
from dimo_cli.names import student_names
from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import DistillSpec, Divergence, FixedRatio, InitSpec, TeacherSource
from dimo_cli.specs.resolve import preset_names
from dimo_cli.teachers.blueprint import StateDict, fill
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.digits import builtin_path
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.registry import (
    EMBEDDED,
    FAMILIES,
    blueprint_of,
    load_plugins,
    load_skeleton,
    load_teacher,
    teacher_names,
)

MANIFEST, WEIGHTS = "dimo.json", "model.safetensors"
CARD, PREVIEW = "README.md", "preview.png"
PROMPT = "a red fox in the snow"
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
    source: Tensor | None = None
    """Image tokens [1 or B, L, G] in place of the random ones of x_init; None: random ones."""

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
        tokens = self.tokens(cond, generator, temperature=temperature, top_k=top_k, top_p=top_p)
        return self.decode(tokens, cond)

    def tokens(
        self,
        cond: Cond,
        generator: torch.Generator,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
    ) -> Tensor:
        """Tokens [B, L, G] of one pass, all of which can be decoded."""
        return sample_student(
            self.backbone,
            self.teacher.space,
            self.teacher.tokenizer,
            cond,
            self.manifest.init,
            generator,
            temperature=temperature or self.manifest.temperature,
            top_k=top_k,
            top_p=top_p,
            source=self.source,
        )

    def decode(self, tokens: Tensor, cond: Cond) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] of tokens [B, L, G]."""
        with torch.inference_mode():
            return self.teacher.tokenizer.decode(tokens, cond)


def at_r_init(student: Student, r_init: float) -> Student:
    """The same student, started from another share of mask tokens than its own."""
    init = student.manifest.init.model_copy(update={"mask_ratio": FixedRatio(value=r_init)})
    return replace(student, manifest=student.manifest.model_copy(update={"init": init}))


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
    """Write manifest, weights and card, all or nothing; the preview is for whoever can draw."""
    beside = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(contiguous(backbone), beside / WEIGHTS)
    digest = file_sha256(beside / WEIGHTS)
    manifest = describe_run(spec, teacher, digest, steps)
    (beside / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    student = Student(manifest, teacher, backbone.eval())
    card = student_card(describe_student(student))
    (beside / CARD).write_text(card, encoding="utf-8")
    replace_folder(beside, folder)
    return student


def describe_student(student: Student) -> CardFacts:
    """What a card can say of a student by itself: nothing of the run that made it."""
    manifest, teacher = student.manifest, student.teacher
    return CardFacts(
        manifest=manifest,
        takes_prompts=teacher.takes_prompts,
        image_size=teacher.space.image_size,
        parameters=sum(weight.numel() for weight in student.backbone.parameters()),
        example=example_for(teacher),
        license=license_of(teacher.license),
        base_model=teacher_repository(manifest.teacher),
    )


def example_for(teacher: Teacher) -> str | int:
    """A prompt or class to show: one that the teacher brings along, never one of the user's."""
    if not teacher.takes_prompts:
        classes = len(teacher.class_names)
        return 207 if classes > 207 else min(7, classes - 1)  # ImageNet's golden retriever
    own = load_skeleton(teacher.name).conditioner if teacher.name in EMBEDDED else None
    prompts = own.dataset if isinstance(own, PromptConditioner) else []
    return prompts[0] if prompts else PROMPT


def teacher_repository(facts: TeacherFacts) -> str | None:
    """Where a teacher is published; None for one that is not, or that was changed by hand."""
    if facts.name not in FAMILIES or facts.architecture:
        return None
    return blueprint_of(TeacherSource(name=facts.name)).backbone.files[0].repo


def find_student(target: Path) -> Path:
    """The student folder that a run folder or a student folder holds."""
    for folder in (target, target / "student"):
        if (folder / MANIFEST).is_file():
            return folder
    if not target.exists():
        raise MissingError(
            f"`{target}` does not exist.",
            f"{guessed(str(target))}Give a run or student folder, or make one with "
            "`dimo distill --preset digits`.",
        )
    state = "holds an unfinished run" if (target / "run.yaml").exists() else "holds no student"
    hint = (
        f"Finish it with `dimo distill --resume {target}`, or `dimo refine` if it was that."
        if (target / "run.yaml").exists()
        else "A student folder has a dimo.json and a model.safetensors."
    )
    raise MissingError(f"`{target}` {state}.", hint)


def guessed(name: str) -> str:
    """The student or preset that was probably meant, as the beginning of a hint; else nothing."""
    if name in preset_names():
        return f"It is a preset: make a student with `dimo distill --preset {name}`. "
    if guess := nearest(name, student_names()):
        return f"Did you mean `{guess}`? "
    guess = nearest(name, preset_names())
    return f"Did you mean the preset `{guess}`? " if guess else ""


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
