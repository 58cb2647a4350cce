"""An objective as it is written in a spec: `dimo`, or `{kind: dmmd, weight: 0.5, anchor: 1}`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from dimo_cli.specs.base import Real, Spec


class Objective(Spec):
    """One loss of a run. Further keys are its own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    kind: str = Field("dimo", min_length=1, description="Name of the objective")
    weight: Real = Field(1.0, gt=0, description="What its gradient is multiplied by")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @property
    def settings(self) -> dict[str, Any]:
        """What it is given beside its name and weight."""
        return dict(self.model_extra or {})
