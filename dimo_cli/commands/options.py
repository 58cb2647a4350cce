"""Options that several commands share, and the frame around every command."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from dimo_cli.commands import completing
from dimo_cli.console.environment import image_protocol
from dimo_cli.distributed.reports import hand_over, is_follower
from dimo_cli.errors import DimoError, MissingError

P = ParamSpec("P")
R = TypeVar("R")

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any value of the spec; may be repeated.",
        autocompletion=completing.keys,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        help="Start from a preset (see `dimo presets list`).",
        autocompletion=completing.presets,
    ),
]
SpecOption = Annotated[
    Path | None, typer.Option("--spec", help="A YAML spec, laid over the preset.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
TeacherOption = Annotated[
    bool, typer.Option("--teacher", help="The student's teacher instead of the student.")
]
SamplerOption = Annotated[
    str,
    typer.Option(
        "--sampler",
        help="Of the teacher: published, random, confidence, halton or theta.",
        autocompletion=completing.samplers,
    ),
]
LocalDirOption = Annotated[
    Path | None,
    typer.Option("--local-dir", help="Folder with the published files; nothing is downloaded."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps of the teacher.")]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="Guidance of the teacher.")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", help="Divides the logits.")
]
TopKOption = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0: all.")]
TopPOption = Annotated[float, typer.Option("--top-p", help="Keep the likeliest mass p; 0: all.")]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        help="Class by number, WordNet id or name; repeatable.",
        autocompletion=completing.classes,
    ),
]
StudentArgument = Annotated[
    str,
    typer.Argument(
        help="Run folder, student folder, Hub id, or a built-in one by name.",
        autocompletion=completing.students,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Fixes the images.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show spec, memory estimate and plan; train nothing.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]


def sampler_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a command that say how images are drawn, out of all of its arguments."""
    names = ("teacher", "seed", "temperature", "top_k", "top_p", "method", "steps", "guidance")
    return {name: given[name] for name in names}


def with_local_dir(sets: list[str] | None, local_dir: Path | None) -> list[str]:
    """The `--set` values, with that of `--local-dir` behind them."""
    return [*(sets or []), *([f"teacher.local_dir={local_dir}"] if local_dir else [])]


def example(*lines: str) -> str:
    """The examples at the foot of a help page."""
    return "\n\n".join(["Examples:", *lines])


# Exceptions of libraries that have a plain meaning, by class name so that nothing is imported.
KNOWN_ERRORS: dict[str, Callable[[Any], DimoError]] = {
    "OutOfMemoryError": lambda e: MissingError(
        "GPU memory is exhausted.",
        "Lower `--set train.batch_size=` and raise `train.accumulate`, or set "
        "`train.gradient_checkpointing=true`; `--dry-run` shows the estimate.",
    ),
    "MemoryError": lambda e: MissingError("Memory is exhausted.", "Lower the batch size."),
    "PermissionError": lambda e: MissingError(f"No permission for `{e.filename}`."),
    "FileNotFoundError": lambda e: MissingError(f"No such file: `{e.filename}`."),
    "NotADirectoryError": lambda e: MissingError(f"Not a folder: `{e.filename}`."),
    "InductorError": lambda e: MissingError(
        "torch.compile failed on this machine.", "Use `--set train.compile=false`."
    ),
}


def as_dimo_error(error: Exception) -> DimoError | None:
    """The sentence for an exception with a plain meaning; None for our own bugs."""
    if isinstance(error, DimoError):
        return error
    for cls in type(error).__mro__:
        if cls.__name__ in KNOWN_ERRORS:
            return KNOWN_ERRORS[cls.__name__](error)
    if isinstance(error, ModuleNotFoundError):
        return MissingError(f"The package `{error.name}` is missing.", f"pip install {error.name}")
    if isinstance(error, OSError) and error.strerror:
        return MissingError(f"{error.strerror}: `{error.filename or ''}`.")
    return None


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into a sentence and an exit code; DIMO_DEBUG=1 shows the traceback."""

    @functools.wraps(function)
    def framed(*args: P.args, **kwargs: P.kwargs) -> R:
        from dimo_cli.console.output import out

        out.start(bool(kwargs.get("as_json")), bool(kwargs.get("quiet")))
        try:
            image_protocol()  # a mistyped DIMO_IMAGES is refused before anything is drawn
            return function(*args, **kwargs)
        except typer.Exit as end:
            # Of several processes the first answers for all: a failed gate is no failed process.
            raise typer.Exit(0 if is_follower() else end.exit_code) from None
        except BrokenPipeError:  # `dimo ... | head` is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            out.note("Interrupted.")
            raise typer.Exit(130) from None
        except Exception as error:
            known = as_dimo_error(error)
            if known is None or os.environ.get("DIMO_DEBUG") == "1":
                raise
            if not hand_over(known):
                out.error(known)
            raise typer.Exit(known.exit_code) from None

    return framed
