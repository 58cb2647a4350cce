"""An objective as it is written in a spec: `dimo`, or `{kind: dmmd, weight: 0.5, anchor: 1}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from dimo_cli.specs.base import Int, Real, Spec


class RediSpec(Spec):
    """ReDi: pairs of a start and what a network made of it, in rounds."""

    rounds: Int = Field(
        3,
        ge=1,
        le=100,
        description="Equal shares of train.steps: in the first, pairs have the teacher's images; "
        "in each later one, what the student makes of its starts when it begins",
    )
    pairs: Int = Field(
        50_000, ge=1, le=10_000_000, description="Pairs of a round; kept in dimo's cache"
    )
    sampler_steps: Int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Steps that a pair is drawn in; null: those of the teacher's sampler",
    )
    schedule: Literal["linear", "square", "root", "cosine", "arccos", "start"] = Field(
        "arccos",
        description="How many tokens are still those of the start at r from 0 to 1; start: all",
    )
    ends_at_start: bool = Field(
        True, description="In the last round the student sees starts alone, as one step does"
    )
    label_smoothing: Real = Field(
        0.1, ge=0, lt=1, description="Share of the target that is spread over all ids"
    )


class CleanSpec(Spec):
    """Whose whole images an objective masks parts of."""

    images: Literal["data", "teacher", "student"] = Field(
        "data",
        description="Images of which parts are masked: real ones (`data`), the teacher's, drawn "
        "once, or what the student makes in one pass",
    )
    teacher_images: Int = Field(
        10_000, ge=1, le=10_000_000, description="How many are drawn of the teacher's"
    )


class SdttSpec(CleanSpec):
    """SDTT: two steps of a teacher become one, round after round."""

    rounds: Int = Field(
        7,
        ge=1,
        le=30,
        description="Equal shares of train.steps; with each the student takes half as many steps, "
        "and its teacher is what it was before",
    )
    from_steps: Int = Field(
        1024, ge=2, le=2**30, description="Steps of the teacher in the first round"
    )
    divergence: Literal["reverse_kl", "forward_kl", "tvd", "mse"] = Field(
        "reverse_kl",
        description="KL(student || target), as the paper, or the other way round; or, of "
        "log-probabilities, the sum of their distances, or the mean of the squares",
    )
    grid: Literal["paper", "released"] = Field(
        "paper",
        description="Times of the teacher's two steps: as the paper says, or as in the authors' "
        "code, which differs",
    )

    @model_validator(mode="after")
    def _steps_are_left(self) -> SdttSpec:
        if 2**self.rounds > self.from_steps:
            raise ValueError(
                f"{self.rounds} rounds need from_steps of at least {2**self.rounds:,}, not "
                f"{self.from_steps:,}: each halves the steps"
            )
        return self


class Di4cSpec(CleanSpec):
    """di4c: a mixture over a latent, with a control variate for its likelihood."""

    samples: Int = Field(32, ge=2, le=1024, description="Latents of each image in a step")
    control: Real = Field(
        0.1,
        ge=0,
        description="Weight of the control variate at images, where all is masked; it falls to "
        "nothing as tokens are revealed",
    )
    delta: Real = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the sampler's way that the teacher goes in a step; in the last such "
        "share the student learns the teacher itself, with weight 1/delta",
    )
    choice_noise: Real = Field(
        4.5, ge=0, description="Gumbel noise of the teacher's choice of tokens, at the start"
    )
    slots: Literal["all", "masked"] = Field(
        "all",
        description="Where losses are summed: everywhere, as the authors' code, or where tokens "
        "are masked, for teachers that were trained there alone",
    )


class FpdSpec(Spec):
    """FPD: the student's images drift to what a step of the teacher makes of them."""

    ratio: Real = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of the student's tokens that the teacher fills in again; the smaller, "
        "the closer what it leaves alone is to the teacher's own law",
    )
    layers: Int = Field(
        4, ge=1, le=64, description="Layers of the teacher, spread evenly, that look at images"
    )
    cells: Int = Field(
        4, ge=1, le=32, description="Side of the grid over which features are averaged"
    )


class CatDriftSpec(Spec):
    """CatDrift: tokens drift to those of real images, and away from the student's others."""

    bandwidth: Real = Field(
        0.1,
        gt=0,
        le=100,
        description="Reach of the kernel, in units of the mean share of tokens that differ",
    )
    eta: Real = Field(1.0, gt=0, le=100, description="How far logits follow the field")


SETTINGS: dict[str, type[Spec]] = {
    "redi": RediSpec,
    "sdtt": SdttSpec,
    "di4c": Di4cSpec,
    "fpd": FpdSpec,
    "catdrift": CatDriftSpec,
}
"""Objectives whose settings are fields."""
ROUNDS = ("redi", "sdtt")
"""Those that learn from the student as it was when a round began."""
MASKED = ("dimo", "idlm", "dmmd")
"""Those that are asked of masked tokens, by the settings of `loss`."""
COMPARING = ("fpd", "catdrift")
"""Those that compare whole images of a pass, as the student draws them, with one another."""


class Objective(Spec):
    """One loss of a run. Further keys are its own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    kind: str = Field("dimo", min_length=1, description="Name of the objective")
    weight: Real = Field(1.0, gt=0, description="What its gradient is multiplied by")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _has_its_settings(self) -> Objective:
        if self.kind not in SETTINGS:
            return self
        try:
            SETTINGS[self.kind].model_validate(self.settings)
        except ValidationError as error:
            from dimo_cli.files.untrusted import first_problem  # with NumPy behind it

            field, problem = first_problem(error)
            known = ", ".join(["weight", *SETTINGS[self.kind].model_fields])
            raise ValueError(
                f"{field or 'its settings'} of objective {self.kind}: {problem} (it has {known})"
            ) from None
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What it is given beside its name and weight."""
        return dict(self.model_extra or {})


def beyond_reverse_kl(objectives: Sequence[Objective], divergence: str) -> str | None:
    """Why the gradient of these is not that of a reverse KL; None if it is.

    `divergence` is the kind of that of `dimo`, which it also is where nothing is named.
    """
    kinds = {objective.kind for objective in objectives} or {"dimo"}
    if others := sorted(kinds - {"dimo", "idlm"}):
        return f"`objectives` names {others[0]}, whose gradient is no part of that of a KL"
    if "dimo" in kinds and divergence != "rkl":
        return f"`loss.divergence` is {divergence}, not rkl"
    return None
