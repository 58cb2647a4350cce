"""In how many bits the matrices of a frozen network are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

StoredAs = Literal["fp32", "bf16", "int8"]
DYNAMIC = ("int8-dynamic", "int8_dynamic", "dynamic-int8", "dynamic_int8", "w8a8")


def _weights_alone(value: Any) -> Any:
    if value in DYNAMIC:
        raise ValueError(
            f"{value} rounds what is multiplied with the weights as well, and what flows back "
            "through it is off by three quarters: no student can learn from that. Use int8, which "
            "rounds weights alone"
        )
    return value


StoredWeights = Annotated[StoredAs, BeforeValidator(_weights_alone)]
