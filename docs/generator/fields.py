"""The fields of a spec as rows of a table: name, type, default, what is allowed, what it is."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dimo_cli.specs.base import Spec
from dimo_cli.specs.explain import allowed, spec_types
from dimo_cli.specs.render import scalar
from docs.generator.markdown import code, table

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "value"}
HEAD = ("setting", "type", "default", "allowed", "what it is")


@dataclass(frozen=True)
class Row:
    """One setting."""

    path: str
    type: str
    default: str
    allowed: str
    description: str

    def cells(self) -> list[str]:
        """As a table has them."""
        return [code(self.path), self.type, self.default, self.allowed, self.description]


def type_words(annotation: Any) -> str:
    """A type as a person says it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(inside[0])
    if origin is Literal:
        return "word" if len(inside) > 1 else code(inside[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(member) for member in inside)
    if origin is tuple:
        return f"{'list of' if inside[-1] is ... else len(inside)} {type_words(inside[0])}s"
    if origin is dict:
        return f"{type_words(inside[1])}s by name"
    if annotation is type(None):
        return "null"
    return WORDS.get(annotation) or annotation.__name__.lower()


def limits(info: FieldInfo) -> str:
    """What is allowed, with the pattern of a text where there is one."""
    patterns = [getattr(bound, "pattern", None) for bound in info.metadata]
    return allowed(info) or ", ".join(f"matches `{pattern}`" for pattern in patterns if pattern)


def default_words(value: Any) -> str:
    """A default as it would be written in a spec; nothing where there is none."""
    if value is PydanticUndefined:
        return "required"
    if value in ((), {}):
        return "none"
    return code(scalar(value))


def rows_of(model: type[Spec], prefix: str = "", default: Spec | None = None) -> Iterator[Row]:
    """Every setting below a spec, by dotted path; `default` is what the group above it has here."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        own = info.get_default(call_default_factory=True, validated_data={})
        value = getattr(default, name) if isinstance(default, model) else own
        kinds = spec_types(info.annotation)
        if not kinds:
            description = info.description or ""
            yield Row(
                path, type_words(info.annotation), default_words(value), limits(info), description
            )
        elif len(kinds) == 1:
            yield from rows_of(kinds[0], f"{path}.", value)
        else:
            yield from rows_of_kinds(path, info, kinds, value)


def rows_of_kinds(path: str, info: FieldInfo, kinds: list[type[Spec]], value: Any) -> Iterator[Row]:
    """A group that comes in kinds: which there are, then the settings of each."""
    words = {kind: kind.model_fields["kind"].default for kind in kinds}
    choices = ", ".join(words.values())
    description = info.description or ""
    yield Row(f"{path}.kind", "word", default_words(value.kind), choices, description)
    for kind, word in words.items():
        for row in rows_of(kind, f"{path}.", value):
            if not row.path.endswith(".kind"):
                told = f"Of kind {word}: {row.description}"
                yield Row(row.path, row.type, row.default, row.allowed, told)


def fields_table(model: type[Spec], leave_out: type[Spec] | None = None) -> str:
    """All settings of a spec, without those that it has from `leave_out`."""
    known = {row.path for row in rows_of(leave_out)} if leave_out else set()
    return table(HEAD, [row.cells() for row in rows_of(model) if row.path not in known])


def grouped_tables(model: type[Spec], leave_out: type[Spec] | None = None) -> list[tuple[str, str]]:
    """A table for each group of a spec, after one of the settings that are in none."""
    known = {row.path for row in rows_of(leave_out)} if leave_out else set()
    groups: dict[str, list[Row]] = {}
    for row in rows_of(model):
        if row.path not in known:
            groups.setdefault(row.path.partition(".")[0] if "." in row.path else "", []).append(row)
    ordered = sorted(groups, key=lambda name: name != "")
    return [(name, table(HEAD, [row.cells() for row in groups[name]])) for name in ordered]
