"""Several processes by accelerate's launcher, and what is to be said when they have ended."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from threading import Thread
from types import FrameType

import psutil
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dimo_cli.distributed.lifeline import Ending, announce_launcher, ending_signals
from dimo_cli.distributed.reports import VARIABLE, Report, read_reports
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.specs.launch import LaunchSpec

LOOPBACK = "127.0.0.1"
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
    if spec.main is None:
        check_loopback()
    for name in ("torch.distributed", "torch.distributed.elastic", "accelerate"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we say it ourselves, and once
    if not spec.gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="dimo-") as place:
        folder = Path(place)
        os.environ[VARIABLE] = place
        announce_launcher(folder, spec.grace)
        started, ending = Launch(spec, arguments), Ending(folder, spec.grace)
        killed = carry_through(started, ending)
        if not started.is_alive():
            conclude(started.problem, read_reports(folder), ending, killed)
    if started.is_alive():
        # It waits for other machines in torch's own code, and the interpreter would wait for it.
        os._exit(BY_SIGNAL + ending.signals[0])


def carry_through(started: Launch, ending: Ending) -> list[int]:
    """Wait for the end of a job; returns the ranks that were killed, as they did not end."""
    killed: list[int] = []
    with signals_passed_on(ending):
        started.start()
        while started.is_alive() and not (ending.signals and not own_processes()):
            started.join(0.2)
            if not killed and ending.is_over():
                killed = kill_processes()
        started.join(GRACE)
    return killed


def launcher_arguments(spec: LaunchSpec, arguments: Sequence[str]) -> list[str]:
    """What accelerate's launcher is to be told."""
    host, _, port = (spec.main or f"{LOOPBACK}:0").rpartition(":")
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


def check_loopback() -> None:
    """Refuse a machine that cannot reach itself, where processes would look for each other long."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=GRACE).close()
    except OSError as error:
        raise MissingError(
            f"The processes of a job meet at {LOOPBACK}, which this machine cannot use: "
            f"{error.strerror or error}.",
            "Bring its loopback interface up (`ip link set lo up`), or let the sandbox it runs in "
            "have one.",
        ) from None


@contextmanager
def signals_passed_on(ending: Ending) -> Iterator[None]:
    """Hand what asks for the end to the processes of the job, which end by themselves.

    They are sessions of their own, so that a terminal's Ctrl-C reaches them only through here.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        ending.ask(number)
        for process in own_processes():
            with suppress(psutil.Error):  # it has just ended
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in ending_signals()}
    try:
        yield
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


def kill_processes() -> list[int]:
    """End the processes that the launcher started, and theirs; returns the ranks of the former."""
    ranks = []
    for process in own_processes():
        try:
            ranks.append(int(process.environ()["RANK"]))
            for one in (*process.children(recursive=True), process):
                one.kill()
        except (psutil.Error, KeyError):  # it has just ended
            continue
    return sorted(ranks)


def conclude(
    problem: BaseException | None,
    reports: Sequence[Report],
    ending: Ending,
    killed: Sequence[int] = (),
) -> None:
    """Say what the processes came to; nothing if they succeeded."""
    if killed:
        raise hanging(ending, killed)
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
    passed = ending.signals
    if passed and all(code in (-passed[0], BY_SIGNAL + passed[0]) for code in codes.values()):
        raise Ended(BY_SIGNAL + passed[0])
    by_others = {rank: -code for rank, code in codes.items() if code < 0}
    if by_others:
        rank, number = next(iter(by_others.items()))
        raise MissingError(
            f"Process {rank} was killed ({signal.Signals(number).name}); the others were ended.",
            "If memory ran out, lower `train.micro_batch`. Continue with `--resume`: the "
            "checkpoints are whole.",
        )
    if reports:
        raise as_error(reports[0], len(reports))
    raise Ended(next(iter(codes.values())))


def hanging(ending: Ending, killed: Sequence[int]) -> DimoError:
    """What is to be said of processes that did not end when they were asked to."""
    number = ending.signals[0]
    which = f"Process {killed[0]}" if len(killed) == 1 else f"Processes {listed(killed)}"
    error = DimoError(
        f"{which} had not ended {ending.grace:g} seconds after {signal.Signals(number).name}, and "
        f"{'was' if len(killed) == 1 else 'were'} killed.",
        "A run goes on with `--resume`: its checkpoints are whole. If a step takes that long, give "
        "it more time with `--grace`.",
    )
    error.exit_code = BY_SIGNAL + number
    return error


def listed(ranks: Sequence[int]) -> str:
    """Ranks as a person lists them; of many only the first."""
    if len(ranks) > 4:
        return f"{ranks[0]}, {ranks[1]} and {len(ranks) - 2} more"
    return f"{', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def as_error(report: Report, processes: int) -> DimoError:
    """What a process could not say itself."""
    error = DimoError(report.message, report.hint)
    error.exit_code = report.exit_code
    return error
