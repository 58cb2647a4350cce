"""What student and auxiliary start as: copies of the teacher, or adapters over its own weights."""

from __future__ import annotations

import copy
from typing import Literal

from dimo_cli.engine.input_noise import give_noise
from dimo_cli.engine.lora import new_adapters
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.latent import check_has_room, give_latent
from dimo_cli.teachers.protocol import Backbone, Teacher

Role = Literal["student", "auxiliary"]
# What the first factors of adapters are drawn from, beside the seed of the run: not the run's own
# generator, whose draws are then the same with adapters and without.
ADAPTER_SEEDS: dict[Role, int] = {"student": 0x10_0000_0000, "auxiliary": 0x20_0000_0000}


def start_of(teacher: Teacher, spec: DistillSpec, role: Role) -> Backbone:
    """What theta or psi starts as: the teacher's function, with weights or adapters to train."""
    lora = spec.student.lora if role == "student" else spec.auxiliary_lora
    if not lora.rank:
        backbone = trainable_copy(teacher, spec)
        if role == "auxiliary":
            return backbone
        if spec.student.latent:
            check_has_room(backbone, teacher.name)
            give_latent(backbone, teacher.space, spec.train.seed)
        return give_noise(backbone, spec.init.noise, teacher.space, spec.train.seed)
    seed = ADAPTER_SEEDS[role] + spec.train.seed
    backbone = new_adapters(teacher.backbone, lora, seed).train(spec.train.dropout)
    backbone.gradient_checkpointing = spec.train.recomputes
    return backbone


def trainable_copy(teacher: Teacher, spec: DistillSpec) -> Backbone:
    """A copy of the teacher's backbone, all of which is trained."""
    backbone = copy.deepcopy(teacher.backbone).requires_grad_(True).train(spec.train.dropout)
    backbone.gradient_checkpointing = spec.train.recomputes
    if spec.student.freeze_embeddings:
        for parameter in backbone.embedding_parameters():
            parameter.requires_grad_(False)
    return backbone
