"""What `dimo arena` compares: methods that distill one teacher under one budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dimo_cli.errors import did_you_mean
from dimo_cli.specs.base import Flag, Int, Spec
from dimo_cli.specs.distill import MOST_STEPS
from dimo_cli.specs.resolve import preset_names

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
TIME = re.compile(r"(\d+(?:\.\d+)?) ?([smh])")
MOST = 10**12  # forwards, or seconds
TUNING_SEED = 100  # which no reported run has
MOST_SEEDS = 20
FACTORS = (0.5, 1.0, 2.0)
"""What the learning rates of a preset are tried times, the same for every method."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a teacher is distilled by a method, where it has no preset for that."""

    title: str
    overrides: Mapping[str, Any]
    """By path, over the preset of the teacher itself."""
    in_one_step: bool = False
    """Whether it trains for one step and no more."""


_LINEAR = {"masking.student": "linear", "masking.auxiliary": "linear"}
_MASKS = {"init.mask_ratio": 1.0}  # alone, at the start of a student
_OWN = {"images": "teacher"}  # no real ones ship with most teachers
METHODS: Mapping[str, Method] = {
    "dimo": Method("Di[M]O", {}),
    "idlm": Method("IDLM", {"objectives": ["idlm"]}),
    "credit": Method(
        "reverse KL with credit",
        {
            **_LINEAR,
            "loss.divergence": "rkl",
            "loss.weight": "calibrated",
            "loss.revealed_credit": 1.0,
        },
        in_one_step=True,
    ),
    "imdm": Method(
        "IMDM",
        {**_MASKS, "init.noise": {"kind": "mask", "law": "uniform"}, "objectives": ["idlm"]},
    ),
    "dmmd": Method(
        "D-MMD",
        {
            **_MASKS,
            **_LINEAR,
            "init.noise": {"kind": "image", "law": "gaussian"},
            "masking.bridge": True,
            "objectives": [{"kind": "dmmd", "anchor": 1.0}],
        },
    ),
    "fpd": Method("FPD", {"objectives": ["fpd"]}),
    "catdrift": Method("CatDrift", {"objectives": ["catdrift"]}),
    "redi": Method("ReDi", {"init.mask_ratio": 0.3, "objectives": ["redi"]}, in_one_step=True),
    "sdtt": Method("SDTT", {**_MASKS, "objectives": [{"kind": "sdtt", **_OWN}]}),
    "di4c": Method(
        "Di4C", {**_MASKS, "objectives": [{"kind": "di4c", **_OWN}], "student.latent": True}
    ),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What every run may spend: forwards of the student, or seconds of training."""

    forwards: int | None = None
    seconds: float | None = None

    @property
    def words(self) -> str:
        """As people say it."""
        if self.forwards is not None:
            return f"{self.forwards:,} forwards of the student"
        seconds = self.seconds or 0.0
        each, unit = (60, "minutes") if seconds >= 60 else (1, "seconds")
        return f"{seconds / each:g} {unit} of training"


def read_budget(text: str) -> Budget:
    """`70400` or `7e4` forwards, or a time such as `5m`; anything else is a ValueError."""
    if found := TIME.fullmatch(text.strip()):
        seconds = float(found[1]) * UNITS[found[2]]
        if 0 < seconds <= MOST:
            return Budget(seconds=seconds)
    try:
        forwards = TypeAdapter(Int).validate_python(text.strip())
    except ValidationError:
        forwards = 0
    if not 1 <= forwards <= MOST:
        raise ValueError(
            f"must be a number of the student's forwards, such as 70400, or a time, such as 90s, "
            f"5m or 1h, above 0 and at most {MOST:g}, not {text[:40]!r}"
        )
    return Budget(forwards=forwards)


def _parted(data: Any) -> Any:
    """Let `a,b` stand for `[a, b]`, and one number for a list of it."""
    if isinstance(data, str):
        return [part.strip() for part in data.split(",") if part.strip()]
    return [data] if isinstance(data, int) else data


class ArenaSpec(Spec):
    """Methods, a teacher and a budget; all else is what the methods' presets say."""

    teacher: Annotated[str, Flag(names=("--teacher", "-t"), completion="presets")] = Field(
        "digits",
        min_length=1,
        description="Preset whose teacher is distilled, or a YAML spec. A method takes its preset "
        "of that teacher (`digits-redi`), or the preset itself with the method's own settings",
    )
    methods: Annotated[
        tuple[str, ...],
        Flag(names=("--methods", "-m"), metavar="NAMES", is_text=True),
        BeforeValidator(_parted),
    ] = Field(
        ("all",),
        min_length=1,
        validate_default=True,
        description=f"With commas, of {', '.join(METHODS)}; none: all",
    )
    budget: Annotated[str, Flag(names=("--budget", "-b"), metavar="FORWARDS|TIME")] = Field(
        "70400",
        description="What each run may spend: forwards of the student, as 70400, the same for "
        "all, or seconds, minutes or hours of training, as 90s, 5m or 1h",
    )
    also: Annotated[str | None, Flag(names=("--also",), metavar="FORWARDS|TIME")] = Field(
        None,
        description="A second budget, of the other kind, as 5m beside 70400: the same methods are "
        "trained once more within it, with the learning rates of the first, and their table stands "
        "beside the first one's",
    )
    seeds: Int = Field(
        3, ge=1, le=MOST_SEEDS, description="Runs of each method, with the seeds 0, 1, 2, ..."
    )
    steps: Annotated[
        tuple[Annotated[Int, Field(ge=1, le=MOST_STEPS)], ...],
        Flag(names=("--steps",), metavar="NUMBERS", is_text=True),
        BeforeValidator(_parted),
    ] = Field(
        (1, 2, 4, 8),
        min_length=1,
        description="Steps that images are drawn in, with commas; one student learns all of them; "
        "none: 1,2,4,8",
    )
    samples: Annotated[Int | None, Flag(names=("--samples", "-n"))] = Field(
        None,
        ge=2,
        le=1_000_000,
        description="Images of each number; null: as many as `dimo eval` takes",
    )
    tune: bool = Field(
        False,
        description=f"First try each method with its learning rates times "
        f"{', '.join(f'{factor:g}' for factor in FACTORS)} on seed {TUNING_SEED}, and take the "
        "best",
    )

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if "all" in methods:
            return tuple(METHODS)
        for name in methods:
            if name not in METHODS:
                raise ValueError(
                    f"there is no method {name!r}; {did_you_mean(name, [*METHODS, 'all'])}"
                )
        return tuple(dict.fromkeys(methods))

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(steps)))

    @field_validator("budget", "also")
    @classmethod
    def _readable(cls, budget: str | None, info: ValidationInfo) -> str | None:
        if budget is not None:
            try:
                read_budget(budget)
            except ValueError as problem:
                raise ValueError(f"--{info.field_name} {problem}") from None
        return budget

    @model_validator(mode="after")
    def _budgets_differ(self) -> ArenaSpec:
        second = self.second
        if second and (second.limit.seconds is None) == (self.limit.seconds is None):
            raise ValueError(
                f"also is {self.also}, which is of the same kind as budget {self.budget}: one is a "
                "number of forwards, such as 70400, and the other a time, such as 5m"
            )
        return self

    @property
    def limit(self) -> Budget:
        """The budget as numbers."""
        return read_budget(self.budget)

    @property
    def second(self) -> ArenaSpec | None:
        """The same arena within the other budget; None where there is none."""
        if self.also is None:
            return None
        return self.model_copy(update={"budget": self.also, "also": None, "tune": False})

    @property
    def name(self) -> str:
        """What the teacher's preset is called."""
        return Path(self.teacher).stem

    def start_of(self, method: str) -> tuple[str, Mapping[str, Any]]:
        """The preset or file that a method starts from, and what it sets over it."""
        own = f"{self.teacher}-{method}"
        if method != "dimo" and own in preset_names():
            return own, {}
        return self.teacher, METHODS[method].overrides

    def steps_of(self, method: str) -> tuple[int, ...]:
        """Those of the asked steps that a method trains for; none where it cannot."""
        if METHODS[method].in_one_step:
            return tuple(steps for steps in self.steps if steps == 1)
        return self.steps
