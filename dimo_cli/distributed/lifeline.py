"""A process of a job ends with the launcher that started it, and the launcher ends those that hang.

Asked to end, a process has a time of grace. It has longer while it writes its last checkpoint,
which it does only once all processes of the job have agreed to end.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from dimo_cli.distributed.orphans import signal_at_parents_end
from dimo_cli.distributed.reports import VARIABLE

LAUNCHER, ENDING = "launcher", ".ending"  # files in the folder of reports
LAST_CHECKPOINT = 900.0  # seconds for writing it, at most
LOOK_EVERY = 0.5  # seconds


def ending_signals() -> list[signal.Signals]:
    """What asks a program to end: Ctrl-C, a scheduler, a terminal that is closed.

    `nohup` has the last of them ignored, and so it stays.
    """
    found = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


@dataclass
class Ending:
    """The signals that ask a job to end, and how long its processes still have."""

    folder: Path
    grace: float
    signals: list[int] = field(default_factory=list)
    since: float = 0.0

    def ask(self, number: int) -> None:
        """Note a signal; who sends a second one has the processes begin to end once more."""
        self.signals.append(number)
        if len(self.signals) <= 2:
            self.since = time.monotonic()

    def is_over(self) -> bool:
        """Whether processes that are still there hang."""
        if not self.signals:
            return False
        insists = self.signals.count(signal.SIGINT) > 1
        patience = self.grace if insists else patience_with(self.folder, self.grace)
        return time.monotonic() - self.since > patience


def patience_with(folder: Path, grace: float) -> float:
    """Seconds that processes have to end, by what they left in the folder of reports."""
    return max(grace, LAST_CHECKPOINT) if any(folder.glob(f"*{ENDING}")) else grace


def announce_last_checkpoint() -> None:
    """Tell the launcher that the processes of the job have agreed to end, and write a checkpoint.

    The folder may be gone with the launcher: nobody is told then.
    """
    if folder := os.environ.get(VARIABLE):
        try:
            (Path(folder) / f"{os.environ.get('RANK', '0')}{ENDING}").touch()
        except OSError:
            return


def announce_launcher(folder: Path, grace: float) -> None:
    """Tell the processes that this one starts which it is."""
    (folder / LAUNCHER).write_text(f"{os.getpid()} {grace}", encoding="utf-8")


def end_with_launcher() -> None:
    """Let this process not outlive the launcher that started it, if dimo's own did."""
    folder = Path(os.environ.get(VARIABLE) or os.devnull)
    try:
        launcher, grace = (folder / LAUNCHER).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return
    signal_at_parents_end(signal.SIGTERM)
    watch = (int(launcher), float(grace), folder)
    Thread(target=end_after, args=watch, daemon=True, name="lifeline").start()


def end_after(launcher: int, grace: float, folder: Path) -> None:
    """Wait for the launcher's end; then ask this process to end, and soon end it."""
    while os.getppid() == launcher:
        time.sleep(LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    since = time.monotonic()
    while time.monotonic() - since <= patience_with(folder, grace):
        time.sleep(LOOK_EVERY)
    if os.getpgrp() == os.getpid():  # its own workers, too
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
