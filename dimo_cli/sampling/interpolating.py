"""What the initial sequence holds: image tokens in place of random ones, and mixtures of two.

Supplement of Di[M]O, E.6 and E.7: under the same mask the random image tokens of x_init are
replaced by the tokens of an encoded image, of which the student then draws a close relative; and
one such sequence is turned into another, position by position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dimo_cli.data.pictures import SUFFIXES, Fit, read_header, read_pixels
from dimo_cli.engine.masking import check_source, exact_mask, random_tokens
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.pictures import reason
from dimo_cli.files.png import Pixels
from dimo_cli.files.writing import file_sha256
from dimo_cli.sampling.samplers import build_sampler, condition, to_pixels
from dimo_cli.specs.sample import SamplerSpec, SampleSpec
from dimo_cli.students.student import Student, at_r_init
from dimo_cli.students.target import Target
from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.protocol import TokenSpace

FRAMES = 8
RANDOM = "random"
ORDER_SEED = 2**31  # added to the seed: the order of positions owes nothing to the images' draws


def picture_tokens(student: Student, picture: Image.Image | Pixels, name: str) -> Tensor:
    """The tokens [1, L, G] of a picture of any size, cropped to its middle square."""
    check_source(student.manifest.init.control)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    square = np.array(fit_for(student)(picture.convert("RGB")))
    images = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 127.5 - 1
    device = next(student.backbone.parameters()).device
    try:
        with torch.inference_mode():
            return student.teacher.tokenizer.encode(images.to(device))
    except NotImplementedError:
        raise SpecError(
            f"The tokenizer of `{student.teacher.name}` only decodes: it cannot read `{name}`.",
            "Start from random tokens.",
        ) from None


def fit_for(student: Student) -> Fit:
    """Halved by boxes while twice too large, so that an enlarged sample becomes what it was."""
    return Fit("adm", student.teacher.space.image_size)


def file_tokens(student: Student, path: Path) -> Tensor:
    """The tokens [1, L, G] of an image file."""
    if not path.is_file():
        raise MissingError(f"There is no image `{path}`.", "Give a PNG, JPEG or WebP file.")
    with path.open("rb") as file:
        header = read_header(file, path.name)
        if header.problem:
            raise SpecError(f"`{path}` cannot be used: {header.problem}.", "Give an RGB image.")
        file.seek(0)
        try:
            pixels = read_pixels(file, path.name, fit_for(student))
        except DimoError:
            raise
        except Exception as error:  # of whichever decoder
            raise SpecError(f"`{path}`: {reason(error)}.", "Save it as PNG again.") from error
    return picture_tokens(student, pixels, str(path))


def start_from_file(target: Target, path: Path) -> tuple[Target, dict[str, Any]]:
    """The target with a student that starts from an image, and what the protocol says of it."""
    assert target.student is not None
    student = replace(target.student, source=file_tokens(target.student, path))
    return Target(target.teacher, student), {"init": path.name, "init_sha256": file_sha256(path)}


@dataclass(frozen=True)
class End:
    """Where an interpolation starts or stops."""

    tokens: Tensor
    """Image tokens [1, L, G]."""
    wanted: int | str | None = None
    """The class or prompt that the end was named by; None for an image and for random tokens."""


@dataclass(frozen=True)
class Strip:
    """The frames of an interpolation."""

    target: Target
    spec: SamplerSpec
    ends: tuple[End, End]
    shares: list[float]
    """Of each frame, the share of positions that come from the second end."""
    wanted: list[int | str]
    """The class or prompt of each frame."""
    about: dict[str, Any]
    """What the protocol says of it."""

    def draw(self, progress: Callable[[int], None]) -> tuple[Pixels, dict[str, Any]]:
        """The frames [N, H, W, 3]. Mask, noise and draws are the same for all of them."""
        target, student = self.target, self.target.student
        assert student is not None
        images: list[Tensor] = []
        protocol: dict[str, Any] = {}
        for share, wanted in zip(self.shares, self.wanted, strict=True):
            tokens = mixed(self.ends, share, target.teacher.space, self.spec.seed)
            one = Target(target.teacher, replace(student, source=tokens))
            sampler, protocol = build_sampler(one, self.spec)
            cond = condition(target.teacher, [wanted]).to(target.device)
            images.append(sampler(cond, seeded(target, self.spec.seed)).cpu())
            progress(1)
        return to_pixels(torch.cat(images)), {**protocol, **self.about}


def seeded(target: Target, seed: int) -> torch.Generator:
    """The generator that `dimo sample --seed` begins with."""
    return torch.Generator(target.device).manual_seed(seed)


def mixed(ends: tuple[End, End], share: float, space: TokenSpace, seed: int) -> Tensor:
    """Image tokens of both ends: a position that has gone over to the second one stays there."""
    first, second = (end.tokens for end in ends)
    slots = space.length * space.groups
    generator = torch.Generator(first.device).manual_seed(ORDER_SEED + seed)
    gone = exact_mask(torch.tensor([round(share * slots)]), slots, generator)
    return torch.where(gone.view_as(first), second, first)


def plan_strip(target: Target, spec: SampleSpec) -> Strip:
    """The interpolation that a spec asks for."""
    assert spec.interpolate is not None
    if spec.interpolate[0] == spec.interpolate[1]:
        raise SpecError(f"`--interpolate` goes from `{spec.interpolate[0]}` to itself.")
    ends = (
        find_end(target, spec.interpolate[0], spec.sampler),
        find_end(target, spec.interpolate[1], spec.sampler),
    )
    count = spec.frames or FRAMES
    shares = [frame / (count - 1) for frame in range(count)]
    wanted = [condition_at(share, ends, target, spec) for share in shares]
    about = {"interpolate": list(spec.interpolate), "shares": [round(s, 4) for s in shares]}
    return Strip(target, spec.sampler, ends, shares, wanted, about)


def named_ends(spec: SampleSpec) -> tuple[str, ...]:
    """The ends of an interpolation that are classes or prompts."""
    return tuple(end for end in spec.interpolate or () if end != RANDOM and not file_of(end))


def file_of(end: str) -> Path | None:
    """The image file that an end is, or can only be meant for; None for other words."""
    try:
        path = Path(end).expanduser()
        return path if path.suffix.lower() in SUFFIXES or path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # no name of a file: too long, or nobody's home
        return None


def find_end(target: Target, text: str, spec: SamplerSpec) -> End:
    """An image file, `random`, or else a class or prompt: the student's own image of it."""
    teacher, student = target.teacher, target.student
    assert student is not None
    if path := file_of(text):
        return End(file_tokens(student, path))
    check_source(student.manifest.init.control)
    if text == RANDOM:
        return End(random_tokens(teacher.space, 1, seeded(target, spec.seed)))
    wanted = text if teacher.takes_prompts else find_class(text, teacher, "--interpolate")
    cond = condition(teacher, [wanted]).to(target.device)
    if spec.r_init is not None:
        student = at_r_init(student, spec.r_init)
    tokens = student.tokens(
        cond,
        seeded(target, spec.seed),
        temperature=spec.temperature,
        top_k=spec.top_k,
        top_p=spec.top_p,
        steps=spec.steps,
    )
    return End(tokens, wanted)


def condition_at(
    share: float, ends: tuple[End, End], target: Target, spec: SampleSpec
) -> int | str:
    """The class or prompt of a frame: that of the command, or of the end that is nearer."""
    teacher = target.teacher
    if given := (spec.classes if teacher.takes_prompts else spec.prompts):
        takes = "prompts, not classes" if teacher.takes_prompts else "classes, not prompts"
        raise SpecError(f"`{teacher.name}` takes {takes}.", f"Leave out `{given[0]}`.")
    if spec.prompts:
        return spec.prompts[0]
    if spec.classes:
        return find_class(spec.classes[0], teacher)
    nearer, other = ends if share < 0.5 else (ends[1], ends[0])
    for end in (nearer, other):
        if end.wanted is not None:
            return end.wanted
    kind = '--prompt "..."' if teacher.takes_prompts else "--class"
    raise SpecError("Neither end of `--interpolate` says what to draw.", f"Add `{kind}`.")
