"""The page of each command: its examples, its options, and the spec that they fill."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from dimo_cli.specs.arena import ArenaSpec
from dimo_cli.specs.base import Spec
from dimo_cli.specs.check import CheckSpec
from dimo_cli.specs.data import EncodeSpec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.lowrank import ExtractSpec, MergeSpec
from dimo_cli.specs.play import DrawAsk, TeacherAsk, TteoAsk
from dimo_cli.specs.push import PushSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.runs import ListSpec, RemoveSpec
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.specs.tteo import TteoSpec
from docs.generator.commands import Command, commands
from docs.generator.fields import fields_table, grouped_tables
from docs.generator.markdown import HERE, fill

# What a person writes into a file, and may set by name.
SETTINGS: dict[str, type[Spec]] = {"distill": DistillSpec, "refine": RefineSpec}
# What flags are turned into, and checked against.
CHECKED: dict[str, tuple[type[Spec], ...]] = {
    "arena": (ArenaSpec,),
    "distill": (LaunchSpec,),
    "refine": (LaunchSpec,),
    "sample": (SampleSpec,),
    "compare": (SampleSpec,),
    "tteo": (TteoSpec,),
    "eval": (EvalSpec,),
    "data": (EncodeSpec,),
    "export": (ExportSpec,),
    "merge": (MergeSpec,),
    "extract": (ExtractSpec,),
    "push": (PushSpec,),
    "check": (CheckSpec,),
    "runs": (ListSpec, RemoveSpec),
    "play": (DrawAsk, TeacherAsk, TteoAsk),
}


def command_names() -> list[str]:
    """The words behind `dimo`, in the order of `dimo --help`."""
    return list(dict.fromkeys(command.name.split()[0] for command in commands()))


def command_pages() -> Iterator[tuple[str, str]]:
    """The path and the text of every page."""
    for name, found in groupby(commands(), key=lambda command: command.name.split()[0]):
        yield f"commands/{name}.md", fill("command.md", **about(name, list(found)))


def about(name: str, found: list[Command]) -> dict[str, Any]:
    """Everything that a page says."""
    settings = SETTINGS.get(name)
    shared = DistillSpec if settings is RefineSpec else None
    return {
        "name": name,
        "help": found[0].help if len(found) == 1 else "",
        "notes": (HERE / "notes" / f"{name}.md").read_text(encoding="utf-8").strip(),
        "sections": [section(part) for part in alike(found)],
        "groups": grouped_tables(settings, shared) if settings else [],
        "checked": [(summary_of(of), fields_table(of)) for of in CHECKED.get(name, ())],
    }


def summary_of(model: type[Spec]) -> str:
    """What a spec is, as a heading."""
    return (model.__doc__ or model.__name__).splitlines()[0].rstrip(".")


def alike(found: list[Command]) -> list[list[Command]]:
    """Commands that take the same are told of together."""
    parts: dict[Any, list[Command]] = {}
    for command in found:
        parts.setdefault(command.parameters, []).append(command)
    return list(parts.values())


def section(part: list[Command]) -> dict[str, Any]:
    """What is said of some commands that take the same."""
    first = part[0]
    group, _, word = first.name.rpartition(" ")
    words = "|".join(command.name.removeprefix(f"{group} ") for command in part)
    return {
        "title": f"{group} {words}".strip(),
        "helps": [(command.name, command.help) for command in part],
        "usage": first.usage.replace(f"{group} {word}", f"{group} {words}"),
        "arguments": first.arguments_table(),
        "options": first.options_table(),
    }
