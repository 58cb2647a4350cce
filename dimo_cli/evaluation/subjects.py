"""What `dimo eval` measures: images in a fixed order, of a student, of a teacher, or on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dimo_cli.data.arrays import Images
from dimo_cli.data.folders import open_images
from dimo_cli.data.pictures import Fit
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.generated import GeneratedImages
from dimo_cli.evaluation.optimized import AT_ONCE, OptimizedImages
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.datasets import is_reference
from dimo_cli.hub.prompts import prompt_file
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.geneval_folder import is_geneval_folder, read_folder
from dimo_cli.metrics.prompts import PROMPT_SETS, PromptSet, load_prompts, read_lines
from dimo_cli.rewards.registry import load_rewards
from dimo_cli.sampling.left_out import tell_left_out
from dimo_cli.sampling.samplers import images_at_once
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.manifest import MANIFEST
from dimo_cli.students.student import LoadOptions, at_r_init, best_device
from dimo_cli.students.target import Target, load_target
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import EMBEDDED

ON_DISK, READ_AT_ONCE = "images on disk", 64
EMBEDDED_SAMPLES, SAMPLES = 5000, 50_000


@dataclass(frozen=True)
class Subject:
    """Images to be measured, and what is known of them."""

    images: Images
    batch_size: int
    facts: dict[str, Any]
    """Who made them and how: what two comparable results may differ in."""
    domain: str
    """The teacher's name, or that they are images on disk."""
    takes_prompts: bool
    device: torch.device
    prompts: PromptSet | None = None
    teacher: dict[str, Any] = field(default_factory=dict)
    """What of its teacher decides the images beside what the facts tell: a cache has to know."""


@dataclass(frozen=True)
class Opened:
    """A target before it is known which prompts it is to be measured on."""

    domain: str
    takes_prompts: bool
    target: Target | None = None
    path: Path | None = None


def open_target(spec: EvalSpec, store: HubStore, say: Callable[[str], None]) -> Opened:
    """Find out what a target is, and load it if it has weights."""
    path = Path(spec.target).expanduser()
    if is_images(path):
        if spec.sampler.teacher:
            raise SpecError(f"`{spec.target}` is a folder of images: it has no teacher.")
        if spec.tteo is not None:
            raise SpecError(
                f"`{spec.target}` has images already, and `--tteo` makes them.",
                "Name the student that drew them.",
            )
        return Opened(ON_DISK, True, path=path)
    local_dir = str(store.local_dir) if store.local_dir else None
    options = LoadOptions(spec.sampler.teacher, local_dir, say)
    target = load_target(spec.target, options, only_teacher=spec.sampler.teacher)
    return Opened(target.teacher.name, target.teacher.takes_prompts, target)


def is_images(path: Path) -> bool:
    """Whether a path holds images rather than a run or a student."""
    if path.is_dir():
        marks = (path / MANIFEST, path / "student" / MANIFEST, path / "run.yaml")
        return not any(mark.exists() for mark in marks)
    return path.suffix.lower() in (".zip", ".npz")


def chosen_prompts(text: str | None, store: HubStore) -> PromptSet | None:
    """The prompts of `--prompts`: NAME, NAME=FILE, a plain text file, or a dataset of the Hub."""
    if text is None:
        return None
    if is_reference(text):
        path, pinned = prompt_file(text, store.say)
        return PromptSet(pinned, tuple(read_lines(path)))
    name, _, file = text.partition("=")
    if name in PROMPT_SETS:
        return load_prompts(name, store, Path(file).expanduser() if file else None)
    lines = read_lines(Path(text).expanduser())
    return PromptSet(Path(text).stem, tuple(lines))


def samples_within(path: Path) -> list[str] | None:
    """The images of a folder in GenEval's layout, where a grid of them may be beside each few."""
    if not is_geneval_folder(path):
        return None
    return [image.relative_to(path).as_posix() for image in read_folder(path)[1]]


