"""The base of every run spec: strict, frozen, documented."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


def _refuse_boolean(value: Any) -> Any:
    """Pydantic reads `true` as 1, so a slip such as `steps: yes` would pass unseen."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


def _read_exponent(value: Any) -> Any:
    """`1e3` is a whole number to people, and text to YAML."""
    if isinstance(value, str) and EXPONENT.fullmatch(value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else value
    return value


EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d{1,2}")
Int = Annotated[int, BeforeValidator(_read_exponent), BeforeValidator(_refuse_boolean)]
Real = Annotated[float, BeforeValidator(_refuse_boolean)]


def or_auto(others: str) -> WrapValidator:
    """One sentence for a value that is neither `auto` nor one of the others."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"must be {others}, not {value!r}") from None

    return WrapValidator(validate)


AutoBool = Annotated[Literal["auto"] | bool, or_auto("auto, true or false")]


class Spec(BaseModel):
    """A group of settings. Unknown keys and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field is written on a command line, where its own name does not say it all."""

    names: tuple[str, ...] = ()
    """The one that messages use first; none: the field's own name, behind `--` if no argument."""
    metavar: str | None = None
    """What is written behind it; None: its type."""
    completion: str | None = None
    """The function of `commands/completing` that knows what could be written."""
    panel: str | None = None
    """Heading of its part of the help page."""
    variable: str | None = None
    """Of the environment, that says it where the command line does not."""
    is_argument: bool = False
    is_text: bool = False
    """Whether the command itself makes the value out of what was written."""


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
