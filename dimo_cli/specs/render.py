"""A spec as YAML that a person reads: a comment per field, or an origin per value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from dimo_cli.specs.base import Spec
from dimo_cli.specs.explain import Leaf, allowed, default_of, leaves, origin_of

COMMENT_COLUMN = 34


def scalar(value: Any) -> str:
    """A single value as YAML."""
    if isinstance(value, tuple):
        value = [one.model_dump(mode="json") if isinstance(one, Spec) else one for one in value]
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip()


def to_yaml(spec: Spec) -> str:
    """The plain YAML of a spec: what run.yaml holds."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)


def commented_yaml(spec: Spec, only: Collection[str] | None = None, above: str = "") -> str:
    """YAML with a comment per field: its description and what is allowed.

    `only` these paths have comments, and the groups that they are in; `above` is the path of the
    group that the spec is.
    """
    lines = []
    for name, info in type(spec).model_fields.items():
        value, path, pad = getattr(spec, name), f"{above}{name}", "  " * above.count(".")
        is_told = only is None or any(f"{told}.".startswith(f"{path}.") for told in only)
        if isinstance(value, Spec):
            told = f"# {info.description}" if is_told else ""
            lines.append(f"{pad}{f'{name}:'.ljust(COMMENT_COLUMN - len(pad))}{told}".rstrip())
            lines.append(commented_yaml(value, only, f"{path}."))
            continue
        if not is_told:
            lines.append(f"{pad}{name}: {scalar(value)}")
            continue
        bounds = allowed(info)
        comment = info.description or ""
        if bounds and bounds != comment:
            comment += f" [{bounds}]"
        entry = f"{name}: {scalar(value)}".ljust(COMMENT_COLUMN - len(pad))
        lines.append(f"{pad}{entry}# {comment}")
    return "\n".join(lines)


def changed_leaves(spec: Spec) -> list[Leaf]:
    """Every setting that is not the default."""
    return [leaf for leaf in leaves(spec) if leaf.value != default_of(type(spec), leaf.path)]


def changed_values(spec: Spec, origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Path, value and origin of every setting that is not the default."""
    rows = [(leaf, origin_of(leaf.path, origins)) for leaf in changed_leaves(spec)]
    return [(leaf.path, scalar(leaf.value), origin) for leaf, origin in rows if origin is not None]
