"""Options that several commands share, and the frame around every command."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.parameters import Parameters, option
from dimo_cli.console.environment import image_protocol
from dimo_cli.console.output import out
from dimo_cli.distributed.reports import hand_over, is_follower
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.rewards.registry import check_name

if TYPE_CHECKING:
    from dimo_cli.specs.distill import DistillSpec

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
        autocompletion=completing.presets_of_command,
    ),
]
LocalDirOption = Annotated[
    Path | None,
    typer.Option("--local-dir", help="Folder with the published files; nothing is downloaded."),
]
PromptsFileOption = Annotated[
    Path | None, typer.Option("--prompts-file", help="Text file with one prompt per line.")
]
StudentArgument = Annotated[
    str,
    typer.Argument(
        help="Run folder, student folder, Hub id, or a built-in one by name.",
        autocompletion=completing.students,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Fixes the images.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]


@dataclass(frozen=True)
class RunOptions:
    """Where the spec of a run comes from, and where the run goes."""

    preset: PresetOption = None
    spec: Annotated[
        Path | None, typer.Option("--spec", help="A YAML spec, laid over the preset.")
    ] = None
    sets: SetOption = None
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/PRESET.")
    ] = None
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue the run in this folder.")
    ] = None
    local_dir: LocalDirOption = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show spec, memory estimate and plan; train nothing.")
    ] = False

    @property
    def settings(self) -> list[str]:
        """All that was set by name."""
        return with_local_dir(self.sets, self.local_dir)

    @property
    def has_folder(self) -> bool:
        """Whether the run folder was named."""
        return bool(self.folder or self.resume)


def with_local_dir(sets: list[str] | None, local_dir: Path | None) -> list[str]:
    """The `--set` values, with that of `--local-dir` behind them."""
    return [*(sets or []), *([f"teacher.local_dir={local_dir}"] if local_dir else [])]


def spec_of_preset(preset: str, sets: list[str] | None, local_dir: Path | None) -> DistillSpec:
    """The spec of a preset, for commands that need its teacher and train nothing."""
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.resolve import resolve_spec

    given = with_local_dir(sets, local_dir)
    return resolve_spec(DistillSpec, preset=preset, sets=given).spec


def read_prompts(file: Path | None) -> list[str]:
    """The prompts of a file, one a line."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SpecError(f"`--prompts-file` is {file}, which is no UTF-8 text.") from None
    return [line.strip() for line in lines if line.strip()]


def reward_weight(text: str) -> tuple[str, float]:
    """NAME=WEIGHT, or NAME alone for the weight 1."""
    name, _, weight = text.partition("=")
    check_name(name)
    try:
        return name, float(weight or 1)
    except ValueError:
        raise SpecError(
            f"`--reward {text}` is not of the form NAME=WEIGHT.", "For example `--reward clip=0.2`."
        ) from None


def read_weights(texts: Sequence[str] | None) -> dict[str, float]:
    """The weight of each reward that `--reward` names."""
    return dict(map(reward_weight, texts or ()))


def check_png(grid: Path) -> None:
    """Refuse a grid that would be another kind of file."""
    if grid.suffix.lower() != ".png":
        raise SpecError(f"`--grid` is {grid}: it must end in .png.", "Images are PNG files.")


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


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer takes it: its parameters spelled out, with --json and --quiet.

    Errors become a sentence and an exit code; DIMO_DEBUG=1 shows the traceback.
    """
    parameters = Parameters(function)
    shown = [
        *([] if "context" in parameters.names else [option("context", typer.Context, None)]),
        *parameters.shown,
        option("as_json", JsonOption, False),
        option("quiet", QuietOption, False),
    ]

    def framed(*, as_json: bool = False, quiet: bool = False, **values: Any) -> None:
        context = values.get("context")
        if "context" not in parameters.names:
            values.pop("context", None)
        arguments = parameters.arguments(values, written(context, values))
        with framing(as_json, quiet):
            function(**arguments)

    functools.update_wrapper(framed, function)
    vars(framed).pop("__wrapped__")  # what is shown is not what the function takes
    framed.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    framed.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return framed


def written(context: typer.Context | None, values: Mapping[str, Any]) -> set[str]:
    """The parameters that somebody wrote, rather than left to their defaults."""
    if context is None:  # called by a program, which passes nothing else
        return set(values)
    sources = {name: context.get_parameter_source(name) for name in values}
    return {name for name, source in sources.items() if source and source.name != "DEFAULT"}


@contextmanager
def framing(as_json: bool = False, quiet: bool = False) -> Iterator[None]:
    """What surrounds every command: its output mode, and what becomes of its errors."""
    out.start(as_json, quiet)
    try:
        image_protocol()  # a mistyped DIMO_IMAGES is refused before anything is drawn
        yield
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
