"""Students and teachers as samplers of images, each with the protocol that makes it repeatable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.many_steps import sample_by_plan, sample_theta_trapezoidal
from dimo_cli.errors import SpecError
from dimo_cli.files.png import Pixels
from dimo_cli.specs.sample import SamplerSpec, SampleSpec
from dimo_cli.students.student import Student, at_r_init
from dimo_cli.students.target import Target
from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.teachers.decoding import compile_decoder, decode, half_on_cuda
from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import Cond, Plan, Teacher, Tokenizer

Sampler = Callable[[Cond, torch.Generator], Tensor]
Watch = Callable[[Callable[[], Tensor], Tensor], None]
"""Told after each step of a teacher: what paints its images [B, 3, H, W], and the slots [B, L, G]
that are still masked. It may end the drawing by raising."""

TOKENS_AT_ONCE = 65_536  # positions per sampling batch: 256 images of 16 x 16, 16 of 64 x 64
# Pixels from which on compiling takes less time than it saves: 6,000 images of 256 x 256, or 400 of
# 1024 x 1024.
COMPILED_FROM = 4 * 10**8
DRAWN: WeakKeyDictionary[Tokenizer, int] = WeakKeyDictionary()  # pixels so far, for pages that last
THETA = 0.5  # where a trapezoidal step looks again: in its middle
SHARED_CHOICE_NOISE = 4.5  # Gumbel noise of the shared confidence sampler, as MaskGit's


def to_bytes(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] as bytes, rounded."""
    return images.float().mul(127.5).add(127.5).round().clamp(0, 255).byte()


def to_pixels(images: Tensor) -> Pixels:
    """Images [B, 3, H, W] in [-1, 1] as bytes [B, H, W, 3]."""
    pixels: Pixels = to_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def teacher_sampler(
    teacher: Teacher, spec: SamplerSpec, watch: Watch | None = None
) -> tuple[Sampler, dict[str, Any]]:
    """A teacher as a sampler of images, with its protocol; a plan's steps can be watched."""
    defaults = teacher.sampler
    steps = spec.steps or defaults.steps
    guidance = defaults.guidance if spec.guidance is None else spec.guidance
    temperature = spec.temperature or 1.0
    settings: dict[str, Any] = {
        "sampler": spec.method,
        "steps": steps,
        "guidance": guidance,
        "temperature": temperature,
    }
    if spec.method == "theta":
        settings |= {"theta": THETA, "schedule": defaults.schedule}

        def draw(cond: Cond, generator: torch.Generator) -> Tensor:
            return sample_theta_trapezoidal(
                teacher,
                cond,
                generator,
                steps=steps,
                guidance=guidance,
                schedule=defaults.schedule,
                theta=THETA,
                temperature=temperature,
            )
    else:
        plan_of, noise = shared_or_published(teacher, spec)
        plan = plan_of(steps, teacher.space.length * teacher.space.groups, guidance, noise)
        settings |= {"choice_noise": noise}

        def draw(cond: Cond, generator: torch.Generator) -> Tensor:
            def show(tokens: Tensor, masked: Tensor) -> None:
                if watch is not None:
                    watch(lambda: decode(teacher, tokens, cond, spec.precision), masked)

            return sample_by_plan(
                teacher, cond, plan, generator, temperature, show if watch else None
            )

    def sample(cond: Cond, generator: torch.Generator) -> Tensor:
        with half_on_cuda(cond.device, spec.precision):
            tokens = draw(cond, generator)
        return decode(teacher, tokens, cond, spec.precision)

    return sample, {"network": f"teacher:{teacher.name}", **settings}


def shared_or_published(teacher: Teacher, spec: SamplerSpec) -> tuple[Plan, float]:
    """The plan that a sampler's name stands for, and the noise of its choices."""
    defaults = teacher.sampler
    if spec.method == "published":
        return defaults.plan, defaults.choice_noise
    if spec.method == "confidence":
        return heuristic_plan("log_prob", defaults.schedule), SHARED_CHOICE_NOISE
    if spec.method == "halton":
        return heuristic_plan("rolled_halton", defaults.schedule), 0.0
    return heuristic_plan("random", defaults.schedule), 0.0


