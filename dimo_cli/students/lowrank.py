"""From adapters to a plain student, and from a plain student to adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dimo_cli.engine.lora import (
    chosen_targets,
    fingerprint,
    has_adapters,
    merged,
    with_adapters,
)
from dimo_cli.errors import SpecError
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.lowrank import ExtractSpec
from dimo_cli.specs.manifest import LoraFacts, oldest_format
from dimo_cli.students.student import Student
from dimo_cli.teachers.linear_maps import owner_of
from dimo_cli.teachers.protocol import Backbone

OVERSAMPLED, ITERATIONS = 16, 4  # of a randomized SVD
EXACT = 512  # sides of matrices that are decomposed as they are


@dataclass(frozen=True, slots=True)
class Loss:
    """What adapters of low rank leave of the way from a teacher to its student."""

    kept: dict[str, float]
    """The share of the squared difference of each target."""
    error: float
    """The norm of what is lost at the targets, in units of the norm of all differences there."""
    elsewhere: float
    """The share of the squared difference of all weights that is at no target at all."""

    @property
    def worst(self) -> tuple[str, float]:
        """The target that keeps least."""
        return min(self.kept.items(), key=lambda item: item[1])


def merge_student(student: Student) -> Student:
    """The plain student that computes the same."""
    if not has_adapters(student.backbone):
        raise SpecError(
            "This student has no adapters: there is nothing to merge.",
            "`dimo merge` takes a student that was trained with `student.lora.rank`, or made by "
            "`dimo extract`.",
        )
    none = {"fingerprint": None, "weights": None}
    facts = student.manifest.teacher.model_copy(update=none)
    number = oldest_format(False, student.manifest.steps)
    update = {"format": number, "lora": None, "teacher": facts}
    return replace(
        student,
        manifest=student.manifest.model_copy(update=update),
        backbone=merged(student.backbone),
    )


def extract_student(
    student: Student, spec: ExtractSpec, progress: Callable[[], None] = lambda: None
) -> tuple[Student, Loss]:
    """The nearest student that is its teacher with adapters, and what is lost."""
    no_place = "adapters have no place for its network"
    student.check_no_latent(no_place)
    student.check_no_noise(no_place, "Use a student without it.")
    if has_adapters(student.backbone):
        raise SpecError(
            "This student has adapters already.",
            "Merge them first, with `dimo merge`, for adapters of another rank.",
        )
    base, own = student.teacher.backbone, student.backbone
    check_rank(base, spec)
    kept: dict[str, float] = {}
    lost = whole = 0.0

    def make(target: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        nonlocal lost, whole
        delta = difference(own, base, target)
        down, up = factors(delta, spec.rank)
        energy, error = squares(delta), squares(delta - up @ down)
        kept[target] = 1 - error / energy if energy else 1.0
        lost, whole = lost + error, whole + energy
        progress()
        return down, up

    lora = LoraSpec(rank=spec.rank, targets=spec.targets)
    network = with_adapters(base, lora, make)
    everywhere = all_squares(own, base)
    elsewhere = max(0.0, 1 - whole / everywhere) if everywhere else 0.0
    facts = student.manifest.teacher.model_copy(update={"fingerprint": fingerprint(base)})
    lora_facts = LoraFacts(rank=spec.rank, alpha=spec.rank)
    number = oldest_format(True, student.manifest.steps)
    update = {"format": number, "lora": lora_facts, "teacher": facts}
    found = replace(student, manifest=student.manifest.model_copy(update=update), backbone=network)
    return found, Loss(kept, (lost / whole) ** 0.5 if whole else 0.0, elsewhere)


def check_rank(base: Backbone, spec: ExtractSpec) -> None:
    """Refuse a rank that is no low one."""
    for target in chosen_targets(base, spec.targets):
        module, name = owner_of(base, target)
        weight = module._parameters[name]
        assert weight is not None
        if spec.rank > min(weight.shape[:2]):
            raise SpecError(
                f"`--rank` is {spec.rank}, and `{target}` has {weight.shape[0]} x "
                f"{weight.shape[1]} weights.",
                f"Use at most {min(weight.shape[:2])}.",
            )


def difference(own: Backbone, base: Backbone, target: str) -> Tensor:
    """What a student changed of a weight, in float32."""
    (module, name), (other, _) = owner_of(own, target), owner_of(base, target)
    weight, before = module._parameters[name], other._parameters[name]
    assert weight is not None
    assert before is not None
    return weight.detach().float() - before.detach().float()


def factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] whose product B A is the nearest of that rank, by truncated SVD."""
    if min(delta.shape) <= EXACT:
        left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
        right = right.T
    else:
        most = min(*delta.shape, rank + OVERSAMPLED)
        devices = [delta.device] if delta.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # it draws from torch's own generator
            torch.manual_seed(0)
            left, sizes, right = torch.svd_lowrank(delta, q=most, niter=ITERATIONS)
    roots = sizes[:rank].sqrt()
    return (roots[:, None] * right[:, :rank].T).contiguous(), (left[:, :rank] * roots).contiguous()


def squares(tensor: Tensor) -> float:
    """The sum of squares, to more digits than the tensor has."""
    return float(tensor.double().square().sum())


def all_squares(own: Backbone, base: Backbone) -> float:
    """The squared difference of all weights of two networks."""
    pairs = zip(own.parameters(), base.parameters(), strict=True)
    return sum(squares(now.detach().float() - then.detach().float()) for now, then in pairs)
