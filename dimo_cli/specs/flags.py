"""A spec from a command's own flags, with errors that name the flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Spec
from dimo_cli.specs.explain import explain

S = TypeVar("S", bound=Spec)


def spec_from_flags(
    model: type[S], values: Mapping[str, Any], renamed: Mapping[str, str] | None = None
) -> S:
    """Validate `values`; `renamed` maps a field's path to its flag where they differ in name."""
    renamed = renamed or {}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            if item["type"] == "value_error":  # our own validators name the flags themselves
                problems.append(f"{item['ctx']['error']}.")
                continue
            path = ".".join(str(part) for part in item["loc"])
            sentence = explain(model, values, {}, item)
            flag = renamed.get(path) or "--" + path.rpartition(".")[2].replace("_", "-")
            problems.append(sentence.replace(f"`{path}`", f"`{flag}`", 1))
    raise SpecError("\n".join(dict.fromkeys(problems)))
