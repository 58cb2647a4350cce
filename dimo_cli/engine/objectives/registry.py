"""Which objectives there are. The only place that maps a name to an objective's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.plugins import register_plugins
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import SETTINGS
from dimo_cli.specs.objectives import Objective as ObjectiveSpec

if TYPE_CHECKING:  # names are checked before torch is imported
    from dimo_cli.engine.objective import Objective

MODULES = ("dimo", "idlm", "dmmd", "redi", "sdtt", "di4c", "fpd", "catdrift")
Build = Callable[..., "Objective"]


def _builder(name: str) -> Callable[[], Build]:
    def load() -> Build:
        build: Build = import_module(f"dimo_cli.engine.objectives.{name}").build
        return build

    return load


OBJECTIVES: dict[str, Callable[[], Build]] = {name: _builder(name) for name in MODULES}


def register_objective(name: str, build: Build) -> None:
    """Add an objective of one's own, to be named in `objectives` wherever dimo's are.

    `build(spec, weight, **settings)` returns it; its further parameters are its settings.
    """
    if name in (*OBJECTIVES, "gan", "reward"):
        raise SpecError(f"There is an objective `{name}` already.", "Choose another name.")
    OBJECTIVES[name] = lambda: build


def load_plugins() -> None:
    """Register the objectives of installed packages (entry point group `dimo.objectives`)."""
    register_plugins("dimo.objectives", register_objective, known=OBJECTIVES)


def check_objective(name: str) -> None:
    """Refuse an objective that does not exist."""
    if name in ("gan", "reward"):
        raise SpecError(
            f"`objectives` names {name}, which has a group of settings of its own.",
            f"Use `dimo refine` with its `{name}` group; it joins those of `objectives`.",
        )
    if name not in OBJECTIVES:
        load_plugins()
    if name not in OBJECTIVES:
        raise SpecError(
            f"`objectives` names {name!r}, which is not a known objective.",
            did_you_mean(name, OBJECTIVES),
        )


def check_objectives(spec: DistillSpec) -> None:
    """Refuse objectives that do not exist or have no such settings; dimo's own need no torch."""
    for asked in spec.objectives:
        check_objective(asked.kind)
        if asked.settings and asked.kind not in SETTINGS:  # those the spec has checked
            check_settings(asked.kind, OBJECTIVES[asked.kind](), asked.settings)


def build_objective(spec: DistillSpec, asked: ObjectiveSpec, weight: float) -> Objective:
    """An objective by its name and settings, times a further weight."""
    check_objective(asked.kind)
    build, settings = OBJECTIVES[asked.kind](), asked.settings
    check_settings(asked.kind, build, settings)
    return build(spec, asked.weight * weight, **settings)


def check_settings(name: str, build: Build, settings: dict[str, Any]) -> None:
    """Refuse settings that an objective does not have."""
    if name in SETTINGS:
        return  # the spec has checked them
    parameters = list(inspect.signature(build).parameters)[2:]
    for key in settings:
        if key not in parameters:
            known = ", ".join(["weight", *parameters])
            raise SpecError(f"Objective {name} has no setting `{key}`.", f"It has: {known}.")


def named_objectives(spec: DistillSpec, weight: float = 1.0) -> list[Objective]:
    """The objectives that a spec names, each times `weight`; Di[M]O where it names none."""
    named = spec.objectives or (ObjectiveSpec(),)
    return [build_objective(spec, asked, weight) for asked in named]
