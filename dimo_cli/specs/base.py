"""The base of every run spec: strict, frozen, documented."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _refuse_boolean(value: Any) -> Any:
    """Pydantic reads `true` as 1, so a slip such as `steps: yes` would pass unseen."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Int = Annotated[int, BeforeValidator(_refuse_boolean)]
Real = Annotated[float, BeforeValidator(_refuse_boolean)]


class Spec(BaseModel):
    """A group of settings. Unknown keys and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def shorthand(key: str, kind: str) -> BeforeValidator:
    """Let `0.6` stand for `{kind: fixed, value: 0.6}`, and a bare word for `{kind: word}`;
    keys without a kind belong to `kind`."""

    def expand(data: Any) -> Any:
        if isinstance(data, str):
            try:
                return {"kind": kind, key: float(data)}
            except ValueError:
                return {"kind": data}
        if isinstance(data, (int, float)):
            return {"kind": kind, key: data}
        if isinstance(data, dict) and "kind" not in data:
            return {"kind": kind, **data}
        return data

    return BeforeValidator(expand)
