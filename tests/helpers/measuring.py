"""What a run is held against, made for a test."""

import torch

from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.specs.distill import DistillSpec


def yardstick_for(teacher, **monitor):
    """The yardstick of a run of this teacher; `monitor` holds settings of that group."""
    spec = DistillSpec.model_validate({"teacher": {"name": teacher.name}, "monitor": monitor})
    return Yardstick(spec, teacher, torch.device("cpu"))
