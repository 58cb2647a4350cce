"""A progress bar for work of known size; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dimo_cli.console.output import Output


@contextmanager
def counting(out: Output, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that reports how many more are done."""
    talk = out.talk
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=talk,
        transient=True,
        disable=out.quiet or not talk.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
