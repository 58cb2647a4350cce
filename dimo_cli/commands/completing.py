"""What the shell offers when somebody presses Tab. Nothing here imports torch."""

from __future__ import annotations

from typing import Any

import typer

from dimo_cli.evaluation.gates import GATED
from dimo_cli.rewards.registry import REWARDS
from dimo_cli.specs.explain import known_paths
from dimo_cli.students import names
from dimo_cli.teachers import imagenet
from dimo_cli.teachers.classes import DIGITS


def presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of `dimo distill` and teachers' presets elsewhere, each with what it is."""
    from dimo_cli.specs.resolve import preset_names

    return described(preset_names(), incomplete)


def refine_presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of `dimo refine`."""
    from dimo_cli.specs.resolve import refine_preset_names

    return described(refine_preset_names(), incomplete)


def presets_of_command(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Presets of whichever command it is."""
    return (refine_presets if ctx.info_name == "refine" else presets)(incomplete)


def all_presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of either kind."""
    return [*presets(incomplete), *refine_presets(incomplete)]


def described(known: list[str], incomplete: str) -> list[tuple[str, str]]:
    """Those presets that begin so, with the first lines of their files."""
    from dimo_cli.specs.resolve import preset_summary

    return [(name, preset_summary(name)) for name in known if name.startswith(incomplete)]


def students(incomplete: str = "") -> list[str]:
    """Built-in students, run and student folders here and in `runs/`; behind `@`, checkpoints."""
    return names.names_at_checkpoints(incomplete) if "@" in incomplete else names.student_names()


def targets(ctx: typer.Context, incomplete: str) -> list[Any]:
    """Students; where `--teacher` stands already, presets as well."""
    wanted = ctx.params.get("teacher") is True
    return [*students(incomplete), *(presets(incomplete) if wanted else [])]


def rewards() -> list[str]:
    """Rewards, for NAME or NAME=WEIGHT."""
    return list(REWARDS)


def gates() -> list[str]:
    """Numbers of `dimo eval`, for NAME=VALUE."""
    return [f"{name}=" for names in GATED.values() for name in names]


def classes(ctx: typer.Context) -> list[str]:
    """The classes of whatever is named on the command line so far; else those of `digits`."""
    named = [ctx.params.get(key) for key in ("preset", "student")]
    named += ctx.params.get("targets") or []
    for name in filter(None, named):
        return class_names(names.teacher_of_student(name) or name)
    return class_names("digits")


def class_names(teacher: str) -> list[str]:
    """The first name of each of a teacher's classes, in a form that a shell takes for one word."""
    known = DIGITS if teacher == "digits" else imagenet.class_names()
    first = (entry.split(",")[0].lower().replace(" ", "_") for entry in known)
    return list(dict.fromkeys(first))


def keys(incomplete: str) -> list[str]:
    """Keys of a spec, for KEY=VALUE."""
    from dimo_cli.specs.refine import RefineSpec

    return [f"{path}=" for path in known_paths(RefineSpec) if path.startswith(incomplete)]
