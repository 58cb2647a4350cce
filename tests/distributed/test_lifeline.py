"""Processes of a job that hang, or whose launcher is gone, come to an end."""

import os
import signal
import subprocess
import sys
import time
from threading import Thread

import psutil
import pytest

from dimo_cli.distributed import start
from dimo_cli.distributed.lifeline import Ending, announce_last_checkpoint
from dimo_cli.distributed.start import carry_through, check_loopback, conclude
from dimo_cli.errors import DimoError, MissingError

DEAF = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.stdout.write("ready")
sys.stdout.flush()
time.sleep(600)
"""
LAUNCHER = """
import subprocess, sys, time
from pathlib import Path
from dimo_cli.distributed.lifeline import announce_launcher
announce_launcher(Path(sys.argv[1]), 0.1)
ranks = [subprocess.Popen([sys.executable, "-c", sys.argv[2]]) for _ in range(2)]
print(*(rank.pid for rank in ranks), flush=True)
time.sleep(600)
"""
HANGS = """
import signal, time
from dimo_cli.distributed.lifeline import end_with_launcher
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end_with_launcher()
time.sleep(600)
"""


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("program", [HANGS, HANGS.replace("signal.signal", "isinstance")])
@pytest.mark.parametrize("when", ["before it looks", "later"])
def test_a_process_ends_after_its_launcher_did_even_if_it_hangs(tmp_path, program, when):
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), program],
        env={**os.environ, "DIMO_REPORTS": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    ranks = [int(pid) for pid in launcher.stdout.readline().split()]
    if when == "later":
        time.sleep(0.5)
    launcher.kill()
    launcher.communicate()
    wait_until(lambda: all(is_gone(pid) for pid in ranks))


class Job(Thread):
    """A launcher whose two processes are deaf to signals, and one of them stopped."""

    problem = None

    def __init__(self):
        super().__init__(daemon=True)
        self.ranks = []

    def run(self):
        for rank in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", DEAF, "dimo_cli"],
                env={**os.environ, "RANK": str(rank)},
                stdout=subprocess.PIPE,
            )
            process.stdout.read(5)
            self.ranks.append(process)
        self.ranks[1].send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)
        for process in self.ranks:
            process.wait(60)


def test_processes_that_do_not_heed_a_signal_are_killed_after_the_grace(tmp_path):
    job, ending = Job(), Ending(tmp_path, 0.3)
    killed = carry_through(job, ending)
    assert killed == [0, 1]
    assert [rank.returncode for rank in job.ranks] == [-signal.SIGKILL] * 2
    with pytest.raises(DimoError, match=r"Processes 0 and 1 .* 0\.3 seconds after SIGTERM") as told:
        conclude(job.problem, [], ending, killed)
    assert told.value.exit_code == 143


def test_a_last_checkpoint_has_more_time_than_the_grace_unless_ctrl_c_comes_twice(
    tmp_path, monkeypatch
):
    ending = Ending(tmp_path, 0.0)
    assert not ending.is_over()
    ending.ask(signal.SIGINT)
    time.sleep(0.01)
    assert ending.is_over()
    monkeypatch.setenv("DIMO_REPORTS", str(tmp_path))
    announce_last_checkpoint()
    assert not ending.is_over()
    ending.ask(signal.SIGINT)
    time.sleep(0.01)
    assert ending.is_over()


def test_signals_without_end_do_not_put_the_end_off(tmp_path):
    ending = Ending(tmp_path, 0.05)
    ending.ask(signal.SIGTERM)
    ending.ask(signal.SIGTERM)
    time.sleep(0.06)
    ending.ask(signal.SIGTERM)
    assert ending.is_over()


def test_a_last_checkpoint_is_written_also_where_the_launcher_took_its_folder_along(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DIMO_REPORTS", str(tmp_path / "gone"))
    announce_last_checkpoint()  # and raises nothing


def test_a_machine_that_cannot_reach_itself_is_told_so_at_once(monkeypatch):
    check_loopback()
    monkeypatch.setattr(start, "LOOPBACK", "203.0.113.7")
    with pytest.raises(MissingError, match=r"meet at 203\.0\.113\.7, which this machine cannot"):
        check_loopback()
