"""Nobody has to read what a program says: it goes on, and only a lost result is an error."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from dimo_cli.training.checkpoint import CheckpointFolder

SAYS_AND_WORKS = """
import logging, os, sys
from pathlib import Path
from dimo_cli.console.streams import lasting_streams
with lasting_streams():
    for number in range(200):
        sys.stderr.write(f"step {number} " + "." * 1000 + chr(10))
    logging.warning("that many")
    os.system("echo from a child; echo talk of a child >&2")
    kept = open("work.txt", "w")
    kept.write("done")
    kept.close()
    sys.stdout.write("result" + chr(10))
"""


def shell(folder, line, program=SAYS_AND_WORKS):
    """A line of bash in which $PROGRAM says much, works, and has a result."""
    words = f"{sys.executable} -c '{program}'"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('$PROGRAM', words)}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$PROGRAM", 0),
        ("$PROGRAM 2>&1 | head -1", 0),
        ("$PROGRAM 2> >(head -1 >&2)", 0),
        ("$PROGRAM 2>&-", 0),
        ("$PROGRAM 2>/dev/full", 0),
        ("$PROGRAM | true", 0),
        ("$PROGRAM >&-", 3),
        ("$PROGRAM >/dev/full", 3),
        ("$PROGRAM >&- 2>&-", 3),
        ("$PROGRAM <&- >&- 2>&-", 3),
        ("$PROGRAM >/dev/full 2>&1", 3),
    ],
)
def test_the_work_is_done_whoever_reads_and_a_lost_result_is_an_error(tmp_path, line, code):
    done = shell(tmp_path, line)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "work.txt").read_text() == "done", "and nothing that was said is in it"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if code and "2>" not in line:
        assert "Error: The result could not be written to stdout: " in done.stderr


def test_a_terminal_that_is_closed_ends_nothing(tmp_path):
    master, slave = pty.openpty()
    wait = "import sys; sys.stdin.readline()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", wait + SAYS_AND_WORKS],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=slave,
        stdout=subprocess.DEVNULL,
    )
    os.close(slave)
    os.close(master)
    process.communicate(b"go\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "work.txt").read_text() == "done"


def test_an_error_of_the_program_is_still_its_exit_code(tmp_path):
    fails = SAYS_AND_WORKS + "    sys.exit(4)\n"
    assert shell(tmp_path, "$PROGRAM >/dev/full", fails).returncode == 4


def test_a_character_that_a_terminal_lacks_is_replaced(tmp_path):
    done = shell(
        tmp_path,
        "PYTHONIOENCODING=ascii $PROGRAM",
        SAYS_AND_WORKS + "    sys.stdout.write(chr(9472) + chr(10))\n",
    )
    assert done.stdout.splitlines()[-1] == "?"


TINY_RUN = (
    "$PROGRAM distill --preset digits --out r --json --set train.steps=4 --set train.log_every=1 "
    "--set train.batch_size=8 --set monitor.table_samples=0 --set monitor.fid_every=0"
)


def test_a_run_whose_talk_and_result_nobody_gets_is_complete_and_says_so_by_its_code(tmp_path):
    line = f"{TINY_RUN} 2> >(true) >/dev/full".replace("$PROGRAM", f"{sys.executable} -m dimo_cli")
    done = shell(tmp_path, line)
    assert done.returncode == 3
    lines = (tmp_path / "r" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert (tmp_path / "r" / "student" / "model.safetensors").is_file()
    assert (tmp_path / "r" / "summary.json").is_file()


@pytest.mark.parametrize(("line", "code"), [(">&- 2>&-", 3), ("2>&1 | head -1", 0)])
@pytest.mark.slow
def test_a_run_with_nothing_to_write_to_is_complete(tmp_path, line, code):
    whole = f"{TINY_RUN} {line}".replace("$PROGRAM", f"{sys.executable} -m dimo_cli")
    assert shell(tmp_path, whole).returncode == code
    assert (tmp_path / "r" / "student" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_leaves_a_checkpoint(tmp_path):
    words = TINY_RUN.replace("$PROGRAM", f"{sys.executable} -m dimo_cli").replace("=4", "=100000")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp(sys.executable, words.split())
    log, deadline = tmp_path / "r" / "log.jsonl", time.monotonic() + 120
    while not log.exists() or not log.stat().st_size:
        assert time.monotonic() < deadline
        os.read(terminal, 100_000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps()[-1] > 0
