"""What a run shows of itself: previews, the number it is held against, and a tracker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dimo_cli.specs.base import Int, Spec
from dimo_cli.specs.metrics import WITH_REFERENCE, RunMetric

AlarmName = Literal["collapse", "reward_hacking", "auxiliary"]
OWN_TABLES = ("_system", "_configs", "_traces", "_artifacts")  # ends of names that trackio uses


class MonitorSpec(Spec):
    """What is watched while training and measured at the end."""

    preview_every: Int = Field(100, ge=1, description="Steps between two sample grids")
    preview_images: Int = Field(20, ge=1, le=400, description="Images in a sample grid")
    metric: RunMetric = Field(
        "fid",
        description="The number of `dimo eval` that is measured while training and in the closing "
        "table, and that decides which checkpoint is the best",
    )
    reference: str | None = Field(
        None,
        min_length=1,
        description="Real images to compare with, as `dimo eval --ref` takes them: digits, shapes, "
        "emoji, statistics (.npz, .pkl) or a folder; null: what ships with the teacher",
    )
    prompts: str | None = Field(
        None,
        min_length=1,
        description="Prompts to measure on, as `dimo eval --prompts` takes them; null: those of "
        "the run, or of the benchmark that metric is",
    )
    fid_every: Int = Field(
        250, ge=0, description="Steps between two measurements of metric; 0: never"
    )
    fid_samples: Int = Field(
        1000,
        ge=100,
        le=100_000,
        description="Images of such a measurement; geneval, emoji and hps take all their prompts",
    )
    table_samples: Int = Field(
        5000,
        ge=0,
        le=100_000,
        description="Images per row of the closing table, or all prompts of geneval, emoji "
        "and hps; 0: no table",
    )
    teacher_steps: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (1, 2, 4, 8, 16), min_length=1, description="Teacher rows of the closing table"
    )
    stop_on: tuple[AlarmName, ...] = Field(
        (),
        description="Alarms that end the run with a checkpoint and exit code 4: collapse (entropy "
        "below 0.02 nats and top-1 above 0.99 in two lines of the log), reward_hacking (diversity "
        "or held-out reward low in two looks), auxiliary (its gap rose by half and by 0.25 nats, "
        "or it never left the teacher); all of them are always said",
    )
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = Field(
        "none", description="Also log to this tracker; its package is an extra of dimo-cli"
    )
    project: str = Field(
        "dimo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$",
        description="Project of the tracker that runs are kept in",
    )
    entity: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="User or team of wandb that the project belongs to; null: your own",
    )
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), max_length=20, description="Words to find the run by, at wandb and trackio"
    )

    @field_validator("project")
    @classmethod
    def _is_no_name_of_trackios_own(cls, project: str) -> str:
        if project.startswith("registry-") or project.endswith(OWN_TABLES):
            raise ValueError(
                f"trackio keeps files of its own under names like this: choose a project that does "
                f"not begin with registry- nor end in {', '.join(OWN_TABLES)}"
            )
        return project

    @model_validator(mode="after")
    def _tracker_knows_what_is_named(self) -> MonitorSpec:
        if self.entity is not None and self.tracker in ("tensorboard", "trackio"):
            raise ValueError(
                f"entity is of wandb: {self.tracker} knows none, so leave it out"
                + ("; TRACKIO_SPACE_ID=owner/name logs to a Space" * (self.tracker == "trackio"))
            )
        if self.tags and self.tracker == "tensorboard":
            raise ValueError("tags are of wandb and trackio: leave them out for tensorboard")
        return self

    @model_validator(mode="after")
    def _enough_samples(self) -> MonitorSpec:
        if 0 < self.table_samples < 100:
            raise ValueError("table_samples must be 0 or at least 100")
        return self

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> MonitorSpec:
        if self.reference is not None and self.metric not in WITH_REFERENCE:
            raise ValueError(
                f"reference is given, but {self.metric} compares with no real images: leave it "
                f"out, or set metric to one of {', '.join(WITH_REFERENCE)}"
            )
        return self

    @property
    def measures(self) -> bool:
        """Whether anything is measured, while training or at the end."""
        return bool(self.fid_every or self.table_samples)
