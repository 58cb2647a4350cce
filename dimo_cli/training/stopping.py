"""How a run is asked to end: by signals, or by the loss of the launcher that started it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dimo_cli.distributed.lifeline import ending_signals


class Interrupted(Exception):
    """The run was asked to stop, by a signal (else 0) or its watcher; its checkpoint is written."""

    def __init__(self, signal_number: int, step: int, checkpoint: Path) -> None:
        super().__init__(f"Interrupted at step {step}")
        self.signal_number, self.exit_code = signal_number, 128 + signal_number
        self.step, self.checkpoint = step, checkpoint


class StopRequests:
    """The signal that asked this process to stop, if any did."""

    def __init__(self, is_alone: bool) -> None:
        """`is_alone`: no launcher has to be there still."""
        self.is_alone, self.launcher = is_alone, os.getppid()
        self.heard = 0

    def signal_number(self) -> int:
        """The signal that asks this process to stop, or 0.

        Without the launcher that started it, a rank has nobody left who would end it.
        """
        if not self.is_alone and os.getppid() != self.launcher:
            return signal.SIGTERM
        return self.heard

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Let signals end the current step first; a second SIGINT ends it at once."""

        def remember(number: int, frame: object) -> None:
            # Schedulers may well repeat a SIGTERM; who presses Ctrl-C twice means it.
            if number == self.heard == signal.SIGINT:
                raise KeyboardInterrupt
            self.heard = number

        try:
            previous = {number: signal.signal(number, remember) for number in ending_signals()}
        except ValueError:  # not in the main thread: whoever runs us handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
