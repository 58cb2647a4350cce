"""The memory that this process holds, by which runs on a CPU are compared: Linux counts it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

OF_THIS_PROCESS = Path("/proc/self")
FROM_NOW = "5"  # what proc(5) has for it


def count_from_now() -> None:
    """Forget the peak so far; where that is not possible, it stays that of the whole process."""
    with suppress(OSError):
        (OF_THIS_PROCESS / "clear_refs").write_text(FROM_NOW)


def peak_resident() -> int | None:
    """The most bytes that were held since then; None where nobody counts them."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (OF_THIS_PROCESS / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