def student_sampler(
    student: Student,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 0.0,
    steps: int | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """A student as a sampler of images, with its protocol."""
    steps = len(student.plan(steps))
    settings: dict[str, Any] = {
        "temperature": temperature or student.manifest.temperature,
        "top_k": top_k,
        "top_p": top_p,
    }

    def sample(cond: Cond, generator: torch.Generator) -> Tensor:
        return student.sample(cond, generator, steps=steps, **settings)

    return sample, {"network": f"student:{student.short_id}", "steps": steps, **settings}


def build_sampler(
    target: Target, spec: SamplerSpec, watch: Watch | None = None
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler that a spec asks for: the student, or its teacher."""
    about: dict[str, Any] = {}
    if target.device.type == "cuda":
        about["precision"] = "bf16" if spec.precision == "auto" else spec.precision
    if spec.teacher or target.student is None:
        sample, protocol = teacher_sampler(target.teacher, spec, watch)
        return sample, protocol | about
    student = replace(target.student, precision=spec.precision)
    if spec.r_init is not None:
        student, about = at_r_init(student, spec.r_init), {"r_init": spec.r_init, **about}
    settings = spec.temperature, spec.top_k, spec.top_p, spec.steps
    sample, protocol = student_sampler(student, *settings)
    return sample, protocol | about


def compile_where_it_pays(target: Target, images: int) -> None:
    """Compile what draws, once as many images are asked for as make up for the time it takes."""
    teacher = target.teacher
    pixels = DRAWN.get(teacher.tokenizer, 0) + images * teacher.space.image_size**2
    DRAWN[teacher.tokenizer] = pixels
    if target.device.type == "cuda" and pixels >= COMPILED_FROM:
        compile_decoder(teacher.tokenizer)
        compile_blocks(target.student.backbone if target.student else teacher.backbone)


def condition(teacher: Teacher, wanted: Sequence[int | str]) -> Cond:
    """The condition of class numbers or prompts, where the backbone is."""
    if teacher.takes_prompts:
        return teacher.conditioner.prompts([str(prompt) for prompt in wanted])
    return teacher.conditioner.labels(torch.tensor([int(label) for label in wanted]))


def chosen_conditions(teacher: Teacher, spec: SampleSpec) -> list[int] | list[str]:
    """The class or prompt of each image: the chosen ones in turn, or all classes."""
    if teacher.takes_prompts:
        if not spec.prompts:
            raise SpecError(f"`{teacher.name}` draws from prompts.", 'Add `--prompt "..."`.')
        return [spec.prompts[index % len(spec.prompts)] for index in range(spec.count)]
    if spec.prompts:
        raise SpecError(f"`{teacher.name}` takes classes, not prompts.", "Use `--class`.")
    chosen = [find_class(word, teacher) for word in spec.classes]
    chosen = chosen or list(range(len(teacher.class_names)))
    return [chosen[index % len(chosen)] for index in range(spec.count)]


def sample_images(
    target: Target,
    wanted: Sequence[int | str],
    spec: SamplerSpec,
    progress: Callable[[int], None] = lambda count: None,
    watch: Watch | None = None,
) -> tuple[Pixels, dict[str, Any]]:
    """Images of these classes or prompts as bytes [N, H, W, 3], with their protocol."""
    batches, protocol = draw_batches(target, wanted, spec, progress, watch)
    return np.concatenate([to_pixels(images) for images in batches]), protocol


def draw_images(
    target: Target, wanted: Sequence[int | str], spec: SamplerSpec
) -> tuple[Tensor, dict[str, Any]]:
    """Images of these classes or prompts [N, 3, H, W] on the CPU, with their protocol."""
    batches, protocol = draw_batches(target, wanted, spec)
    return torch.cat(list(batches)), protocol


def images_at_once(teacher: Teacher) -> int:
    """As many images as one pass takes well: part of what decides them."""
    return max(1, min(256, TOKENS_AT_ONCE // teacher.space.length))


def draw_batches(
    target: Target,
    wanted: Sequence[int | str],
    spec: SamplerSpec,
    progress: Callable[[int], None] = lambda count: None,
    watch: Watch | None = None,
) -> tuple[Iterator[Tensor], dict[str, Any]]:
    """Images [B, 3, H, W] on the CPU, a batch whenever one is asked for, with their protocol."""
    sampler, protocol = build_sampler(target, spec, watch)
    compile_where_it_pays(target, len(wanted))
    generator = torch.Generator(target.device).manual_seed(spec.seed)
    size = images_at_once(target.teacher)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(wanted), size):
            cond = condition(target.teacher, wanted[start : start + size]).to(target.device)
            yield sampler(cond, generator).cpu()
            progress(len(cond))

    return batches(), protocol


def provenance(target: Target, spec: SamplerSpec, protocol: dict[str, Any]) -> dict[str, str]:
    """What a PNG says about itself."""
    student = None if spec.teacher else target.student
    return {
        "Software": f"dimo {__version__}",
        "dimo.version": __version__,
        "dimo.student": student.manifest.weights_sha256 if student else "none",
        "dimo.teacher": f"{target.teacher.name}@{target.teacher.revision}",
        "dimo.seed": str(spec.seed),
        "dimo.sampler": json.dumps(protocol, sort_keys=True),
    }


def clock(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
