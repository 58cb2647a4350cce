"""The student folder: a generator in one step or a few, on disk.

    student/dimo.json           what it is and how it is sampled
    student/model.safetensors   averaged backbone weights
    student/README.md           model card
    student/preview.png         a grid of samples

Nothing in it depends on the clock or the machine: the same run gives the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dimo_cli import __version__
from dimo_cli.cards.card import student_card
from dimo_cli.cards.facts import CardFacts
from dimo_cli.cards.licenses import license_of
from dimo_cli.console import next_steps
from dimo_cli.engine.lora import fingerprint, has_adapters
from dimo_cli.errors import MissingError, SpecError, nearest
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.sound import check_finite
from dimo_cli.files.untrusted import first_problem, parse_json
from dimo_cli.files.writing import contiguous, file_sha256, whole_file, whole_folder
from dimo_cli.hub.published import StateDict
from dimo_cli.run_folder.naming import checkpoint_names
from dimo_cli.run_folder.nats import TeacherKl
from dimo_cli.run_folder.state import is_refinement
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    FORMAT,
    MANIFEST,
    PREVIEW,
    WEIGHTS,
    Choice,
    LoraFacts,
    StudentManifest,
    TeacherFacts,
    TrainingFacts,
    oldest_format,
)
from dimo_cli.specs.resolve import preset_names
from dimo_cli.specs.shipped import SHIPPED
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.adapters import write_adapters
from dimo_cli.students.names import student_names
from dimo_cli.students.student import LoadOptions, Student, assemble_student
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.families import FAMILIES
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.teachers.registry import EMBEDDED, blueprint_of, load_skeleton
from dimo_cli.teachers.stored import in_numbers

PROMPT = "a red fox in the snow"
OWN_FILES = {MANIFEST, WEIGHTS, ADAPTER_WEIGHTS, ADAPTER_CONFIG, CARD, PREVIEW}

BUILTIN = {name: Path(builtin_path(f"{name}-student")) for name in SHIPPED}
"""Students that ship in the package, by the teacher's name."""


def facts_of_teacher(spec: DistillSpec, teacher: Teacher) -> TeacherFacts:
    """What a student says of its teacher."""
    over_it = spec.student.lora.rank or spec.auxiliary_lora.rank
    stored = spec.teacher.weights if spec.student.lora.rank else "fp32"
    return TeacherFacts(
        name=teacher.name,
        family=teacher.family,
        revision=teacher.revision,
        license=teacher.license,
        architecture=spec.teacher.architecture,
        fingerprint=fingerprint(teacher.backbone) if over_it else None,
        weights=None if stored == "fp32" else stored,
    )


def describe_run(
    spec: DistillSpec,
    teacher: Teacher | TeacherFacts,
    weights_sha256: str,
    steps: int | None = None,
    chosen: Choice | None = None,
) -> StudentManifest:
    """The manifest of the student that a run made in so many steps (None: all of the spec's)."""
    steps = spec.train.steps if steps is None else steps
    batch = spec.train.batch_size * spec.train.accumulate
    lora = spec.student.lora
    counts = None if spec.student.in_one_step else spec.student.steps
    return StudentManifest(
        format=oldest_format(lora.rank > 0, counts, spec.init.noise, spec.student.latent),
        dimo_version=__version__,
        teacher=teacher if isinstance(teacher, TeacherFacts) else facts_of_teacher(spec, teacher),
        init=spec.init,
        temperature=spec.student.temperature,
        steps=counts,
        training=TrainingFacts(
            method=spec.method,
            steps=steps,
            samples=steps * batch,
            seed=spec.train.seed,
            divergence=spec.loss.divergence,
        ),
        weights_sha256=weights_sha256,
        chosen=chosen,
        lora=LoraFacts(rank=lora.rank, alpha=lora.alpha or lora.rank) if lora.rank else None,
        latent=True if spec.student.latent else None,
    )


