"""How much memory a run will need, worked out without allocating any of it."""

from __future__ import annotations

import copy
import os
import resource
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher

FLOAT = 4


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose, at the peak of a step."""

    weights: int
    gradients_and_optimizers: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients_and_optimizers + self.activations + self.logits


def peak_memory(device: torch.device) -> int:
    """The most bytes used so far: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # the one counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def blank_cond(teacher: Teacher, count: int) -> Cond:
    """A condition of the right shapes on the meta device."""
    return teacher.conditioner.blank(count).to("meta")


def saved_bytes(backbone: Backbone, teacher: Teacher, batch: int) -> int:
    """Bytes that autograd keeps for one forward pass of `batch` samples, on the meta device."""
    space = teacher.space
    meta = copy.deepcopy(backbone).to("meta").requires_grad_(True)
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in meta.parameters()}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []  # a freed storage's address could be handed out again
    shape = (batch, space.length, space.groups)
    tokens = torch.zeros(shape, dtype=torch.long, device="meta")
    cond = blank_cond(teacher, batch)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        meta.hidden(meta.embed(tokens), cond)
    return sum(kept.values())


def machine_memory() -> tuple[str, int]:
    """Where a run would go, and how many bytes are there."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
    return "this machine's memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def advice_to_fit(
    teacher: Teacher, spec: DistillSpec, estimate: MemoryEstimate, available: int
) -> str | None:
    """What to change so that a run fits into `available` bytes; None if it fits as it is."""
    if estimate.total <= available:
        return None
    for checkpointing in sorted({spec.train.gradient_checkpointing, True}):
        train = spec.train.model_copy(update={"gradient_checkpointing": checkpointing})
        changed = estimate_memory(teacher, spec.model_copy(update={"train": train}))
        spare = available - (changed.total - changed.activations)
        most = int(spare / (changed.activations / spec.train.batch_size))
        if most >= 1:
            samples = spec.train.batch_size * spec.train.accumulate
            batch = max(size for size in range(1, most + 1) if samples % size == 0)
            passes = samples // batch
            extra = " --set train.gradient_checkpointing=true" if checkpointing else ""
            return f"Use `--set train.batch_size={batch} --set train.accumulate={passes}{extra}`."
    fixed = estimate.weights + estimate.gradients_and_optimizers
    return f"The weights and optimizers alone need {fixed / 2**30:.0f} GiB: use a larger GPU."


def estimate_memory(teacher: Teacher, spec: DistillSpec) -> MemoryEstimate:
    """Peak memory of a distillation step: four networks, two of them trained."""
    backbone = copy.deepcopy(teacher.backbone).to("meta")
    backbone.gradient_checkpointing = spec.train.gradient_checkpointing
    count = sum(parameter.numel() for parameter in backbone.parameters())
    frozen = backbone.embedding_parameters() if spec.student.freeze_embeddings else []
    trained = count - sum(parameter.numel() for parameter in frozen)
    space, batch = teacher.space, spec.train.batch_size
    activations = saved_bytes(backbone, teacher, batch)
    rows = min(spec.loss.chunk_tokens, batch * space.length)
    # A chunk of logits is held as teacher, auxiliary and student logits, their logs and gradient.
    copies = 7 if spec.teacher.guidance.needs_null else 6
    return MemoryEstimate(
        weights=4 * count * FLOAT,
        gradients_and_optimizers=2 * 3 * trained * FLOAT,
        activations=activations,  # of one pass: each pass is backpropagated before the next
        logits=copies * rows * space.groups * space.vocab * FLOAT,
    )
