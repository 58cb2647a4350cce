"""One process at a time: a folder in use is refused, and no dead process ever keeps one."""

import errno
import os
import signal
import socket
import time

import pytest

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.locking import locked, refuse_if_locked
from tests.torture.harness import Fork

FOREVER = {"steps": 100_000, "batch_size": 8, "checkpoint_every": 100_000, "log_every": 1}


def held_by_a_fork(folder):
    """The number of a process that holds a folder."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(folder):
            os.write(writer, b"!")
            time.sleep(120)
        os._exit(0)
    os.read(reader, 1)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_folder_in_use_is_refused_with_the_number_of_its_process(tmp_path):
    pid = held_by_a_fork(tmp_path / "run")
    try:
        expected = pytest.raises(SpecError, match=rf"in use by process {pid}\.")
        with expected as caught, locked(tmp_path / "run"):
            pass
        assert f"kill {pid}" in caught.value.hint
        with pytest.raises(SpecError, match=f"process {pid}"):
            refuse_if_locked(tmp_path / "run")
    finally:
        end(pid)


def test_a_killed_process_holds_nothing(tmp_path):
    end(held_by_a_fork(tmp_path))
    assert (tmp_path / ".lock").exists()
    refuse_if_locked(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused_to_a_second_holder_of_the_same_process(tmp_path):
    refused = pytest.raises(SpecError, match=f"process {os.getpid()}")
    with locked(tmp_path), refused, locked(tmp_path):
        pass


def test_a_look_at_a_folder_leaves_no_trace(tmp_path):
    refuse_if_locked(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_removed_while_another_waits_is_taken_anew(tmp_path, monkeypatch):
    """The holder removes its file as it leaves: whoever opened that one must not rely on it."""
    from dimo_cli.files import locking

    opened = []
    real = locking.is_still

    def gone_at_first(handle, path):
        opened.append(handle)
        if len(opened) == 1:
            path.unlink()
        return real(handle, path)

    monkeypatch.setattr(locking, "is_still", gone_at_first)
    with locked(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_used_and_said(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    said = []
    monkeypatch.setattr("dimo_cli.files.locking.fcntl.flock", cannot)
    with locked(tmp_path, say=said.append):
        pass
    assert "has no locks" in said[0]


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="Cannot write"), locked(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("command", ["distill", "refine", "tteo", "encode"])
def test_no_command_writes_into_a_folder_that_another_process_uses(dimo, tmp_path, command):
    name = ".lock"
    (tmp_path / "photos" / "one").mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "one" / "1.png")
    call = {
        "distill": ("distill", "--preset", "digits", "--out", "r"),
        "refine": ("refine", "digits", "--gan", "--out", "r"),
        "tteo": ("tteo", "shapes", "--prompt", "a red circle", "--out", "r"),
        "encode": ("data", "encode", "photos", "--preset", "digits", "--out", "r"),
    }[command]
    with locked(tmp_path / "r", name):
        result = dimo(*call, "--json")
    assert result.exit_code == 2, result.stderr
    assert f"`r` is in use by process {os.getpid()}" in result.stderr
    assert not (tmp_path / "r" / "run.yaml").exists()


def test_a_run_cannot_be_continued_while_it_runs(dimo, tmp_path):
    fork = Fork(tmp_path / "r", train=FOREVER)
    try:
        while not (tmp_path / "r" / "log.jsonl").exists():
            assert fork.is_running()
        before = (tmp_path / "r" / "run.yaml").read_bytes()
        result = dimo("distill", "--resume", "r")
        assert result.exit_code == 2
        assert f"in use by process {fork.pid}" in result.stderr
        assert (tmp_path / "r" / "run.yaml").read_bytes() == before
        assert fork.is_running()
    finally:
        fork.kill()
