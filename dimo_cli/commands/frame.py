"""The frame around every command: how it stands on the command line, and how it ends."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dimo_cli.commands.parameters import Parameters, option
from dimo_cli.commands.usage import OnceEach
from dimo_cli.console.environment import image_protocol
from dimo_cli.console.output import out
from dimo_cli.distributed.lifeline import end_with_launcher
from dimo_cli.distributed.reports import hand_over, is_follower
from dimo_cli.errors import DimoError, MissingError, SpecError, lacks_memory

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]

SHOWN_BEFORE = 20  # characters around one that is no text

OTHER_NAMES = {
    "cleanfid": "clean-fid",
    "open_clip": "open_clip_torch",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
"""Packages that are not installed by the name they are imported by."""

# Exceptions of libraries that have a plain meaning, by class name so that nothing is imported.
KNOWN_ERRORS: dict[str, Callable[[Any], DimoError]] = {
    "OutOfMemoryError": lambda e: MissingError(
        "GPU memory is exhausted.",
        "Lower `--set train.micro_batch=`, or set `train.gradient_checkpointing=true`; "
        "`--dry-run` shows the estimate.",
    ),
    "UnicodeEncodeError": lambda e: no_text(e),
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
    if lacks_memory(error):
        return no_memory()
    for cls in type(error).__mro__:
        if cls.__name__ in KNOWN_ERRORS:
            return KNOWN_ERRORS[cls.__name__](error)
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error.name or "")
    if isinstance(error, OSError) and error.strerror:
        return MissingError(f"{error.strerror}: `{error.filename or ''}`.")
    return None


def no_memory() -> MissingError:
    """The sentence for a machine, or a limit on this process, that gives no more memory."""
    return MissingError(
        "Memory is exhausted.",
        "Lower the batch size or the number of processes, or raise the limit if there is one "
        "(`ulimit -v`): loading torch alone can take 4 GiB of addresses.",
    )


def no_text(error: UnicodeEncodeError) -> SpecError:
    """The sentence for a name that is any bytes, where a text is needed."""
    start = max(0, error.start - SHOWN_BEFORE)
    found = error.object[start : error.end + SHOWN_BEFORE]
    return SpecError(
        f"A name with {found!r} in it is not UTF-8.", "Rename that file or folder, or link to it."
    )


def missing_package(module: str) -> MissingError:
    """The sentence for a package that is not installed.

    Its name may come from a plugin of whoever: only what dimo itself needs is worth installing.
    """
    name = module.partition(".")[0]
    package = OTHER_NAMES.get(name, name)
    hint = "Something that is installed beside dimo needs it: repair or remove that."
    if normal(package) in own_requirements():
        hint = f"pip install {package}"
    return MissingError(f"The package `{name}` is missing.", hint)


def own_requirements() -> set[str]:
    """The packages that dimo asks for, those of its extras too."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return {normal(re.split(r"[^\w.-]", line)[0]) for line in requires("dimo-cli") or ()}
    except PackageNotFoundError:  # run from its files
        return set()


def normal(package: str) -> str:
    """The name of a package as all its spellings have it."""
    return package.lower().replace("-", "_")


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
        said = {name: expanded(value) for name, value in values.items()}
        arguments = parameters.arguments(said, written(context, values))
        with framing(as_json, quiet):
            function(**arguments)

    functools.update_wrapper(run, function)
    vars(run).pop("__wrapped__")  # what is shown is not what the function takes
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return run


def expanded(value: Any) -> Any:
    """A value with the home folder in place of `~`, where it is a path or several.

    A shell does that at the beginning of a word alone, and not in `--out=~/x`.
    """
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    return type(value)(map(expanded, value)) if type(value) in (list, tuple) else value


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
    end_with_launcher()
    try:
        image_protocol()  # a mistyped DIMO_IMAGES is refused before anything is drawn
        yield
    except typer.Exit as end:
        # Of several processes the first answers for all: a failed gate is no failed process.
        raise typer.Exit(0 if is_follower() else end.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):  # the latter where a question was asked
        out.note("Interrupted.")
        raise typer.Exit(130) from None
    except Exception as error:
        known = as_dimo_error(error)
        if known is None or os.environ.get("DIMO_DEBUG") == "1":
            raise
        if not hand_over(known):
            tell(known)
        raise typer.Exit(known.exit_code) from None


def tell(error: DimoError) -> None:
    """Report an error, in the plainest way where memory lacks even for that."""
    try:
        out.error(error)
    except MemoryError:
        os.write(2, f"Error: {error.message}\n{error.hint}\n".encode(errors="replace"))
