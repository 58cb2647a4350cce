"""How a run that Python code started is watched: by its callbacks, and by a person if asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dimo_cli.console.live import LiveView, PlainView, View
from dimo_cli.console.output import console
from dimo_cli.distributed.ranks import is_first
from dimo_cli.files.png import Pixels
from dimo_cli.python.callbacks import wants_stop
from dimo_cli.python.run import Run
from dimo_cli.run_folder.alarms import told

Progress = bool | Callable[[str], None]


def view_of(progress: Progress, title: str) -> View:
    """Nothing, lines for a function, or what the command shows on stderr."""
    if not progress or not is_first():
        return PlainView(lambda line: None)
    if callable(progress):
        return PlainView(progress)
    talk = console(sys.stderr)
    return LiveView(talk, title) if talk.is_terminal else PlainView(lambda line: talk.print(line))


class Watching:
    """A view for the eyes, and the callbacks beside it."""

    def __init__(self, folder: Path, callbacks: Sequence[object], view: View) -> None:
        self.folder, self.view = folder, view
        self.callbacks = callbacks if is_first() else ()
        self.has_begun = self.is_stopped = False
        self.alarms: set[str] = set()
        self.saved: int | None = None
        """The step of the newest checkpoint."""

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of every callback that has it."""
        for callback in self.callbacks:
            if wants_stop(callback, method, arguments):
                self.is_stopped = True

    def start(self, step: int, steps: int) -> None:
        self.view.start(step, steps)
        self.has_begun = True
        self.call("on_start", Run(self.folder), step)

    def step(self, step: int) -> None:
        self.view.step(step)
        self.call("on_step", step)

    def log(self, record: dict[str, Any]) -> None:
        self.view.log(record)
        alarms: dict[str, str] = record.get("alarms", {})
        self.call("on_log", {name: value for name, value in record.items() if name != "alarms"})
        for name, problem in alarms.items():
            if name not in self.alarms:
                self.call("on_alarm", name, told(name, problem))
        self.alarms = set(alarms)

    def preview(self, step: int, pixels: Pixels) -> None:
        self.view.preview(step, pixels)
        self.call("on_preview", step, Image.fromarray(pixels))

    def checkpoint(self, step: int, folder: Path) -> None:
        self.view.checkpoint(step, folder)
        if step != self.saved:  # one that stops the run at a checkpoint has it written again
            self.saved = step
            self.call("on_checkpoint", step, folder)

    def is_leaving(self) -> bool:
        return self.is_stopped or self.view.is_leaving()

    def note(self, message: str) -> None:
        self.view.note(message)
        self.call("on_note", message)

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        return self.view.stage(title, total)

    def stop(self) -> None:
        self.view.stop()

    def end(self) -> None:
        """Nothing more will be called."""
        self.view.stop()
        if self.has_begun:
            self.call("on_end", Run(self.folder))
