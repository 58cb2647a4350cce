"""The one place that writes to the terminal: data on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.theme import Theme

from dimo_cli.errors import DimoError

THEME = Theme({"good": "green", "bad": "bold red", "hint": "cyan", "faint": "dim"})


class Output:
    """Data goes to stdout, either as something to look at or as one JSON document."""

    def __init__(self) -> None:
        self.as_json = False
        self.quiet = False
        self.silent = False

    @property
    def data(self) -> Console:
        """The console of results. Made anew each time, so that redirected streams are honored."""
        return Console(file=sys.stdout, theme=THEME, highlight=False, soft_wrap=True)

    @property
    def talk(self) -> Console:
        """The console of everything else."""
        return Console(file=sys.stderr, theme=THEME, highlight=False, soft_wrap=True)

    def start(self, as_json: bool = False, quiet: bool = False) -> None:
        """Begin a command with its output mode."""
        self.as_json, self.quiet, self.silent = as_json, quiet, False

    def silence(self) -> None:
        """Leave everything but errors to another process of the same job."""
        self.quiet = self.silent = True

    def result(self, document: Mapping[str, Any], view: RenderableType | None = None) -> None:
        """Emit the result of a command: the document for machines, the view for people."""
        if self.silent:
            return
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        elif view is not None:
            self.data.print(view)

    def text(self, text: str) -> None:
        """Emit text on stdout exactly as it is, so that it can be piped into a file."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def note(self, message: str) -> None:
        """Say something in passing."""
        if not self.quiet:
            self.talk.print(escape(message))

    def hint(self, message: str) -> None:
        """Say what could be done next."""
        if not (self.quiet or self.as_json):
            self.talk.print(f"[hint]{escape(message)}[/hint]")

    def error(self, error: DimoError) -> None:
        """Report an error: what is wrong, and what to do next."""
        self.talk.print(f"[bad]Error:[/bad] {escape(error.message)}")
        if error.hint:
            self.talk.print(f"[hint]{escape(error.hint)}[/hint]")
        if self.as_json:
            problem = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            sys.stdout.write(json.dumps(problem, indent=2) + "\n")


out = Output()
