"""Processes that are not to outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress

PR_SET_PDEATHSIG = 1
SECONDS_BETWEEN_LOOKS = 1.0


def end_with_parent(parent: int) -> None:
    """From now on, end this process at once when `parent`, which started it, ends in any way.

    Whoever writes files has to write them whole or not at all: nothing is tidied up.
    """
    signal_at_parents_end(signal.SIGKILL)
    threading.Thread(target=watch, args=(parent,), name="parent", daemon=True).start()


def signal_at_parents_end(number: signal.Signals) -> None:
    """Have Linux send a signal to this process at once when its parent ends.

    Elsewhere, and with a C library that lacks it, whoever calls this has to look now and then.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def watch(parent: int) -> None:
    """Look now and then whether the parent is still there."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