def subject_of(
    opened: Opened, spec: EvalSpec, prompts: PromptSet | None, store: HubStore
) -> Subject:
    """The images of a target, for these prompts where it takes any."""
    fit = Fit("lanczos", spec.crop) if spec.crop else None
    if opened.path is not None:
        images = open_images(opened.path, spec.samples, fit, samples_within(opened.path))
        if prompts is not None and not images.prompts:
            images.prompts = prompts.prompts_of(0, len(images))
        about = {"target": "images", "sha256": content_hash(opened.path)}
        if fit is not None:
            about["crop"] = fit.note
        device = torch.device(best_device())
        return Subject(images, READ_AT_ONCE, about, ON_DISK, True, device, prompts)
    assert opened.target is not None
    if fit is not None:
        raise SpecError(
            "`--crop` is for images on disk.", "Save the images with `--save-images` first."
        )
    prompts = prompts.of_all_tasks(spec.samples) if prompts else None
    texts = wanted(opened, spec, prompts)
    if prompts is not None:
        asked = [str(text) for text in dict.fromkeys(texts)]
        tell_left_out(opened.target.teacher, asked, store.say)
    generated = drawn(opened.target, spec, texts, store)
    teacher, student = opened.target.teacher, opened.target.student
    facts: dict[str, Any] = {
        "target": "teacher" if spec.sampler.teacher or student is None else "student",
        "teacher": f"{teacher.name}@{teacher.revision}",
        "seed": spec.sampler.seed,
        **generated.protocol,
    }
    if student is not None and not spec.sampler.teacher:
        facts["student_sha256"] = student.manifest.weights_sha256
        facts["method"] = student.manifest.training.method  # published numbers are of a method
    return Subject(
        generated,
        images_at_once(teacher) if spec.tteo is None else AT_ONCE,
        facts,
        opened.domain,
        opened.takes_prompts,
        opened.target.device,
        prompts,
        settings_of(teacher),
    )


def settings_of(teacher: Teacher) -> dict[str, Any]:
    """What a user can say of a teacher: how its weights are stored, what guidance leads from."""
    settings: dict[str, Any] = {
        "stored": sorted({str(part.dtype) for part in teacher.backbone.parameters()})
    }
    if isinstance(teacher.conditioner, PromptConditioner):
        settings["negative_prompt"] = teacher.conditioner.negative_prompt
    return settings


def drawn(
    target: Target, spec: EvalSpec, wanted: list[int] | list[str], store: HubStore
) -> GeneratedImages | OptimizedImages:
    """Images as they come, or of optimized input."""
    optimization, student = spec.optimization, target.student
    if optimization is None or student is None:
        return GeneratedImages(target, spec.sampler, wanted)
    if spec.sampler.r_init is not None:
        student = at_r_init(student, spec.sampler.r_init)
    prompts = [str(prompt) for prompt in wanted]
    return OptimizedImages(
        student, optimization, prompts, lambda names: load_rewards(names, store, target.device)
    )


def wanted(opened: Opened, spec: EvalSpec, prompts: PromptSet | None) -> list[int] | list[str]:
    """The class or prompt of every image."""
    assert opened.target is not None
    teacher = opened.target.teacher
    default = EMBEDDED_SAMPLES if opened.domain in EMBEDDED else SAMPLES
    if not opened.takes_prompts:
        if prompts is not None:
            raise SpecError(f"`{teacher.name}` takes classes: leave out `--prompts`.")
        count = spec.samples or default
        return [index % len(teacher.class_names) for index in range(count)]
    if prompts is not None:
        count = spec.samples or prompts.num_images
        if count > prompts.num_images:
            raise SpecError(
                f"`{prompts.name}` has prompts for {prompts.num_images:,} images, not {count:,}."
            )
        return list(prompts.prompts_of(0, count))
    if not (opened.domain in EMBEDDED and isinstance(teacher.conditioner, PromptConditioner)):
        raise SpecError(
            f"`{teacher.name}` draws from prompts, and there are none.",
            f"Add `--prompts FILE` or one of {', '.join(PROMPT_SETS)}.",
        )
    captions = teacher.conditioner.dataset
    return [captions[index % len(captions)] for index in range(spec.samples or default)]


def content_hash(path: Path) -> str:
    """A hash of all files at a path, by name and content."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = os.fsencode(file.relative_to(path))  # which may be any bytes
        digest.update(name + f"\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()
