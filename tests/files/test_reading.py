"""Only files are read, and only as far as makes sense."""

import os
import socket
from pathlib import Path

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.files.reading import MIB, check_regular, read_bytes, read_text


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Everything that has a name in a file system and is no file."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    os.mkdir("folder")
    os.symlink("pipe", "link")
    yield {"pipe": "a pipe", "socket": "a socket", "folder": "a folder", "link": "a pipe",
           "/dev/zero": "a device"}  # fmt: skip
    server.close()


def test_what_is_no_file_is_never_opened(no_files):
    for name, what in no_files.items():
        for read in (check_regular, lambda path: read_bytes(path, 9), lambda p: read_text(p, 9)):
            with pytest.raises(SpecError, match=f"`{name}` is {what}, not a file"):
                read(Path(name))


def test_a_file_that_is_too_large_is_read_no_further(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(SpecError, match="at most 1 MiB"):
        read_text(path, MIB)
    with path.open("wb") as file:
        file.truncate(MIB)
    assert len(read_bytes(path, MIB)) == MIB


def test_text_is_read_as_python_reads_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\nb\rc\n\u2028".encode())
    assert read_text(path, MIB) == path.read_text(encoding="utf-8")
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path, MIB)
    assert read_text(path, MIB, errors="replace") == "\ufffd"


def test_what_is_not_there_is_the_error_that_open_gives(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")
