"""The page of the Python API: recipes, and a reference from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import dimo_cli
from dimo_cli.python.options import EvalOptions, SamplerOptions
from dimo_cli.specs.base import Spec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SamplerSpec
from docs.generator.fields import rows_of
from docs.generator.markdown import code, fill, table

FUNCTIONS = ("distill", "refine", "resume", "sample", "evaluate", "list_runs")
CLASSES = ("Run", "Callback", "StopRun", "Evaluation", "OneStepPipeline", "DimoError")
# Types as a reader says them.
WORDS = {
    "os.PathLike[str]": "PathLike",
    "Start": "str | PathLike | dict | DistillSpec",
    "Settings": "dict",
    "Progress": "bool | Callable[[str], None]",
    "Mapping": "dict",
}
OPTIONS: dict[str, tuple[type, type[Spec]]] = {
    "sample": (SamplerOptions, SamplerSpec),
    "evaluate": (EvalOptions, EvalSpec),
}
# Of classes that are told of elsewhere, what a reader calls first.
CALLED = {
    "OneStepPipeline": ("from_pretrained", "__call__", "to", "compile", "save_pretrained"),
    "Evaluation": ("values", "__getitem__", "document"),
}


def python_page() -> str:
    """The text of the page."""
    return fill(
        "python.md",
        functions=[function(name) for name in FUNCTIONS],
        classes=[a_class(name) for name in CLASSES],
    )


def function(name: str) -> dict[str, str]:
    """A function with all that is known of it."""
    found = getattr(dimo_cli, name)
    return {
        "name": name,
        "signature": signature(name, found),
        "about": about(found),
        "options": options_table(name),
    }


def signature(name: str, found: Callable[..., Any]) -> str:
    """How a function is called, an argument a line."""
    lines, is_keyword = [], False
    told = inspect.signature(found)
    for parameter in told.parameters.values():
        kind = parameter.kind
        if kind is parameter.KEYWORD_ONLY and not is_keyword:
            lines.append("*")
            is_keyword = True
        stars = "**" if kind is parameter.VAR_KEYWORD else ""
        default = parameter.default
        given = "" if default is parameter.empty else f" = {default!r}".replace("'", '"')
        lines.append(f"{stars}{parameter.name}: {in_words(parameter.annotation)}{given}")
    body = "".join(f"    {line},\n" for line in lines)
    return f"{name}(\n{body}) -> {in_words(told.return_annotation)}"


def in_words(annotation: Any) -> str:
    """A type as its function declares it, in names that a reader knows."""
    text = str(annotation)
    for name, words in WORDS.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", words, text)
    return re.sub(r"Unpack\[(\w+)\]", r"\1", text)


def about(found: object) -> str:
    """A docstring as Markdown."""
    return inspect.getdoc(found) or ""


def options_table(name: str) -> str:
    """The further keywords of a function; nothing where there are none."""
    if name not in OPTIONS:
        return ""
    kind, model = OPTIONS[name]
    rows = {row.path.removeprefix("sampler."): row for row in rows_of(model)}
    head = ("keyword", "type", "default", "allowed", "what it is")
    shown = sorted(kind.__annotations__)
    return table(head, [[code(word), *rows[word].cells()[1:]] for word in shown])


def a_class(name: str) -> dict[str, str]:
    """A class with its public members."""
    found = getattr(dimo_cli, name)
    own = [member(found, name) for name in CALLED.get(name, public(found))]
    return {
        "name": name,
        "about": about(found),
        "members": table(("member", "what it is"), own) if own else "",
    }


def public(found: type) -> Iterator[str]:
    """The names of a class's own methods and properties that are for everybody."""
    for name, value in vars(found).items():
        is_told = inspect.isfunction(value) or isinstance(value, (property, cached_property))
        if is_told and not name.startswith("_"):
            yield name


def member(found: type, name: str) -> list[str]:
    """A method as it is called, or a property, and what it is."""
    value = inspect.getattr_static(found, name)
    told = first_sentence(inspect.getdoc(value) or "")
    if isinstance(value, (property, cached_property)):
        return [code(name), told]
    arguments = ", ".join(
        parameter.name
        for parameter in inspect.signature(getattr(value, "__func__", value)).parameters.values()
        if parameter.name not in ("self", "cls") and parameter.kind is not parameter.VAR_KEYWORD
    )
    shapes = {"__call__": f"pipeline({arguments})", "__getitem__": f"result[{arguments}]"}
    return [code(shapes.get(name, f"{name}({arguments})")), told]


def first_sentence(told: str) -> str:
    """What stands before the first empty line, in one line."""
    return " ".join(told.split("\n\n")[0].split())
