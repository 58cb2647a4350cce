"""What all benchmarks measure with: times taken in turn, exact peaks of memory, and the machine."""

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dimo_cli import __version__

Call = Callable[[], Any]


def device_of(gpu: bool) -> torch.device:
    """Where a benchmark runs; a GPU that is asked for must be there."""
    if gpu and not torch.cuda.is_available():
        raise SystemExit("--gpu was given, but no CUDA device is visible.")
    if gpu:
        # Its backward fails at Meissonic's shapes on Hopper; flash attention is next in line.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda" if gpu else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that a result belongs to."""
    machine: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "clock": Clock.name,
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    versions = {
        "dimo": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {"machine": machine, "versions": versions}


def processor() -> str:
    """The processor's name, where the system tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def synchronize() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock:
    """What time is taken with: the wall's, or this process's own on a machine that others use."""

    now: Call = staticmethod(time.perf_counter)
    name = "wall"

    @classmethod
    def choose(cls, name: str) -> None:
        """Take time with `wall` or `cpu` from now on."""
        cls.name, cls.now = name, time.perf_counter if name == "wall" else time.process_time


def seconds(call: Call) -> float:
    """Time that a call takes."""
    synchronize()
    started = Clock.now()
    call()
    synchronize()
    return Clock.now() - started


def in_turn(calls: Mapping[str, Call], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Times of several calls, each once a round, so that a slow moment meets them all."""
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median time of each call."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(above: list[float], *below: list[float]) -> float:
    """The median, over rounds, of a time over the sum of others of the same round."""
    return statistics.median(a / sum(parts) for a, *parts in zip(above, *below, strict=True))


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[dict[str, int]]:
    """Fills `peak`: the most bytes that tensors held inside, above what they held before.

    On a CPU every allocation of torch is seen, those inside its kernels too, by its profiler.
    """
    found = {"peak": 0}
    if device.type == "cuda":
        synchronize()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        synchronize()
        found["peak"] = torch.cuda.max_memory_allocated(device) - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield found
    events = recorded.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    live = 0
    for _, change in changes:
        live += change
        found["peak"] = max(found["peak"], live)


def bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    """What tensors hold together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def power_law(sizes: list[float], costs: list[float]) -> tuple[float, float]:
    """(a, b) of cost = a size^b, fitted by least squares in logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    slope, offset = statistics.linear_regression(x, y)
    return math.exp(offset), slope
