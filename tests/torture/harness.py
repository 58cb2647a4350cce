"""Runs that are killed: started as a person starts them, or forked from the test to be fast."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback

from safetensors.torch import load_file

import tests.helpers.forking  # noqa: F401
from dimo_cli.console.live import PlainView
from dimo_cli.run_folder.verifying import check_contents
from dimo_cli.runs.distill import distill
from dimo_cli.training.checkpoint import CheckpointFolder
from tests.conftest import small_spec

DEADLINE = 7200  # of a machine that others use as well


class Program:
    """The real program in a process of its own."""

    def __init__(self, folder, *sets):
        where = ("--resume", folder.name) if (folder / "run.yaml").exists() else ()
        flags = [word for setting in sets for word in ("--set", setting)]
        start = ("--preset", "digits", *flags, "--out", folder.name)
        command = [sys.executable, "-m", "dimo_cli", "distill", *(where or start), "--quiet"]
        self.process = subprocess.Popen(
            command, cwd=folder.parent, stderr=subprocess.PIPE, text=True
        )

    def is_running(self):
        return self.process.poll() is None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()

    def finish(self):
        _, talk = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, talk


class Fork:
    """The same run in a fork of the test: no second import of torch."""

    def __init__(self, folder, **groups):
        self.pid = os.fork()
        self.status = None
        if self.pid == 0:
            try:
                resume = (folder / "run.yaml").exists()
                distill(small_spec(**groups), folder, PlainView(lambda line: None), resume)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)

    def is_running(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        _, self.status = os.waitpid(self.pid, 0)

    def finish(self):
        while self.is_running():
            time.sleep(0.01)
        assert self.status == 0


def moments(rng, folder, start_up):
    """Moments to kill a run at, each a function that waits for it: (name, wait).

    `start_up` is about how many seconds it takes to start.
    """
    checkpoints, log = folder / "checkpoints", folder / "log.jsonl"

    def begins_a_checkpoint():
        return any(checkpoints.glob(".tmp-*"))

    def has_logged(size):
        return lambda: log.exists() and log.stat().st_size > size

    def after(condition, longest):
        def wait(run):
            started = time.monotonic()
            while run.is_running() and not condition() and time.monotonic() - started < DEADLINE:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, longest))

        return wait

    while True:
        size = log.stat().st_size if log.exists() else 0
        yield rng.choice(
            [
                ("while it writes a checkpoint", after(begins_a_checkpoint, 0.06)),
                ("while it writes a checkpoint", after(begins_a_checkpoint, 0.02)),
                ("while it trains", after(has_logged(size), 0.25)),
                ("at any time", after(lambda: True, 1.5 * start_up)),
            ]
        )


def killed_often(start, folder, kills, seed, start_up):
    """Start, kill and resume `kills` times, then let it finish; says when it was killed."""
    rng = random.Random(seed)
    told, waits = [], moments(rng, folder, start_up)
    for number in range(kills):
        name, wait = next(waits)
        run = start()
        wait(run)
        assert run.is_running(), f"finished before kill {number + 1}: give it more steps"
        run.kill()
        told.append(name)
        every_checkpoint_is_whole(folder)
    start().finish()
    return told


def seconds_to_start(run, folder):
    """How long a run takes to its first step, on this machine as it is loaded now."""
    started = time.monotonic()
    while not (folder / "log.jsonl").exists():
        assert run.is_running()
        time.sleep(0.01)
    return time.monotonic() - started


def every_checkpoint_is_whole(folder):
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for step in checkpoints.steps():
        check_contents(checkpoints.path(step))


def same_run(one, two):
    """Two run folders hold the same: student, newest checkpoint and log, but for the clock."""
    assert (one / "student/model.safetensors").read_bytes() == (
        two / "student/model.safetensors"
    ).read_bytes()
    assert (one / "student/dimo.json").read_text() == (two / "student/dimo.json").read_text()
    first, second = (CheckpointFolder(run / "checkpoints") for run in (one, two))
    assert first.steps()[-1] == second.steps()[-1]
    step = first.steps()[-1]
    for path in first.path(step).glob("*.safetensors"):
        theirs = load_file(second.path(step) / path.name)
        for name, tensor in load_file(path).items():
            assert tensor.equal(theirs[name]), f"{path.name}: {name}"
    assert numbers(one) == numbers(two)


CLOCK_AND_MACHINE = ("images_per_second", "peak_memory_gib")


def numbers(run):
    """What the log says, but for speed and memory."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in CLOCK_AND_MACHINE}
        for record in records
    ]


def tidy_names(run):
    """Everything in a run folder that a killed process may have left behind."""
    return [
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.name.startswith((".tmp-", ".old-", ".lock")) or path.name.endswith(".tmp")
    ]
