"""What can happen to a process that writes: it is killed, or its disk is full, at any moment."""

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import tests.helpers.forking  # noqa: F401
from dimo_cli.errors import DimoError

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree")
LONGEST = 120  # seconds that a process may take on a busy machine
OLD = 7200  # seconds after which nobody can be writing a temporary file any more


def count_changes(folder, on_change):
    """Call `on_change` before each change in a folder that Python makes, with its number."""
    number, root = 0, str(folder)

    def watch(event, arguments):
        nonlocal number
        if event == "open":
            path, _, flags = arguments
            if not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(
            os.fsdecode(path)
        ).startswith(root):
            number += 1
            on_change(number)

    sys.addaudithook(watch)


class Child:
    """Work in a fork of the test: no second import of torch, and a death of its own."""

    def __init__(self, work, folder, on_change=None):
        self.talk = folder.parent / f"{folder.name}.talk"
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self.live(work, folder, on_change, tell))
        os.close(tell)

    def live(self, work, folder, on_change, tell):
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        if on_change is not None:
            count_changes(folder, lambda number: on_change(number, tell))
        try:
            code, said = work(folder)
        except DimoError as error:
            code, said = error.exit_code, error.message
        except BaseException:
            code, said = 99, traceback.format_exc()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self.talk.write_text(said, errors="backslashreplace")
        return code

    def end(self):
        """Wait for its end: its exit code, or minus the signal that ended it."""
        started = time.monotonic()
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > LONGEST:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        os.close(self.told)
        return os.waitstatus_to_exitcode(status)


def killed(work, folder, at, pause=None):
    """Kill the work at its change number `at`, or some seconds behind it."""

    def on_change(number, tell):
        if number == at and pause is None:
            os.kill(os.getpid(), signal.SIGKILL)
        elif number == at:
            os.write(tell, b"!")

    child = Child(work, folder, on_change)
    if pause is not None:
        if select.select([child.told], [], [], LONGEST)[0] and os.read(child.told, 1):
            time.sleep(pause)
        os.kill(child.pid, signal.SIGKILL)
    return child.end()


def filled(work, folder, at):
    """From the change number `at` on, no file gets another byte."""

    def on_change(number, _):
        if number == at:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    return ended_in_a_sentence(Child(work, folder, on_change))


def ended_in_a_sentence(child):
    """The exit code of a process that the disk was full for: it has said so, or needed none."""
    code, said = child.end(), child.talk.read_text(errors="replace")
    assert code in (0, 3), f"exit {code}: {said}"
    assert "Traceback" not in said, said
    assert code == 0 or said.strip(), "it said nothing"
    return code


def counted(work, folder):
    """How many changes work makes in a folder that nothing happens to, and its exit code."""
    child = Child(work, folder, lambda number, tell: os.write(tell, b"!"))
    changes = 0
    while piece := os.read(child.told, 1000):
        changes += len(piece)
    return changes, child.end()


def mount(folder, options):
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@cache
def may_mount():
    """Whether this machine lets a test have a disk of its own."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with disk(Path(name)):
                return True
        except PermissionError:
            return False


@contextmanager
def disk(folder):
    """A file system of its own at a folder, with room enough at first."""
    folder.mkdir(parents=True, exist_ok=True)
    if not mount(folder, "size=1g"):
        raise PermissionError("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def on_a_small_disk(work, folder, room):
    """Give the work so many bytes of a disk; afterwards there is room again."""
    used = shutil.disk_usage(folder).used
    assert mount(folder, f"remount,size={used + room}")
    code = ended_in_a_sentence(Child(work, folder))
    assert mount(folder, "remount,size=1g")
    return code


def grow_old(folder):
    """Let two hours pass for all that lies half written in a folder."""
    then = time.time() - OLD
    for path in folder.rglob("*.tmp"):
        os.utime(path, (then, then))
