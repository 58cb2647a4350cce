"""A command's parameters, made from the fields of its specs: each setting is said once.

A command says which spec it fills, and gets what the command line says of it:

    def export(asked: Given[ExportSpec], student: StudentArgument) -> None: ...

Every field of that spec is an option then, by its name, type, default, limits and description. A
dataclass of Typer options may stand for them in the same way.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dimo_cli.commands import completing
from dimo_cli.specs.base import Flag, Int, Spec
from dimo_cli.specs.explain import spec_types
from dimo_cli.specs.flags import Given

PLAIN = Flag()
UNSET = re.compile("; (null|none|empty):")  # as a spec says what it does where nothing is set
ENOUGH = 1_000_000  # a limit as large as this tells nobody anything


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a spec a command takes, by path; all of them where this is not said."""

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    said: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What this command says of some, in place of their descriptions."""

    def includes(self, path: str) -> bool:
        """Whether a field is taken, by itself or with its group."""
        names = {path, path.partition(".")[0]}
        return not names & set(self.without) and (not self.only or bool(names & set(self.only)))


@dataclass(frozen=True, slots=True)
class SpecField:
    """A field of a spec that can be written on a command line."""

    path: str
    info: FieldInfo
    default: Any

    @property
    def name(self) -> str:
        """What the parameter is called."""
        own = self.path.rpartition(".")[2]
        return self.flag.names[0] if self.flag.is_argument and self.flag.names else own

    @property
    def flag(self) -> Flag:
        """How it is written."""
        return next((item for item in self.info.metadata if isinstance(item, Flag)), PLAIN)

    @property
    def names(self) -> tuple[str, ...]:
        """All that it can be written with."""
        return self.flag.names or (f"--{self.name.replace('_', '-')}",)

    @property
    def shown_as(self) -> str:
        """What a person knows it as."""
        return self.name.upper() if self.flag.is_argument else self.names[0].partition("/")[0]

    def parameter(self, said: str | None) -> inspect.Parameter:
        """As Typer takes it."""
        annotation = str if self.flag.is_text else typed(self.info.annotation)
        told = help_of(self.info, annotation, said)
        about: dict[str, Any] = {
            "help": told,
            "metavar": self.flag.metavar,
            "autocompletion": completion_of(self.info, self.flag),
            "rich_help_panel": self.flag.panel,
            "envvar": self.flag.variable,
        }
        if annotation is int:
            about |= {"parser": whole_number, "metavar": self.flag.metavar or "INTEGER"}
        is_argument = self.flag.is_argument
        shown = typer.Argument(**about) if is_argument else typer.Option(*self.names, **about)
        default = None if "; default:" in told else self.default
        if default in (None, (), {}):
            annotation, default = annotation | None, None
        elif default is PydanticUndefined:
            default = inspect.Parameter.empty
        return option(self.name, Annotated[annotation, shown], default)


def whole_number(text: Any) -> int:
    """The whole number that was written, be it as 1000 or as 1e3."""
    try:
        return TypeAdapter(Int).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is no whole number.") from None


def option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """A parameter that is always called by name, so that those with a default may come first."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def fields_of(model: type[Spec], chosen: Fields | None = None) -> Iterator[SpecField]:
    """The fields of a spec and of its groups that a command takes, in their order."""
    chosen = chosen or Fields()
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if not (inner := spec_types(info.annotation)):
            if chosen.includes(name):
                yield SpecField(name, info, default)
            continue
        for part, about in inner[0].model_fields.items():
            if chosen.includes(f"{name}.{part}"):
                yield SpecField(f"{name}.{part}", about, getattr(default, part))


def typed(annotation: Any) -> Any:
    """The type of a field as Typer knows it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return typed(inside[0])
    if origin in (Union, types.UnionType):
        return typed(next(part for part in inside if part is not type(None)))
    if origin is Literal:
        return str
    if origin is dict:
        return list[str]
    if origin is tuple:
        parts = tuple(typed(part) for part in inside if part is not Ellipsis)
        return list[parts[0]] if Ellipsis in inside else tuple[parts]  # type: ignore[valid-type]
    return annotation


def choices_of(info: FieldInfo) -> tuple[str, ...]:
    """The words that a field allows; none where it allows any."""
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def completion_of(info: FieldInfo, flag: Flag) -> Callable[..., Any] | None:
    """What the shell offers for a field."""
    if flag.completion:
        found: Callable[..., Any] = getattr(completing, flag.completion)
        return found
    choices = choices_of(info)
    return (lambda: list(choices)) if choices else None


def help_of(info: FieldInfo, annotation: Any, said: str | None) -> str:
    """What a help page says of a field: its description, and what is allowed."""
    description = said or UNSET.sub("; default:", info.description or "")
    choices = choices_of(info)
    allowed = f"one of {', '.join(choices)}" if choices else limits_of(info)
    repeatable = "repeatable" if get_origin(annotation) is list else ""
    return "; ".join([description, *filter(None, (allowed, repeatable))]) + "."


def limits_of(info: FieldInfo) -> str:
    """The smallest and the largest value of a number, where a person could meet them."""
    found = {
        name: limit
        for bound in info.metadata
        for name in ("ge", "gt", "le", "lt")
        if (limit := getattr(bound, name, None)) is not None and abs(limit) < ENOUGH
    }
    low, high = found.get("ge"), found.get("le")
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    if found == {"ge": 0}:
        return ""  # of seeds and of counts, where nobody thinks of less
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[name]} {limit:,}" for name, limit in found.items())


class Parameters:
    """The parameters of a command: its own, and those of the specs and bundles that it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = get_type_hints(function, include_extras=True)
        self.shown: list[inspect.Parameter] = []
        self.given: dict[str, tuple[type[Spec], list[SpecField]]] = {}
        self.bundles: dict[str, type[Any]] = {}
        self.names = tuple(inspect.signature(function).parameters)
        for name, parameter in inspect.signature(function).parameters.items():
            self._add(name, hints[name], parameter.default)

    def _add(self, name: str, hint: Any, default: Any) -> None:
        base, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if get_origin(base) is Given:
            chosen = next((note for note in notes if isinstance(note, Fields)), Fields())
            (model,) = get_args(base)
            fields = list(fields_of(model, chosen))
            self.given[name] = (model, fields)
            self.shown += [field.parameter(chosen.said.get(field.path)) for field in fields]
        elif isinstance(base, type) and dataclasses.is_dataclass(base):
            self.bundles[name] = base
            inner = get_type_hints(base, include_extras=True)
            for part in dataclasses.fields(base):
                self.shown.append(option(part.name, inner[part.name], part.default))
        else:
            self.shown.append(option(name, hint, default))

    def arguments(self, values: Mapping[str, Any], written: Container[str]) -> dict[str, Any]:
        """What the command is called with: `values` by parameter, of which some were written."""
        found: dict[str, Any] = {}
        taken: set[str] = set()
        for name, (model, fields) in self.given.items():
            said = {f.path: values[f.name] for f in fields if f.name in written}
            found[name] = Given(model, said, {f.path: f.shown_as for f in fields})
            taken |= {f.name for f in fields}
        for name, bundle in self.bundles.items():
            names = {part.name for part in dataclasses.fields(bundle)}
            found[name] = bundle(**{key: values[key] for key in names & values.keys()})
            taken |= names
        return {**found, **{key: value for key, value in values.items() if key not in taken}}
