"""stdout and stderr of a program that goes on working when nobody reads them any more.

A pipe whose reader has ended, a terminal that was closed, a full disk and a stream that was never
open take no run down. What was to be said is lost; that a result was lost is said at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO, cast

from dimo_cli.errors import MissingError


class Sink(FileIO):
    """An open file that takes everything; what it could not pass on is lost."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.loss: OSError | None = None
        """Why something was lost, the first time."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.loss = self.loss or error
            return memoryview(data).nbytes


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let a whole program write to stdout and stderr, whatever has become of them."""
    open_closed()
    results = Sink(1)
    sys.stdout = writer(results, sys.stdout)
    sys.stderr = writer(Sink(2), sys.stderr)
    try:
        yield
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    say_what_is_lost(results)


def open_closed() -> None:
    """Put something in the place of streams that are closed, or files opened next would take it.

    It cannot be written to, so that here and in processes started from here writing still fails.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


def writer(sink: Sink, stream: TextIO | None) -> TextIO:
    """Text for a sink, written as the stream did that it takes the place of.

    Characters that a terminal lacks are replaced: it still gets the rest.
    """
    known = cast("TextIOWrapper | None", stream)
    unbuffered = known is not None and known.write_through
    return TextIOWrapper(
        cast("BufferedWriter", sink) if unbuffered else BufferedWriter(sink),
        encoding=known.encoding if known else "utf-8",
        errors="replace",
        line_buffering=known is not None and known.line_buffering,
        write_through=unbuffered,
    )


def say_what_is_lost(results: Sink) -> None:
    """End with an error where a result did not arrive; `dimo ... | head` wanted no more of it."""
    sys.stdout.flush()
    if results.loss is None or isinstance(results.loss, BrokenPipeError):
        return
    error = MissingError(
        f"The result could not be written to stdout: {results.loss.strerror}.",
        "Everything else is done. Give stdout a place that can be written to.",
    )
    sys.stderr.write(f"Error: {error.message}\n{error.hint}\n")
    sys.exit(error.exit_code)
