"""What fuzzed code must keep to: its folder, its time, its memory, and errors in sentences."""

import faulthandler
import os
import resource
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hypothesis.configuration import storage_directory

from dimo_cli.errors import DimoError

SECONDS = 10
MOST_MEMORY = 1200  # MiB on top of what the process had: four times the largest allowance
WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
           "os.truncate", "shutil.rmtree", "os.chmod")  # fmt: skip
RUNNING = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")

_allowed: list[Path] = []
_offenses: list[str] = []


def _watch(event, arguments):
    """An audit hook: it sees every file that Python opens to write, wherever that happens."""
    if not _allowed:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if flags else False
        if not (writes or (isinstance(mode, str) and set(mode) & set("wax+"))):
            return
    elif event in WRITING:
        path = arguments[1 if event == "os.symlink" else 0]  # which stands behind what it leads to
    elif event in RUNNING:
        _offenses.append(f"{event} {arguments[:1]}")
        return
    else:
        return
    if isinstance(path, int):
        return
    place = Path(os.path.abspath(os.fsdecode(path)))
    if not any(place.is_relative_to(folder) for folder in _allowed) and place != Path(os.devnull):
        _offenses.append(f"{event} {place}")


sys.addaudithook(_watch)


@contextmanager
def in_a_folder_of_its_own():
    """An empty working directory; what is written elsewhere or run is an offense."""
    before, bytecode = Path.cwd(), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # an import of something for the first time is no offense
    with (
        tempfile.TemporaryDirectory() as name,
        patch.dict("os.environ", HF_HOME=f"{name}/hf"),
        patch.object(tempfile, "tempdir", name),
    ):
        folder = Path(name).resolve()
        os.chdir(folder)
        _offenses.clear()
        _allowed.extend([folder, storage_directory(intent_to_write=False).path])
        try:
            yield folder
        finally:
            _allowed.clear()
            os.chdir(before)
            sys.dont_write_bytecode = bytecode
    assert _offenses == [], f"it reached outside its folder: {_offenses}"


class Hang(BaseException):
    """It takes too long; nothing but the test may catch that."""


@contextmanager
def in_time(seconds=SECONDS):
    """A hang is an error after some seconds of work, however busy the machine is with others.

    One that no signal reaches, or that waits for something, ends the tests.
    """

    def late(*_):
        raise Hang(f"not done after {seconds} seconds")

    previous = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(60 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


@contextmanager
def in_little_memory(most=MOST_MEMORY):
    """The peak of this process must not rise by more."""
    before = peak()
    yield
    assert peak() - before < most, f"it took {peak() - before:.0f} MiB"


def peak():
    """The most memory this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def in_sentences():
    """Only what a person can read may come out, and it names something."""
    refusal = None
    try:
        yield
    except DimoError as error:
        refusal = error
    if refusal is not None:
        assert refusal.exit_code in (2, 3, 4)
        assert refusal.message.strip()
        assert "Traceback" not in refusal.message
