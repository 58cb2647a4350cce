"""Where a run takes place: device, precision, and the processes that share it."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from dimo_cli.engine.tracking import check_tracker
from dimo_cli.errors import SpecError
from dimo_cli.ranks import on_cpu, own_rank
from dimo_cli.specs.distill import TrainSpec


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
    return Accelerator(
        cpu=spec.device == "cpu" or (own_rank()[1] > 1 and not on_cuda),
        mixed_precision="bf16" if spec.is_half(on_cuda) else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
    )
