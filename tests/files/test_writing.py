"""Files are written whole or not at all, and what killed processes left is taken away."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dimo_cli.files.writing import (
    STALE_SECONDS,
    TEMPORARY,
    patient_file,
    tidy,
    whole_file,
    write_whole_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def left_over(folder, process, seconds=0.0):
    """What a process would leave that was killed so many seconds ago."""
    path = folder / f".old.txt.{process}-0af3{TEMPORARY}"
    path.write_text("half")
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))
    return path


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "x.txt"
    write_whole_text(path, "one")

    def write_half():
        with whole_file(path) as temporary:
            temporary.write_text("tw")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "one"
    assert names(tmp_path) == ["x.txt"]


def test_two_writers_of_one_number_do_not_meet(tmp_path):
    """As processes of two containers that share a folder may be."""
    path = tmp_path / "x.txt"
    with whole_file(path) as one, whole_file(path) as other:
        one.write_text("one")
        other.write_text("another")
    assert path.read_text() == "one"
    assert names(tmp_path) == ["x.txt"]


def test_whoever_may_read_a_new_file_may_read_one_of_tensors(tmp_path):
    """Whatever the umask is: a folder may be shared."""
    (tmp_path / "new").touch()
    with whole_file(tmp_path / "x.safetensors") as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_the_next_write_takes_away_what_a_killed_process_left(tmp_path, gone):
    left_over(tmp_path, gone, STALE_SECONDS + 60)
    write_whole_text(tmp_path / "new.txt", "new")
    assert names(tmp_path) == ["new.txt"]


def test_what_may_still_be_written_stays(tmp_path, gone):
    """By a process of this machine; and, where folders are shared, by one of another."""
    left_over(tmp_path, os.getpid(), STALE_SECONDS + 60)
    left_over(tmp_path, gone, STALE_SECONDS - 60)
    (tmp_path / f".mine{TEMPORARY}").touch()
    before = names(tmp_path)
    write_whole_text(tmp_path / "new.txt", "new")
    assert names(tmp_path) == [*before, "new.txt"]


def test_who_holds_a_folder_alone_tidies_it_at_once(tmp_path, gone):
    left_over(tmp_path, gone)
    tidy(tmp_path)
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_nothing_for_long(tmp_path):
    """A real one, killed in the middle of a write."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dimo_cli.files.writing import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.txt")], check=False)
    (left,) = tmp_path.iterdir()
    tidy(tmp_path)
    assert not left.exists()


def test_a_writer_that_must_not_fail_hears_of_a_full_disk_at_the_end():
    def write():
        with patient_file(Path("/dev/full")) as file:
            assert file.write(b"some") == 4
            assert file.write(memoryview(bytes(8))) == 8

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC


def test_torch_writes_an_archive_that_it_reads_again(tmp_path):
    with patient_file(tmp_path / "x.pt") as file:
        torch.save({"x": torch.arange(1000)}, file)
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(found["x"], torch.arange(1000))
