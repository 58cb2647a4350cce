"""A process that dies takes no work with it, and no other process waits for it forever."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimo_cli.data.shards import TokenDataset
from tests.helpers.pictures import class_folder

PROGRAM = (sys.executable, "-m", "dimo_cli")
ENCODE = ("data", "encode", "photos", "--preset", "digits", "--out", "tokens", "--shard-size", "20",
          "--json")  # fmt: skip


def started(folder, *arguments, **environment):
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(pid):
    """The processes that a process spawned to work."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_worker_is_said_and_its_shards_are_made_up_for(tmp_path, dimo):
    class_folder(tmp_path / "photos", 1000)
    process = started(tmp_path, *ENCODE, "--processes", "2")
    wait_until(lambda: len(workers_of(process.pid)) == 2, process)
    wait_until(lambda: any((tmp_path / "tokens").glob("shard-*")), process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    output, talk = process.communicate(timeout=120)
    assert process.returncode == 3, talk
    assert "SIGKILL" in json.loads(output)["error"]
    assert "Traceback" not in talk
    assert not (tmp_path / "tokens" / "index.json").exists()
    assert not any((tmp_path / "tokens").glob(".lock*"))
    done = len(list((tmp_path / "tokens").glob("shard-*.safetensors")))
    found = json.loads(dimo(*ENCODE).stdout)
    assert found["finished"]
    assert found["shards_kept"] == done >= 1
    assert len(TokenDataset.open(tmp_path / "tokens")) == 1000


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "end",
    [
        signal.SIGKILL,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_workers_end_with_the_process_that_started_them(tmp_path, end):
    class_folder(tmp_path / "photos", 1797)
    process = started(tmp_path, *ENCODE, "--processes", "2")
    wait_until(lambda: any((tmp_path / "tokens").glob("shard-*")), process)
    workers = workers_of(process.pid)
    process.send_signal(end)
    process.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(workers) == 2


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_with_a_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    call = ("eval", "is", "digits", "--teacher", "--steps", "16", "-n", "20000", "--no-cache")
    first = started(tmp_path, *call, RANK="0", **job)
    second = started(tmp_path, *call, RANK="1", **job)
    try:
        time.sleep(15)  # both are connected and in the middle of it
        assert second.poll() is None, second.communicate()
        second.kill()
        _, talk = first.communicate(timeout=300)
    finally:
        first.kill()
    assert first.returncode == 3, talk
    assert "Process 0 of 2 lost the others" in talk
    assert "Traceback" not in talk


@pytest.mark.parametrize("call", [("distill", "--preset", "digits"), ("refine", "digits", "--gan")])
def test_a_process_that_is_not_told_where_the_others_are_says_so(dimo, monkeypatch, call):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = dimo(*call, "--out", "r")
    assert result.exit_code == 3
    assert "Process 0 of 2" in result.stderr
    assert not Path("r").exists()


def test_a_launchers_nonsense_is_said(dimo, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    result = dimo("distill", "--preset", "digits", "--out", "r")
    assert result.exit_code == 2
    assert "WORLD_SIZE is 'two'" in result.stderr
