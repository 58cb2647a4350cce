"""What becomes of an error that no sentence was written for."""

import errno
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from dimo_cli.commands import frame
from dimo_cli.commands.frame import as_dimo_error, framing
from dimo_cli.console.output import out
from tests.helpers.pictures import class_folder

ODD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        SafetensorError("Error: Cannot allocate memory (os error 12)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8000000000000 bytes. Error code 12"
        ),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_is_not_given_is_said_in_a_sentence(error):
    known = as_dimo_error(error)
    assert known.message == "Memory is exhausted."
    assert "`ulimit -v`" in known.hint
    assert known.exit_code == 3


def test_other_errors_of_torch_stay_what_they_are():
    assert as_dimo_error(RuntimeError("shapes cannot be multiplied")) is None
    assert as_dimo_error(ImportError("cannot allocate memory in static TLS block")) is None


def test_a_sentence_is_said_even_without_memory_to_lay_it_out(monkeypatch, capfd):
    def none_left(error):
        raise MemoryError

    monkeypatch.setattr(out, "error", none_left)
    frame.tell(frame.no_memory())
    assert "Error: Memory is exhausted.\nLower the batch size" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits addresses as Linux does")
def test_a_limit_too_low_for_torch_is_a_sentence():
    call = f"ulimit -v 700000; exec {sys.executable} -m dimo_cli sample"
    result = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=False)
    assert result.returncode == 3, result.stderr
    assert "Error: Memory is exhausted." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_that_is_no_text_is_said_in_a_sentence(capsys):
    with pytest.raises(frame.typer.Exit) as end, framing():
        f"a run in {ODD}/r".encode()
    assert end.value.exit_code == 2
    assert r"'a run in caf\udce9/r' in it is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("eval", "is", ODD), "`TARGET`"),
        (("eval", "kid", "digits", "--ref", ODD), "`--ref`"),
        (("data", "encode", ODD, "--preset", "digits", "--out", "x"), "`SOURCE`"),
        (
            ("data", "encode", "photos", "--preset", "digits", "--out", ODD),
            "The name of the folder",
        ),
    ],
)
def test_a_folder_whose_name_is_no_text_is_refused_by_a_sentence(dimo, tmp_path, call, said):
    class_folder(tmp_path / "photos", 2)
    result = dimo(*call)
    assert result.exit_code == 2, result.stderr
    assert said in result.stderr
    assert "not UTF-8" in result.stderr


def test_names_within_a_folder_may_be_any_bytes(dimo, tmp_path):
    class_folder(tmp_path / "photos", 12)
    (tmp_path / "photos" / "one" / "0001.png").rename(tmp_path / "photos" / "one" / f"{ODD}.png")
    (tmp_path / "photos" / "two" / f"{ODD}.png").write_bytes(b"no picture")
    result = dimo(
        "data", "encode", "photos", "--preset", "digits", "--out", "x", "--shard-size", "4"
    )
    assert result.exit_code == 0, result.stderr
    assert "no readable image" in (tmp_path / "x" / "skipped.jsonl").read_text()
    again = dimo(
        "data", "encode", "photos", "--preset", "digits", "--out", "x", "--shard-size", "4"
    )
    assert "kept" in again.stdout
    (tmp_path / "photos" / "two" / f"{ODD}.png").unlink()
    result = dimo("eval", "is", "photos", "--features", "digits")
    assert result.exit_code == 0, result.stderr


def test_a_report_of_a_folder_whose_name_is_no_text_can_be_written(tmp_path):
    from dimo_cli.files.writing import write_whole_text

    write_whole_text(tmp_path / "report.html", f"a run in {ODD}")
    assert (tmp_path / "report.html").read_text() == r"a run in caf\udce9"
