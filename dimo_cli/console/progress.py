"""Progress of work of known size: a bar in a terminal, a line now and then in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dimo_cli.console.output import Output
from dimo_cli.console.pace import plain_progress

SECONDS = 5.0  # between two lines


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
    if not out.talk.is_terminal:
        yield plain_progress(out.note, title, total, SECONDS)
        return
    with progress_bar(out) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def tracking(out: Output, title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that reports how many are done, and of how many."""
    if not out.talk.is_terminal:
        yield Lines(out, title)
        return
    with progress_bar(out) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines:
    """Lines about work whose size is known only once a part of it is done."""

    def __init__(self, out: Output, title: str) -> None:
        self.out, self.title = out, title
        self.total, self.done = 0, 0
        self.advance: Callable[[int], None] = lambda count: None

    def __call__(self, done: int, total: int) -> None:
        """So many are done, and of how many; less than before is of other work that began."""
        if total != self.total or done < self.done:
            self.total, self.done = total, 0
            self.advance = plain_progress(self.out.note, self.title, total, SECONDS)
        self.advance(done - self.done)
        self.done = done
