"""The one place that writes to the terminal: data on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from dimo_cli.console.environment import is_plain
from dimo_cli.console.plain import in_json, indented, plain, shown
from dimo_cli.errors import DimoError
from dimo_cli.redacting import without_secrets

PLAIN_WIDTH = 400  # of tables that no terminal cuts short: a row stays one line for grep and CI
THEME = Theme({"good": "green", "bad": "bold red", "hint": "cyan", "faint": "dim"})


class PlainConsole(Console):
    """A console whose texts are only texts: their secrets, orders and markup do nothing."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """A string, such as a cell of a table, before it is laid out."""
        return super().render_str(shown(text), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Anything in pieces. Texts are cleaned before they are wrapped, and again after that."""
        if isinstance(renderable, Text) and (clean := shown(renderable.plain)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = clean
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=plain(piece.text))


def console(stream: TextIO) -> Console:
    """A console that writes to a stream as that stream can take it."""
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return PlainConsole(
        file=stream,
        theme=THEME,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
        force_terminal=False if is_plain(stream) else None,
        width=PLAIN_WIDTH if wide else None,
    )


def hush_libraries(warnings: bool) -> None:
    """Turn off the bars, and if asked to the warnings, of libraries that are imported later."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if warnings:
        for name in ("HF_HUB_VERBOSITY", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
            os.environ.setdefault(name, "error")


class Output:
    """Data goes to stdout, either as something to look at or as one JSON document."""

    def __init__(self) -> None:
        self.as_json = False
        self.quiet = False
        self.silent = False

    @property
    def data(self) -> Console:
        """The console of results. Made anew each time, so that redirected streams are honored."""
        return console(sys.stdout)

    @property
    def talk(self) -> Console:
        """The console of everything else."""
        return console(sys.stderr)

    def start(self, as_json: bool = False, quiet: bool = False) -> None:
        """Begin a command with its output mode."""
        self.as_json, self.quiet, self.silent = as_json, quiet, False
        if quiet or is_plain(sys.stderr):
            hush_libraries(quiet)

    def silence(self) -> None:
        """Leave everything but errors to another process of the same job."""
        self.quiet = self.silent = True

    def result(self, document: Mapping[str, Any], view: RenderableType | None = None) -> None:
        """Emit the result of a command: the document for machines, the view for people."""
        if self.silent:
            return
        if self.as_json:
            self.document(document)
        elif view is not None:
            self.data.print(view)

    def document(self, document: Mapping[str, Any]) -> None:
        """Emit JSON, in which characters that a terminal would obey are escaped."""
        text = json.dumps(document, indent=2, default=str)
        sys.stdout.write(in_json(without_secrets(text)) + "\n")

    def text(self, text: str) -> None:
        """Emit text on stdout exactly as it is, so that it can be piped into a file."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def say(self, message: str, style: str = "") -> None:
        """Write a message on stderr, and see to it that all its lines are of one message."""
        self.talk.print(Text(indented(message), style=style))

    def note(self, message: str) -> None:
        """Say something in passing."""
        if not self.quiet:
            self.say(message)

    def hint(self, message: str) -> None:
        """Say what could be done next."""
        if not (self.quiet or self.as_json):
            self.say(message, "hint")

    def error(self, error: DimoError) -> None:
        """Report an error: what is wrong, and what to do next."""
        self.talk.print(Text.assemble(("Error:", "bad"), f" {indented(error.message)}"))
        if error.hint:
            self.say(error.hint, "hint")
        if self.as_json:
            self.document(
                {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            )


out = Output()
