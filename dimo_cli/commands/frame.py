"""The frame around every command: how it stands on the command line, and how it ends."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dimo_cli.commands.parameters import Parameters, option
from dimo_cli.commands.usage import OnceEach
from dimo_cli.console.environment import image_protocol
from dimo_cli.console.output import out
from dimo_cli.distributed.reports import hand_over, is_follower
from dimo_cli.errors import DimoError, MissingError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]

# Exceptions of libraries that have a plain meaning, by class name so that nothing is imported.
KNOWN_ERRORS: dict[str, Callable[[Any], DimoError]] = {
    "OutOfMemoryError": lambda e: MissingError(
        "GPU memory is exhausted.",
        "Lower `--set train.micro_batch=`, or set `train.gradient_checkpointing=true`; "
        "`--dry-run` shows the estimate.",
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


def command(
    app: typer.Typer, name: str, *examples: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of `app`, with examples at the foot of its help page."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        shown = framed(function)
        app.command(name, cls=OnceEach, epilog=foot(*examples))(shown)
        return shown

    return add


def foot(*examples: str) -> str:
    """The examples at the foot of a help page, one a line."""
    lines = [line for text in examples for line in text.strip().splitlines()]
    return "\n\n".join(["Examples:", *lines])


def framed(function: Callable[..., None]) -> Callable[..., None]:
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

    def run(*, as_json: bool = False, quiet: bool = False, **values: Any) -> None:
        context = values.get("context")
        if "context" not in parameters.names:
            values.pop("context", None)
        arguments = parameters.arguments(values, written(context, values))
        with framing(as_json, quiet):
            function(**arguments)

    functools.update_wrapper(run, function)
    vars(run).pop("__wrapped__")  # what is shown is not what the function takes
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return run


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
