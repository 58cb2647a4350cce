"""How faithful a student's soft images are to those of its tokens (Fig. 8, I.2 and I.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from dimo_cli.data.folders import open_images
from dimo_cli.data.pictures import Fit
from dimo_cli.engine.fidelity import Fidelity, measure_fidelity
from dimo_cli.engine.one_step import nothing_to_draw_from, student_hidden, student_input
from dimo_cli.errors import SpecError
from dimo_cli.files.sound import is_finite
from dimo_cli.sampling.samplers import condition
from dimo_cli.students.student import Student
from dimo_cli.teachers.conditioning import PromptConditioner

AT_ONCE = 16  # images: their logits [B, L, V] are kept here, for every temperature


def asked_for(student: Student, count: int, prompts: Sequence[str]) -> list[int] | list[str]:
    """The class or prompt of each image: those given, or the teacher's own, in turn."""
    conditioner = student.teacher.conditioner
    if not student.teacher.takes_prompts:
        if prompts:
            raise SpecError(f"`{student.teacher.name}` takes classes: leave out `--prompt`.")
        return [number % len(student.teacher.class_names) for number in range(count)]
    known = prompts or (conditioner.dataset if isinstance(conditioner, PromptConditioner) else ())
    if not known:
        raise SpecError(f"`{student.teacher.name}` draws from prompts.", 'Add `--prompt "..."`.')
    return [known[number % len(known)] for number in range(count)]


def real_images(folder: Path, count: int, side: int) -> Tensor:
    """Real images in [-1, 1], cropped and resized to the tokenizer's side."""
    images = open_images(folder, count, Fit("lanczos", side))
    return torch.cat([batch.images for batch in images.batches(AT_ONCE)]) / 127.5 - 1


@torch.inference_mode()
def measure_softness(
    student: Student,
    wanted: Sequence[int] | Sequence[str],
    temperatures: Sequence[float],
    seed: int,
    images: Tensor | None = None,
) -> dict[float, Fidelity]:
    """The fidelity of soft images at each softmax temperature, over the same inputs.

    `images` [N, 3, H, W], as many as are asked for, tell what the tokenizer itself loses.
    """
    student.check_one_step("its soft images are those of a single pass")
    teacher, init = student.teacher, student.manifest.init
    device = next(student.backbone.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    found: dict[float, list[dict[str, float | None]]] = {t: [] for t in temperatures}
    sizes: list[int] = []
    for start in range(0, len(wanted), AT_ONCE):
        cond = condition(teacher, wanted[start : start + AT_ONCE]).to(device)
        tokens = student_input(teacher.space, teacher.tokenizer, init, len(cond), generator)
        logits = student.backbone.head(
            student_hidden(student.backbone, tokens, cond, init.embed_noise.sigma, generator)
        )
        if not is_finite(logits):
            raise nothing_to_draw_from()
        real = None if images is None else images[start : start + AT_ONCE].to(device)
        sizes.append(len(cond))
        before = generator.get_state()
        for temperature in temperatures:
            generator.set_state(before)  # the same tokens for all
            part = measure_fidelity(
                teacher.tokenizer,
                teacher.space,
                logits,
                generator,
                cond=cond,
                images=real,
                temperature=temperature,
            )
            found[temperature].append(asdict(part))
    return {temperature: average(parts, sizes) for temperature, parts in found.items()}


def average(parts: Sequence[dict[str, float | None]], sizes: Sequence[int]) -> Fidelity:
    """The mean over batches of these sizes."""
    names = [name for name, value in parts[0].items() if value is not None]
    means = {
        name: sum(size * (part[name] or 0.0) for part, size in zip(parts, sizes, strict=True))
        / sum(sizes)
        for name in names
    }
    return Fidelity(**means)
