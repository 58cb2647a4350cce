"""What student and auxiliary start as: copies of the teacher, or adapters over its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dimo_cli.engine.input_noise import give_noise
from dimo_cli.engine.lora import new_adapters
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.teachers.latent import check_has_room, give_latent
from dimo_cli.teachers.protocol import Backbone, Teacher
from dimo_cli.teachers.spread import spread
from dimo_cli.teachers.stored import plain_copy, store

Role = Literal["student", "auxiliary"]
# What the first factors of adapters are drawn from, beside the seed of the run: not the run's own
# generator, whose draws are then the same with adapters and without.
ADAPTER_SEEDS: dict[Role, int] = {"student": 0x10_0000_0000, "auxiliary": 0x20_0000_0000}


def starts_of(teacher: Teacher, spec: DistillSpec, roles: Sequence[Role]) -> dict[Role, Backbone]:
    """What theta and psi start as: the teacher's function, with weights or adapters to train.

    Copies are of the teacher's weights as they were loaded; from then on it has them as
    `teacher.weights` says, and adapters are over those.
    """
    copies = {role: whole(teacher, spec, role) for role in roles if not lora_of(spec, role).rank}
    store(teacher.backbone, spec.teacher.weights)
    return {role: copies.get(role) or adapted(teacher, spec, role) for role in roles}


def lora_of(spec: DistillSpec, role: Role) -> LoraSpec:
    """The adapters of a role; rank 0: none."""
    return spec.student.lora if role == "student" else spec.auxiliary_lora


def store_early(teacher: Teacher, spec: DistillSpec, is_sharded: bool) -> None:
    """Store the teacher before it is moved to a card, unless there will be copies of it.

    Where ranks share their networks, they share it as well.
    """
    if spec.student.lora.rank and spec.auxiliary_lora.rank:
        store(teacher.backbone, spec.teacher.weights)
        if is_sharded:
            spread(teacher.backbone)


def whole(teacher: Teacher, spec: DistillSpec, role: Role) -> Backbone:
    """A copy of the teacher with what else the student reads; at first that says nothing."""
    backbone = trainable_copy(teacher, spec)
    if role == "auxiliary":
        return backbone
    if spec.student.latent:
        check_has_room(backbone, teacher.name)
        give_latent(backbone, teacher.space, spec.train.seed)
    return give_noise(backbone, spec.init.noise, teacher.space, spec.train.seed)


def adapted(teacher: Teacher, spec: DistillSpec, role: Role) -> Backbone:
    """New adapters over the teacher."""
    seed = ADAPTER_SEEDS[role] + spec.train.seed
    backbone = new_adapters(teacher.backbone, lora_of(spec, role), seed).train(spec.train.dropout)
    backbone.gradient_checkpointing = spec.train.recomputes
    return backbone


def trainable_copy(teacher: Teacher, spec: DistillSpec) -> Backbone:
    """A copy of the teacher's backbone, all of which is trained."""
    backbone = plain_copy(teacher.backbone).requires_grad_(True).train(spec.train.dropout)
    backbone.gradient_checkpointing = spec.train.recomputes
    if spec.student.freeze_embeddings:
        for parameter in backbone.embedding_parameters():
            parameter.requires_grad_(False)
    return backbone
