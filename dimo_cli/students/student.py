"""A generator in one step or a few, in memory: its backbone within its teacher's world."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.input_noise import give_noise
from dimo_cli.engine.one_step import sample_student, student_input
from dimo_cli.engine.rollout import open_counts
from dimo_cli.errors import MissingError, SpecError, counted
from dimo_cli.hub.loading import fill
from dimo_cli.hub.published import StateDict
from dimo_cli.specs.init import FixedRatio
from dimo_cli.specs.manifest import StudentManifest, steps_in_words
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.adapters import adapted_network
from dimo_cli.teachers.decoding import Precision, decode, half_on_cuda
from dimo_cli.teachers.latent import give_latent
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.registry import (
    EMBEDDED,
    ManifestSource,
    load_plugins,
    load_teacher,
    teacher_names,
)
from dimo_cli.teachers.stored import plain_copy


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What else to load beside a student, and from where."""

    with_teacher: bool = False
    """Also the teacher's backbone, to sample or compare it; else only what the student needs."""
    local_dir: str | None = None
    say: Callable[[str], None] = lambda line: None
    device: torch.device | str | None = None
    """Where its networks go; None: the GPU if there is one."""
    revision: str | None = None
    """What the user himself says of the teacher's revision; not what a student says of it."""
    commit: str | None = None
    """What a run that goes on has its teacher at, whatever the student says."""


@dataclass(frozen=True)
class Student:
    """A generator ready to sample: its backbone within its teacher's world."""

    manifest: StudentManifest
    teacher: Teacher
    backbone: Backbone
    source: Tensor | None = None
    """Image tokens [1 or B, L, G] in place of the random ones of x_init; None: random ones."""
    precision: Precision = "auto"
    """Of its passes and of the decoder: bf16 on CUDA unless float32 is asked for."""

    @property
    def short_id(self) -> str:
        """Enough of the weights' hash to tell students apart."""
        return self.manifest.weights_sha256[:12]

    @property
    def steps(self) -> int:
        """In how many it draws where nobody says otherwise: the most that it was trained for."""
        return max(self.manifest.step_counts)

    def plan(self, steps: int | None = None) -> tuple[int, ...]:
        """Open slots after each step; refused for a number that it was not trained for."""
        counts, space = self.manifest.step_counts, self.teacher.space
        steps = steps or self.steps
        if steps not in counts:
            raise untrained_steps(steps, counts)
        return open_counts(self.teacher.sampler.schedule, steps, space.length * space.groups)

    def check_one_step(self, what: str) -> None:
        """Refuse what knows a single pass alone, for a student that takes more."""
        counts = self.manifest.step_counts
        if 1 not in counts:
            raise SpecError(
                f"This student was trained to draw in {steps_in_words(counts)}, and {what}.",
                "Use a student that can draw in one step: `student.steps` of its run has to have "
                "a 1.",
            )

    def check_no_latent(self, why: str) -> None:
        """Refuse a student with a latent where that has no place."""
        if self.backbone.has_latent:
            raise SpecError(
                f"This student draws a latent for each image (`student.latent`), and {why}.",
                "Use a student without one.",
            )

    def check_no_noise(self, why: str, instead: str) -> None:
        """Refuse a student that hears noise where that has no place."""
        if self.manifest.init.noise is not None:
            raise SpecError(
                f"This student hears noise in its input (`init.noise`), and {why}.", instead
            )

    def sample(
        self,
        cond: Cond,
        generator: torch.Generator,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
        steps: int | None = None,
    ) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1]: a pass of the backbone for each step, and one decode."""
        tokens = self.tokens(
            cond, generator, temperature=temperature, top_k=top_k, top_p=top_p, steps=steps
        )
        return self.decode(tokens, cond)

    def tokens(
        self,
        cond: Cond,
        generator: torch.Generator,
        *,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 0.0,
        steps: int | None = None,
    ) -> Tensor:
        """Tokens [B, L, G], all of which can be decoded; `steps` None: as many as it takes."""
        plan, init = self.plan(steps), self.manifest.init
        space, tokenizer = self.teacher.space, self.teacher.tokenizer
        with half_on_cuda(cond.device, self.precision), torch.inference_mode():
            x_init = student_input(space, tokenizer, init, len(cond), generator, self.source)
            return sample_student(
                self.backbone,
                space,
                x_init,
                cond,
                init.embed_noise.sigma,
                generator,
                temperature=temperature or self.manifest.temperature,
                top_k=top_k,
                top_p=top_p,
                plan=plan,
            )

    def decode(self, tokens: Tensor, cond: Cond) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] of tokens [B, L, G]."""
        return decode(self.teacher, tokens, cond, self.precision)


def untrained_steps(steps: int, counts: Sequence[int]) -> SpecError:
    """The sentence for a number of steps that a student was not trained for."""
    nearest = min(counts, key=lambda count: (abs(count - steps), count))
    return SpecError(
        f"This student was trained to draw in {steps_in_words(counts)}, not in {steps}.",
        f"Take {counted(nearest, 'step')} (`--steps {nearest}`), or draw with its teacher "
        f"(`--teacher --steps {steps}`).",
    )


def at_r_init(student: Student, r_init: float) -> Student:
    """The same student, started from another share of mask tokens than its own."""
    init = student.manifest.init.model_copy(update={"mask_ratio": FixedRatio(value=r_init)})
    return replace(student, manifest=student.manifest.model_copy(update={"init": init}))


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
    source = teacher_source(manifest, options)
    with_teacher = options.with_teacher or manifest.lora is not None
    teacher = load_teacher(source, options.say, with_teacher, options.commit)
    device = options.device or best_device()
    if manifest.lora is not None:
        backbone = adapted_network(teacher.backbone, manifest, weights, what).to(device)
    else:
        backbone = plain_copy(teacher.backbone)
        if manifest.latent:
            give_latent(backbone, teacher.space)
        blank = give_noise(backbone, manifest.init.noise, teacher.space)
        backbone = fill(blank, weights, what).to(device)
    if not next(teacher.backbone.parameters()).is_meta:
        teacher.backbone.to(device)
    teacher.tokenizer.to(device)
    teacher.conditioner.to(device)
    return Student(manifest, teacher, backbone)


def teacher_source(manifest: StudentManifest, options: LoadOptions) -> TeacherSource:
    """Where the teacher that a manifest names comes from."""
    facts = manifest.teacher
    stored = facts.weights or "fp32"
    if facts.name in EMBEDDED:
        return ManifestSource(name=facts.name, weights=stored)
    place = {
        "local_dir": options.local_dir,
        "architecture": facts.architecture,
        "weights": stored,
    }
    if options.revision is not None:
        return TeacherSource(name=facts.name, revision=options.revision, **place)
    pinned = facts.revision if re.fullmatch(r"[0-9a-f]{40}", facts.revision) else None
    return ManifestSource(name=facts.name, revision=pinned, **place)
