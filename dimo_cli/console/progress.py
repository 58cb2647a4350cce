"""A progress bar for work of known size; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dimo_cli.console.output import Output


def progress_bar(out: Output) -> Progress:
    """A bar for terminals alone."""
    talk = out.talk
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=talk,
        transient=True,
        disable=out.quiet or not talk.is_terminal,
    )


@contextmanager
def counting(out: Output, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that reports how many more are done."""
    with progress_bar(out) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def tracking(out: Output, title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that reports how many are done, and of how many."""
    with progress_bar(out) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
