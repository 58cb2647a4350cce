"""Where two specs of a run differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import leaves
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import (
    load_yaml,
    preset_names,
    refine_preset_names,
    resolve_spec,
)

ABSENT = "-"  # of a setting that the other kind of run alone has


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that has two values."""

    path: str
    first: Any
    second: Any


def spec_named(name: str) -> DistillSpec:
    """The spec of a preset, of a run folder, or of a YAML file."""
    path = Path(name).expanduser()
    file = path / "run.yaml" if path.is_dir() else path
    if file.is_file():
        values = load_yaml(file).values
        refines = "gan" in values or values.get("preset") in refine_preset_names()
        return resolve_spec(RefineSpec if refines else DistillSpec, file=file, environment={}).spec
    if name in refine_preset_names():
        return resolve_spec(RefineSpec, preset=name, environment={}).spec
    if name in preset_names():
        return resolve_spec(DistillSpec, preset=name, environment={}).spec
    raise SpecError(
        f"`{name}` is no preset, no run folder and no spec file.",
        did_you_mean(name, [*preset_names(), *refine_preset_names()]),
    )


def differences(first: DistillSpec, second: DistillSpec) -> list[Difference]:
    """Every setting whose value is not the same, in the order of the specs."""
    before, after = values_of(first), values_of(second)
    return [
        Difference(path, before.get(path, ABSENT), after.get(path, ABSENT))
        for path in dict.fromkeys([*before, *after])
        if before.get(path, ABSENT) != after.get(path, ABSENT)
    ]


def values_of(spec: DistillSpec) -> Mapping[str, Any]:
    """The settings of a spec by their paths."""
    return {leaf.path: leaf.value for leaf in leaves(spec)}
