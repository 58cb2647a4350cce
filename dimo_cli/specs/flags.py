"""From what a command line says to a spec, with errors that name the flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Spec
from dimo_cli.specs.explain import explain

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True)
class Given(Generic[S]):
    """What a command line says of a spec: only that which somebody wrote."""

    model: type[S]
    values: Mapping[str, Any]
    """By the path of the field."""
    flags: Mapping[str, str]
    """What a person knows each field as, by its path."""

    def get(self, path: str, default: Any = None) -> Any:
        """What was written for a field."""
        return self.values.get(path, default)

    def __bool__(self) -> bool:
        return bool(self.values)

    def words(self) -> list[str]:
        """What was written, as the words of a command line."""
        words = []
        for path, value in self.values.items():
            flag = self.flags[path]
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag.removeprefix('--')}")
            elif isinstance(value, tuple):
                words += [flag, *map(str, value)]
            else:
                each = value if isinstance(value, list) else [value]
                words += [word for one in each for word in (flag, str(one))]
        return words

    def layers(self, read: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """By origin, as a spec of several sources takes them; `read` by path was made of it."""
        found = {}
        for path, value in {**self.values, **(read or {})}.items():
            flag = self.flags[path]
            names = f" {', '.join(value)}" if isinstance(value, Mapping) else ""
            origin = f"{'flag' if flag.startswith('-') else 'argument'} {flag}{names}"
            found[origin] = nested(path, value)
        return found

    def spec(self, more: Mapping[str, Any] | None = None) -> S:
        """The spec; `more` by path is what the command itself says, and goes before."""
        tree: dict[str, Any] = {}
        for path, value in {**self.values, **(more or {})}.items():
            group, _, name = path.rpartition(".")
            node = tree.setdefault(group, own_defaults(self.model, group)) if group else tree
            node[name] = value
        return spec_from_flags(self.model, tree, self.flags)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`{a: {b: value}}` of `a.b`."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def own_defaults(model: type[Spec], group: str) -> dict[str, Any]:
    """What a spec sets in a group of its own accord, if nothing else is said."""
    field = model.model_fields[group]
    default: Spec = field.get_default(call_default_factory=True, validated_data={})
    return default.model_dump(exclude_unset=True)


def spec_from_flags(
    model: type[S], values: Mapping[str, Any], flags: Mapping[str, str] | None = None
) -> S:
    """Validate `values`; mistakes are told by the flag of the field."""
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
            problems.append(sentence.replace(f"`{path}`", f"`{flag_at(path, flags or {})}`", 1))
    raise SpecError("\n".join(dict.fromkeys(problems)))


def flag_at(path: str, flags: Mapping[str, str]) -> str:
    """The flag of a path, or of the field that it is a part of: `--reward clip`."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        if flag := flags.get(".".join(parts[:length])):
            inside = ".".join(parts[length:])
            return flag if not inside or inside.isdigit() else f"{flag} {inside}"
    return "--" + parts[-1].replace("_", "-")
