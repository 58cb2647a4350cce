"""Where a run takes place: device, precision, and the processes that share it."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from dimo_cli.distributed.ranks import is_alone, on_cpu
from dimo_cli.errors import SpecError
from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers.attention import allow_cudnn
from dimo_cli.training.tracking import check_tracker


def make_accelerator(
    spec: TrainSpec, tracker: str = "none", folder: Path | None = None
) -> Accelerator:
    """The accelerator of a spec: device, autocast and tracker."""
    check_tracker(tracker)
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "`train.device` is cuda, but no CUDA device is visible.",
            "Use `--set train.device=auto`, or run `dimo doctor` to see why.",
        )
    on_cuda = spec.device != "cpu" and not on_cpu()
    if spec.precision == "bf16" and not on_cuda:
        raise SpecError(
            "`train.precision` is bf16, but the run would be on a CPU, where bf16 is very slow.",
            "Use `--set train.precision=fp32`.",
        )
    allow_cudnn(spec.cudnn_attention)
    return Accelerator(
        cpu=spec.device == "cpu" or (not is_alone() and not on_cuda),
        mixed_precision="bf16" if spec.is_half(on_cuda) else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
    )


def peak_memory(device: torch.device) -> int:
    """The most bytes used so far: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # the one counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_memory() -> tuple[str, int]:
    """Where a run would go, and how many bytes are there."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
    return "this machine's memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
