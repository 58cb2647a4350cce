"""What an exported program draws."""

from __future__ import annotations

from pydantic import Field, model_validator

from dimo_cli.specs.base import Int, Real, Spec


class ExportSpec(Spec):
    """How the tokens of an exported program are drawn."""

    temperature: Real | None = Field(
        None, gt=0, le=1000, description="Divides the logits; null: the student's own"
    )
    top_k: Int = Field(0, ge=0, description="Keep the k likeliest tokens; 0: all")
    top_p: Real = Field(0.0, ge=0, le=1, description="Keep the likeliest mass p; 0: all")
    greedy: bool = Field(False, description="Take the likeliest tokens")
    lora: bool = Field(
        False, description="Write the adapters of a student that has some, as a folder of peft"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> ExportSpec:
        if self.greedy and (self.temperature is not None or self.top_k or self.top_p):
            raise ValueError(
                "--greedy takes the likeliest tokens, so --temperature, --top-k and --top-p would "
                "have no effect"
            )
        if self.lora and (self.greedy or self.temperature is not None or self.top_k or self.top_p):
            raise ValueError(
                "--lora writes adapters, which draw nothing by themselves, so --temperature, "
                "--top-k, --top-p and --greedy would have no effect"
            )
        return self
