"""What a person watches while a run trains: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dimo_cli.console.environment import image_protocol
from dimo_cli.console.images import half_blocks
from dimo_cli.console.pace import Pace, plain_progress
from dimo_cli.console.plain import indented
from dimo_cli.files.png import Pixels
from dimo_cli.specs.metrics import TITLES, falls

SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"

# Keys of log.jsonl in the order they are shown, with a label and what a healthy run does.
SHOWN = {
    "divergence": ("divergence teacher | auxiliary", "falls, then hovers"),
    "teacher_kl": ("KL to the teacher (nats per token)", "falls towards 0, with much noise"),
    "auxiliary_loss": ("auxiliary loss", "must keep up with the student"),
    "auxiliary_gap": ("auxiliary loss - student entropy", "steady; a steep rise: raise its rate"),
    "entropy": ("student entropy (nats per token)", "falls slowly; near 0 at once is collapse"),
    "top1": ("student top-1 probability", "rises slowly"),
    **{
        name: (f"{title} so far", "falls" if falls(name) else "rises")
        for name, title in TITLES.items()
    },
}
WORDS = "what the words mean: dimo spec words"
ALARMED = "what to do is said above and in notes.txt"


class View(Protocol):
    """How a run is shown."""

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step` of `steps`."""

    def step(self, step: int) -> None:
        """A step is done."""

    def log(self, record: dict[str, Any]) -> None:
        """New numbers, and under `alarms` what is wrong, by name."""

    def preview(self, step: int, pixels: Pixels) -> None:
        """A new sample grid."""

    def checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint was written."""

    def is_leaving(self) -> bool:
        """Whether whoever watches wants the run to end here, to go on another time."""

    def note(self, message: str) -> None:
        """A sentence to the user."""

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        """A part of the work outside the training loop; returns how to report progress."""

    def stop(self) -> None:
        """Nothing more will come."""


def sparkline(values: list[float]) -> str:
    """A curve in one line of text."""
    tail = values[-32:]
    low, high = min(tail), max(tail)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in tail)


class LiveView:
    """A panel that redraws itself: progress, numbers with their curves, newest sample grid."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=600,  # a step of a large network may take a minute
        )
        self.history: dict[str, list[float]] = {}
        self.record: dict[str, Any] = {}
        self.picture: Text | None = None
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4)
        self.task: Any = None

    def start(self, step: int, steps: int) -> None:
        self.task = self.progress.add_task("distill", total=steps, completed=step, speed="")
        self.live.start()

    def step(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def log(self, record: dict[str, Any]) -> None:
        self.record = record
        for key in SHOWN:
            if record.get(key) is not None:
                self.history.setdefault(key, []).append(record[key])
        speed = f"{record['images_per_second']:.0f} images/s"
        self.progress.update(self.task, completed=record["step"], speed=speed)

    def checkpoint(self, step: int, folder: Path) -> None:
        return

    def is_leaving(self) -> bool:
        return False

    def preview(self, step: int, pixels: Pixels) -> None:
        if image_protocol() != "none":  # within a panel that moves, only text stays in place
            self.picture = half_blocks(pixels, self.console.width - 4)

    def note(self, message: str) -> None:
        self.console.print(Text(indented(message)))

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        if not self.live.is_started:
            self.live.start()
        task = self.progress.add_task(title, total=total, speed="")
        return lambda count: self.progress.advance(task, count)

    def stop(self) -> None:
        self.live.stop()

    def render(self) -> RenderableType:
        """The panel as it stands."""
        numbers = Table.grid(padding=(0, 2))
        for key, (label, healthy) in SHOWN.items():
            if values := self.history.get(key):
                numbers.add_row(
                    label, f"{values[-1]:.3f}", sparkline(values), Text(healthy, style="dim")
                )
        if trouble := self.record.get("skipped"):
            numbers.add_row("skipped steps", str(trouble), "", "")
        for name in self.record.get("alarms", ()):
            numbers.add_row(Text(f"alarm: {name}", style="bold red"), "", "", ALARMED)
        parts: list[RenderableType] = [self.progress, numbers]
        if self.picture is not None:
            parts.append(self.picture)
        return Panel(
            Group(*parts),
            title=Text(self.title),
            title_align="left",
            subtitle=Text(WORDS, style="dim"),
            subtitle_align="right",
        )


class PlainView:
    """A line now and then, for logs and pipes."""

    def __init__(self, write: Callable[[str], None], seconds: float = 5.0) -> None:
        self.write, self.seconds = write, seconds
        self.steps, self.last, self.has_logged = 0, 0.0, False
        self.pace = Pace(0)
        self.alarms: list[str] = []

    def start(self, step: int, steps: int) -> None:
        self.steps, self.last = steps, time.monotonic()
        self.pace = Pace(steps, step)
        self.write(f"Training from step {step} to {steps}.")

    def step(self, step: int) -> None:
        self.pace.reach(step)
        if time.monotonic() - self.last >= self.seconds and self.pace.left is not None:
            self.write_step(step, [])

    def log(self, record: dict[str, Any]) -> None:
        is_time = time.monotonic() - self.last >= self.seconds
        due = is_time or not self.has_logged or record["step"] == self.steps
        alarms = list(record.get("alarms", ()))
        is_alarmed, self.alarms = alarms != self.alarms, alarms
        if not (due or is_alarmed or any(name in record for name in TITLES)):
            return
        self.has_logged = True
        shown = [f"alarm: {name}" for name in alarms]
        for key in SHOWN:
            if record.get(key) is not None:
                shown.append(f"{key} {record[key]:.3f}")
        shown.append(f"{record['images_per_second']:.0f} images/s")
        self.write_step(record["step"], shown)

    def write_step(self, step: int, shown: list[str]) -> None:
        """A line of where the run is, and how long it will take."""
        self.last = time.monotonic()
        left = self.pace.words()
        self.write("  ".join([f"step {step}/{self.steps}", *shown, *([left] if left else [])]))

    def preview(self, step: int, pixels: Pixels) -> None:
        return

    def checkpoint(self, step: int, folder: Path) -> None:
        return

    def is_leaving(self) -> bool:
        return False

    def note(self, message: str) -> None:
        self.write(message)

    def stage(self, title: str, total: int) -> Callable[[int], None]:
        self.write(f"{title} ...")
        return plain_progress(self.write, title, total, self.seconds)

    def stop(self) -> None:
        return
