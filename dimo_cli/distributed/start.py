"""Several processes by accelerate's launcher, and what is to be said when they have ended."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Thread
from types import FrameType

import psutil
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dimo_cli.distributed.reports import VARIABLE, Report, read_reports
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.specs.launch import LaunchSpec

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0  # seconds for the launcher to see that its processes have ended
BY_SIGNAL = 128  # exit codes above are of a process that was ended by a signal


class Ended(Exception):
    """The processes have ended, having said themselves why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Launch(Thread):
    """accelerate's launcher, in a thread of its own.

    There it installs no signal handlers: it would give the processes 30 seconds to end, and the
    checkpoint of a large model takes longer.
    """

    def __init__(self, spec: LaunchSpec, arguments: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.call = launch_command_parser().parse_args(launcher_arguments(spec, arguments))
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on ports and threads, which are ours to choose
                launch_command(self.call)
        except BaseException as error:  # for the main thread to judge
            self.problem = error


def launch(spec: LaunchSpec, arguments: Sequence[str]) -> None:
    """Carry out a command of dimo in several processes; raises what it comes to, if not success."""
    check_devices(spec)
    for name in ("torch.distributed", "torch.distributed.elastic", "accelerate"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it ourselves, and once
    if not spec.gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="dimo-") as folder:
        os.environ[VARIABLE] = folder
        started = Launch(spec, arguments)
        with signals_passed_on() as passed:
            started.start()
            while started.is_alive() and not (passed and not own_processes()):
                started.join(0.2)
            started.join(GRACE)
        if not started.is_alive():
            conclude(started.problem, read_reports(Path(folder)), passed)
    if started.is_alive():
        # It waits for other machines in torch's own code, and the interpreter would wait for it.
        os._exit(BY_SIGNAL + passed[0])


def launcher_arguments(spec: LaunchSpec, arguments: Sequence[str]) -> list[str]:
    """What accelerate's launcher is to be told."""
    host, _, port = (spec.main or "127.0.0.1:0").rpartition(":")
    config = files("dimo_cli.distributed") / ("fsdp2.yaml" if spec.shard else "ddp.yaml")
    threads = max(1, (os.cpu_count() or 1) // spec.on_each)
    told = {
        "config_file": config,
        "num_processes": spec.total,
        "num_machines": spec.nodes,
        "machine_rank": spec.node,
        "main_process_ip": host,
        "main_process_port": port,
        "num_cpu_threads_per_process": os.environ.get("OMP_NUM_THREADS") or threads,
    }
    flags = [word for name, value in told.items() for word in (f"--{name}", str(value))]
    return [*flags, "--module", "dimo_cli", *arguments]


def check_devices(spec: LaunchSpec) -> None:
    """Refuse GPUs that are not there."""
    there = torch.cuda.device_count()
    if spec.gpus and spec.gpus > there:
        have = f"only {there}" if there else "none"
        raise SpecError(
            f"`--gpus` is {spec.gpus}, but this machine has {have} that torch can use.",
            "Run `dimo doctor` to see why; `--processes N` shares the work among CPU processes.",
        )


@contextmanager
def signals_passed_on() -> Iterator[list[int]]:
    """Hand SIGINT and SIGTERM to the processes of the job, which end by themselves.

    They are sessions of their own, so that a terminal's Ctrl-C reaches them only through here.
    """
    passed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        for process in own_processes():
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def own_processes() -> list[psutil.Process]:
    """The processes that the launcher started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "dimo_cli" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def conclude(
    problem: BaseException | None, reports: Sequence[Report], passed: Sequence[int]
) -> None:
    """Say what the processes came to; nothing if they succeeded."""
    if problem is None:
        return
    if not isinstance(problem, ChildFailedError):
        if isinstance(problem, (ConnectionError, TimeoutError, torch.distributed.DistError)):
            raise MissingError(
                f"The machines of this job did not find each other: {problem}",
                "Give every machine the same `--nodes` and `--main`, and each another `--node`.",
            ) from problem
        raise problem
    codes = {rank: failure.exitcode for rank, failure in problem.failures.items()}
    causes = [report for report in reports if not report.is_follow_up]
    if causes:
        raise as_error(causes[0], len(reports))
    if passed and all(code in (-passed[0], BY_SIGNAL + passed[0]) for code in codes.values()):
        raise Ended(BY_SIGNAL + passed[0])
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    if killed:
        rank, number = next(iter(killed.items()))
        raise MissingError(
            f"Process {rank} was killed ({signal.Signals(number).name}); the others were ended.",
            "If memory ran out, lower `train.micro_batch`. Continue with `--resume`: the "
            "checkpoints are whole.",
        )
    if reports:
        raise as_error(reports[0], len(reports))
    raise Ended(next(iter(codes.values())))


def as_error(report: Report, processes: int) -> DimoError:
    """What a process could not say itself."""
    error = DimoError(report.message, report.hint)
    error.exit_code = report.exit_code
    return error
