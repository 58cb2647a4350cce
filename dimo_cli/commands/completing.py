"""What the shell offers when somebody presses Tab. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import typer

from dimo_cli import names


def presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of `dimo distill` and teachers' presets elsewhere, each with what it is."""
    from dimo_cli.specs.resolve import preset_names

    return described(preset_names(), incomplete)


def refine_presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of `dimo refine`."""
    from dimo_cli.specs.resolve import refine_preset_names

    return described(refine_preset_names(), incomplete)


def all_presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of either kind."""
    return [*presets(incomplete), *refine_presets(incomplete)]


def described(known: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Those presets that begin so, with the first lines of their files."""
    from dimo_cli.specs.resolve import preset_summary

    return [(name, preset_summary(name)) for name in known if name.startswith(incomplete)]


def students() -> list[str]:
    """Built-in students, and run and student folders here and in `runs/`."""
    return names.student_names()


def targets(ctx: typer.Context, incomplete: str) -> list[Any]:
    """Students; where `--teacher` stands already, presets as well."""
    wanted = ctx.params.get("teacher") is True
    return [*students(), *(presets(incomplete) if wanted else [])]


def rewards() -> list[str]:
    """Rewards, for NAME or NAME=WEIGHT."""
    return names.reward_names()


def gates() -> list[str]:
    """Numbers of `dimo eval`, for NAME=VALUE."""
    return [f"{name}=" for name in names.gate_names()]


def classes(ctx: typer.Context) -> list[str]:
    """The classes of whatever is named on the command line so far; else those of `digits`."""
    named = [ctx.params.get(key) for key in ("preset", "student")]
    named += ctx.params.get("targets") or []
    for name in filter(None, named):
        return names.class_names(names.teacher_of_student(name) or name)
    return names.class_names("digits")


def keys(incomplete: str) -> list[str]:
    """Keys of a spec, for KEY=VALUE."""
    from dimo_cli.specs.explain import known_paths
    from dimo_cli.specs.refine import RefineSpec

    return [f"{path}=" for path in known_paths(RefineSpec) if path.startswith(incomplete)]


def choices_of(module: str, name: str) -> Callable[[], list[str]]:
    """The members of a `Literal` of the specs, imported when somebody asks."""

    def offered() -> list[str]:
        from importlib import import_module

        return list(get_args(getattr(import_module(f"dimo_cli.specs.{module}"), name)))

    return offered


samplers = choices_of("sample", "SamplerMethod")
features = choices_of("evaluate", "FeatureName")
resizes = choices_of("evaluate", "ResizeName")
