"""What a push is: which student, where to, and what its card is to say."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from dimo_cli.specs.base import Flag, Real, Spec

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"^{NAME}/{NAME}$")
REVISION = re.compile(r"^(?!refs/)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")


class Footprint(Spec):
    """What training took, and what an estimate of its emissions assumes."""

    hours: Real | None = Field(
        None, gt=0, description="Hours of training; null: as the run recorded them"
    )
    hardware: str | None = Field(
        None, min_length=1, description="What it was trained on; null: as the run recorded it"
    )
    watts: Real | None = Field(
        None, gt=0, description="Assumed power of all devices together; null: no estimate"
    )
    grid_intensity: Real | None = Field(
        None, gt=0, description="Assumed g CO2eq per kWh of the electricity; null: no estimate"
    )

    @model_validator(mode="after")
    def _both_assumptions_or_none(self) -> Footprint:
        if (self.watts is None) != (self.grid_intensity is None):
            raise ValueError(
                "--watts and --grid-intensity belong together: emissions are hours x watts x "
                "grid intensity"
            )
        return self


class PushSpec(Spec):
    """One call of `dimo push`."""

    target: Annotated[str, Flag(is_argument=True, completion="students")] = Field(
        ...,
        min_length=1,
        description="Run folder (its numbers and settings go along), RUN@best, RUN@last or "
        "RUN@step-N (a checkpoint), student folder or built-in student",
    )
    repository: Annotated[str, Flag(is_argument=True, metavar="USER/NAME")] = Field(
        ..., description="Where to: user/name or organization/name"
    )
    private: Annotated[bool | None, Flag(names=("--private/--public",))] = Field(
        None, description="Who sees a new repository; null: as your account is set"
    )
    create_pr: bool = Field(False, description="Propose the change as a pull request")
    branch: str | None = Field(None, description="Push to this branch, made if need be; null: main")
    tag: str | None = Field(None, description="Tag what is pushed")
    metrics: tuple[str, ...] = Field((), description="JSON of `dimo eval ... --json` for the card")
    license_name: str | None = Field(
        None, min_length=1, description="Name of a teacher's license that dimo does not know"
    )
    license_link: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Where the terms of that license are"
    )
    footprint: Footprint = Field(default_factory=Footprint, description="Hours and emissions")

    @field_validator("repository")
    @classmethod
    def _is_a_repository(cls, value: str) -> str:
        if not REPOSITORY.match(value) or len(value) > 96 or "--" in value or ".." in value:
            raise ValueError(
                f"`{value}` is no name of a repository: it must be of the form user/name, of "
                "letters, digits, `-`, `_` and `.`, 96 characters at most"
            )
        return value

    @field_validator("branch", "tag")
    @classmethod
    def _is_a_revision(cls, value: str | None) -> str | None:
        if value is not None and (not REVISION.match(value) or ".." in value):
            raise ValueError(
                f"`{value}` is no name of a branch or tag: use letters, digits, `.`, `-`, `_` "
                "and `/`"
            )
        return value

    @model_validator(mode="after")
    def _options_fit_together(self) -> PushSpec:
        if self.create_pr and self.branch:
            raise ValueError(
                "--create-pr and --branch exclude each other: a pull request is made for main"
            )
        if self.create_pr and self.tag:
            raise ValueError("--create-pr and --tag exclude each other: tag it once it is merged")
        if self.branch and self.branch == self.tag:
            raise ValueError("--branch and --tag must have different names")
        if (self.license_name is None) != (self.license_link is None):
            raise ValueError("--license-name and --license-link belong together")
        return self
