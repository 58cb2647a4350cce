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
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without it: the look below is enough
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=watch, args=(parent,), name="parent", daemon=True).start()


def watch(parent: int) -> None:
    """Look now and then whether the parent is still there."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
