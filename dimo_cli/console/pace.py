"""How long work of known size will still take, by how long its parts took so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class Pace:
    """Knows the time that is left from the second report on: the first part also warms up."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.done = total, done
        self.first: tuple[float, int] | None = None
        self.left: float | None = None
        """Seconds; None where nothing is known yet."""

    def reach(self, done: int) -> None:
        """So much is done now."""
        now = time.monotonic()
        if self.first is None or done <= self.first[1]:  # rolled back
            self.first, self.left = (now, done), None
        else:
            since, start = self.first
            self.left = (now - since) / (done - start) * max(0, self.total - done)
        self.done = done

    def words(self) -> str:
        """The time that is left, as it is shown; nothing where none is known or left."""
        if self.left is None or self.done >= self.total:
            return ""
        return f"{timedelta(seconds=round(self.left))} left"


def plain_progress(
    write: Callable[[str], None], title: str, total: int, seconds: float
) -> Callable[[int], None]:
    """Report how many more are done; every so many seconds, a line says where the work is."""
    pace, last = Pace(total), time.monotonic()

    def advance(count: int) -> None:
        nonlocal last
        pace.reach(pace.done + count)
        if time.monotonic() - last >= seconds and pace.words():
            last = time.monotonic()
            write(f"{title}  {pace.done:,}/{total:,}  {pace.words()}")

    return advance
