"""What an exported program is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec


class ExportSpec(Spec):
    """How the tokens of an exported program are drawn, and which prompts are encoded for it."""

    temperature: Real | None = Field(
        None, gt=0, le=1000, description="Divides the logits; null: the student's own"
    )
    top_k: Int = Field(0, ge=0, description="Keep the k likeliest tokens; 0: all")
    top_p: Real = Field(0.0, ge=0, le=1, description="Keep the likeliest mass p; 0: all")
    greedy: bool = Field(False, description="Take the likeliest tokens: no noise as input")
    prompts: Annotated[tuple[str, ...], Flag(names=("--prompt",))] = Field(
        (), description="Encoded for a text student, and saved beside the program"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> ExportSpec:
        if self.greedy and (self.temperature is not None or self.top_k or self.top_p):
            raise ValueError(
                "--greedy takes the likeliest tokens, so --temperature, --top-k and --top-p would "
                "have no effect"
            )
        return self
