"""Adapters of low rank: which weights of a network get one, and how strong it is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dimo_cli.specs.base import Int, Real, Spec, or_auto

GROUPS = ("attention", "mlp", "all")
"""Names of targets that every family knows; anything else is a regular expression."""
HIGHEST_RANK = 4096


def _one_is_a_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Targets = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=200)], ...],
    Field(min_length=1),
    BeforeValidator(_one_is_a_list),
]


def check_patterns(targets: tuple[str, ...] | None) -> None:
    """Refuse what is no regular expression."""
    for target in targets or ():
        try:
            re.compile(target)
        except re.error as problem:
            raise ValueError(
                f"targets has {target!r}, which is neither {', '.join(GROUPS)} nor a regular "
                f"expression: {problem}"
            ) from None


class LoraSpec(Spec):
    """LoRA: only factors of low rank beside frozen weights are trained, W x + alpha/rank B A x.

    Teacher, student, auxiliary and average then share one copy of W.
    """

    rank: Int = Field(
        0,
        ge=0,
        le=HIGHEST_RANK,
        description="Rank of the adapters; 0: none, and all weights are trained. "
        "Published distilled adapters have 64",
    )
    alpha: Real | None = Field(
        None, gt=0, le=65536, description="The adapters count alpha/rank times; null: once"
    )
    targets: Targets = Field(
        ("attention", "mlp"),
        description="Which linear maps of the blocks get an adapter: attention, mlp, all (those "
        "that modulate by the condition as well), or regular expressions of whole names",
    )

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @model_validator(mode="after")
    def _makes_sense(self) -> LoraSpec:
        check_patterns(self.targets)
        if self.alpha is not None and not self.rank:
            raise ValueError("alpha needs a rank above 0")
        return self


class AuxiliaryLoraSpec(Spec):
    """LoRA of the auxiliary, which is as the student's where nothing else is said."""

    rank: Annotated[
        Literal["student"] | Annotated[Int, Field(ge=0, le=HIGHEST_RANK)],
        or_auto(f"student or a whole number from 0 to {HIGHEST_RANK:,}"),
    ] = Field(
        "student",
        description="Rank of the adapters: the student's, or one that is better not below it; 0: "
        "none, and all weights of a copy are trained",
    )
    alpha: Real | None = Field(
        None,
        gt=0,
        le=65536,
        description="The adapters count alpha/rank times; null: once, or as the student's where "
        "the rank is",
    )
    targets: Targets | None = Field(
        None, description="Which linear maps get an adapter; null: the student's"
    )

    def beside(self, student: LoraSpec) -> LoraSpec:
        """What this means beside a student's adapters."""
        as_student = self.rank == "student"
        rank = student.rank if self.rank == "student" else self.rank
        alpha = student.alpha if as_student and self.alpha is None else self.alpha
        return LoraSpec(rank=rank, alpha=alpha, targets=self.targets or student.targets)

    @model_validator(mode="after")
    def _makes_sense(self) -> AuxiliaryLoraSpec:
        check_patterns(self.targets)
        if self.alpha is not None and self.rank == 0:
            raise ValueError("alpha needs a rank above 0")
        return self