def save_student(
    folder: Path,
    spec: DistillSpec,
    teacher: Teacher,
    backbone: Backbone,
    steps: int | None = None,
    chosen: Choice | None = None,
    teacher_kl: TeacherKl | None = None,
) -> Student:
    """Write the student that a run made, all or nothing; the preview is for whoever can draw.

    `teacher_kl` is what the run measured of it, for its card.
    """
    manifest = describe_run(spec, teacher, "0" * 64, steps, chosen)
    return write_student(folder, Student(manifest, teacher, backbone.eval()), teacher_kl)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is more than a student, or none."""
    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if foreign := sorted(inside - OWN_FILES):
        raise SpecError(
            f"`{folder}` is to be replaced by a student, and {foreign[0]!r} in it is no student's.",
            "Move it away first.",
        )
    if inside and MANIFEST not in inside:
        raise SpecError(
            f"`{folder}` is to be replaced by a student, and holds none: it has no {MANIFEST}.",
            "Move it away first.",
        )


def write_student(folder: Path, student: Student, teacher_kl: TeacherKl | None = None) -> Student:
    """Write manifest, weights and card, all or nothing; returns it with the hash of its weights."""
    check_replaceable(folder)
    with whole_folder(folder) as beside:
        digest = write_network(student.backbone, beside, student.manifest.teacher)
        manifest = student.manifest.model_copy(update={"weights_sha256": digest})
        (beside / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        student = replace(student, manifest=manifest)
        card = student_card(replace(describe_student(student), teacher_kl=teacher_kl))
        (beside / CARD).write_text(card, encoding="utf-8")
    return student


def write_network(backbone: Backbone, folder: Path, teacher: TeacherFacts) -> str:
    """Write a student's weights, or its adapters if it has some; returns their hash."""
    if has_adapters(backbone):
        return write_adapters(backbone, folder, base_of_adapters(teacher), teacher)
    return write_weights(backbone, folder / WEIGHTS)


def write_weights(backbone: Backbone, path: Path) -> str:
    """Write a student's weights, if they are finite, and return their hash."""
    weights = contiguous(backbone)
    check_finite(weights, "this student")
    with whole_file(path) as temporary:
        save_file(weights, temporary)
    return file_sha256(path)


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


def base_of_adapters(facts: TeacherFacts) -> str:
    """What peft loads adapters over: where their teacher is published, or its name."""
    return teacher_repository(facts) or facts.name


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
    if not (target / "run.yaml").exists():
        raise MissingError(
            f"`{target}` holds no student.",
            "A student folder has a dimo.json and a model.safetensors.",
        )
    finish = next_steps.resume(target, is_refinement=is_refinement(target))
    names = [f"`{next_steps.from_here(target)}@{name}`" for name in checkpoint_names(target)]
    use = f" Until then, take a checkpoint of it: {', '.join(names)}." if names else ""
    raise MissingError(f"`{target}` holds an unfinished run.", f"Finish it with {finish}.{use}")


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
    path = folder / manifest.weights_file
    weights = read_weights(path, manifest.weights_sha256)
    return assemble_student(manifest, weights, f"`{path}`", options or LoadOptions())


def read_manifest(path: Path) -> StudentManifest:
    """A student's manifest, validated."""
    try:
        text = read_text(path, MOST_DOCUMENT)
        refuse_newer_format(path, text)
        return StudentManifest.model_validate_json(text)
    except (ValidationError, UnicodeDecodeError) as error:
        parts = first_problem(error) if isinstance(error, ValidationError) else (str(error),)
        detail = ": ".join(filter(None, parts))
        raise SpecError(f"`{path}` is not a valid manifest: {detail}.") from None


def refuse_newer_format(path: Path, text: str) -> None:
    """A manifest that this dimo is too old for is not damaged."""
    try:
        document = parse_json(text)
    except ValueError:
        return
    number = document.get("format") if isinstance(document, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise SpecError(
            f"`{path}` has format {number}, and this dimo ({__version__}) reads up to {FORMAT}: "
            "the student was made by a newer dimo.",
            "Update with `pipx upgrade dimo-cli` or `pip install --upgrade dimo-cli`.",
        )


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
        return in_numbers(load_file(path))
    except SafetensorError as error:
        problem = re.sub(r"\s+", " ", str(error))[:300]
        raise MissingError(f"`{path}` does not fit its teacher: {problem}") from None
