"""The commands of the program, read from the program itself."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from dimo_cli.commands.usage import commands_of
from dimo_cli.main import app
from docs.generator.markdown import code, table

VALUES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """An option or an argument."""

    names: tuple[str, ...]
    value: str
    default: str
    limits: str
    help: str
    is_required: bool
    is_argument: bool

    def cells(self) -> list[str]:
        """As a table has them."""
        names = ", ".join(code(name) for name in self.names)
        default = "required" if self.is_required else self.default
        return [names, self.value, default, self.limits, self.help]


@dataclass(frozen=True)
class Command:
    """A command that does something: `dimo distill`, `dimo eval fid`."""

    name: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        """How it is called, in a line."""
        arguments = [p for p in self.parameters if p.is_argument]
        words = [p.names[0] if p.is_required else f"[{p.names[0]}]" for p in arguments]
        return " ".join(["dimo", self.name, *words, "[OPTIONS]"])

    def arguments_table(self) -> str:
        """Its arguments; empty where it has none."""
        return parameters_table("argument", [p for p in self.parameters if p.is_argument])

    def options_table(self) -> str:
        """Its options; empty where it has none."""
        return parameters_table("option", [p for p in self.parameters if not p.is_argument])


def parameters_table(kind: str, parameters: list[Parameter]) -> str:
    """Options or arguments as a table."""
    head = (kind, "value", "default", "allowed", "what it does")
    return table(head, [p.cells() for p in parameters]) if parameters else ""


@cache
def commands() -> tuple[Command, ...]:
    """Every command, in the order of `dimo --help`."""
    return tuple(commands_below("", typer.main.get_command(app)))


def commands_below(name: str, node: Any) -> Iterator[Command]:
    """A command, or a group's own options and then what is in it."""
    children = commands_of(node)
    parameters = tuple(parameters_of(node))
    if name and (not children or parameters):
        yield Command(name, node.help or "", parameters)
    for word, child in children.items():
        if not child.hidden:
            yield from commands_below(f"{name} {word}".strip(), child)


def parameters_of(node: Any) -> Iterator[Parameter]:
    """What a command takes, `--help` left out."""
    if node.callback is None:  # a group that only holds commands
        return
    hints = get_type_hints(inspect.unwrap(node.callback), include_extras=True)
    for parameter in node.params:
        if parameter.name in hints and not parameter.hidden:
            yield parameter_of(parameter, hints[parameter.name])


def parameter_of(parameter: Any, hint: Any) -> Parameter:
    """An option or an argument with the type that its function declares."""
    annotation, info = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    is_argument = "Argument" in type(info).__name__
    names = (*parameter.opts, *parameter.secondary_opts)
    value = parameter.metavar or value_words(annotation)
    if is_argument:
        several = " ..." if get_origin(annotation) is list else ""
        names, value = ((info.metavar or names[0].upper()) + several,), value_words(annotation)
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", info.min), ("at most", info.max))
        if bound is not None
    ]
    default = default_words(parameter.default, annotation)
    told = parameter.help or ""
    if info.envvar:
        told += f" Else what `{info.envvar}` says."
    return Parameter(
        names,
        value,
        default,
        ", ".join(bounds),
        told,
        parameter.required,
        is_argument,
    )


def value_words(annotation: Any) -> str:
    """What is written behind an option; nothing behind a switch."""
    inside = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        return value_words(inside[0])
    if get_origin(annotation) is list:
        return f"{value_words(inside[0])} ..."
    if get_origin(annotation) is tuple:
        return " ".join(value_words(part) for part in inside)
    return VALUES.get(annotation, "")


def default_words(default: Any, annotation: Any) -> str:
    """A default as a person reads it; nothing where none is set."""
    if default is None or default == []:
        return ""
    if annotation is bool:
        return "on" if default else ""
    return code(str(default))
