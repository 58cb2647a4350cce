"""How much memory a run will need, worked out without allocating any of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.lora import has_adapters, new_adapters, trained_part
from dimo_cli.engine.objectives.reward import Rewards
from dimo_cli.engine.one_step import rows_at_once
from dimo_cli.engine.refine import Refinement
from dimo_cli.engine.sharding import GATHERED
from dimo_cli.engine.share import divide, largest_divisor, local_train
from dimo_cli.planning.rehearsal import BlankImages, blank_supplies, rehearse, without_content
from dimo_cli.rewards.registry import blank_reward
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.refine import RefineSpec, reward_names
from dimo_cli.specs.shipped import SHIPPED
from dimo_cli.teachers.linear_maps import blocks_of
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher
from dimo_cli.teachers.spread import linear_maps

MOST_CHUNKS = 32  # a rehearsal goes through; larger batches follow from smaller ones


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose, at the peak of a step."""

    weights: int
    gradients_and_optimizers: int
    activations: int
    logits: int

    @property
    def parts(self) -> dict[str, int]:
        """All parts by name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def blank_cond(teacher: Teacher, count: int) -> Cond:
    """A condition of the right shapes on the meta device."""
    return teacher.conditioner.blank(count).to("meta")


def advice_to_fit(
    teacher: Teacher,
    spec: DistillSpec,
    estimate: MemoryEstimate,
    available: int,
    rewards: Callable[[RefineSpec], Rewards] = lambda spec: {},
    processes: int = 1,
    on_gpu: bool | None = None,
) -> str | None:
    """What to change so that a run fits into `available` bytes; None if it fits as it is.

    `spec` and `estimate` are those of each of the `processes`; `on_gpu` is that of the estimate.
    """
    if estimate.total <= available:
        return None
    samples = spec.train.batch_size * spec.train.accumulate
    for checkpointing in sorted({spec.train.recomputes, True}):
        in_one = {"gradient_checkpointing": checkpointing}
        changed = estimate
        if checkpointing != spec.train.recomputes:
            changed = estimate_memory(teacher, with_train(spec, in_one), rewards, on_gpu)
        spare = available - (changed.total - changed.activations)
        most = min(samples, int(spare / (changed.activations / spec.train.batch_size)))
        while (passes := largest_divisor(samples, most)) >= spec.least_pass:
            cut = with_train(spec, {**in_one, "micro_batch": passes})
            if estimate_memory(teacher, cut, rewards, on_gpu).total <= available:
                extra = " --set train.gradient_checkpointing=true" if checkpointing else ""
                return f"Use `--set train.micro_batch={passes}{extra}`: the step stays the same."
            most = passes // 2  # what the passes before leave behind takes its room as well
    fixed = estimate.weights + estimate.gradients_and_optimizers
    if fixed <= available:
        return "Lower `train.batch_size`: what a step keeps of its samples alone is too much."
    return (
        f"The weights and optimizers alone need {fixed / 2**30:.0f} GiB: use a larger GPU, "
        "or several with `--gpus N --shard`."
    )


def with_train(spec: DistillSpec, changes: Mapping[str, Any]) -> DistillSpec:
    """The spec with another loop."""
    return spec.model_copy(update={"train": spec.train.model_copy(update=dict(changes))})


def surely_fits(teacher: Teacher, spec: DistillSpec, available: int) -> bool:
    """Whether a run asks for so little that it need not be rehearsed, which takes its time.

    Of the small teachers inside dimo a step keeps fewer bytes for a token than their backbone has
    weights, and fewer than 100 for a weight. What a refinement adds is not in that.
    """
    if teacher.name not in SHIPPED or isinstance(spec, RefineSpec):
        return False
    weights = sum(weight.numel() for weight in teacher.backbone.parameters())
    tokens = spec.train.batch_size * spec.train.accumulate * teacher.space.length
    return weights * (100 + tokens) <= available


def estimate_memory(
    teacher: Teacher,
    spec: DistillSpec,
    rewards: Callable[[RefineSpec], Rewards] = lambda spec: {},
    on_gpu: bool | None = None,
) -> MemoryEstimate:
    """Peak memory of a step, rehearsed on tensors without memory.

    `rewards` makes the blank rewards of a refinement. `on_gpu` says where the run would be; None:
    where it would be on this machine.
    """
    if on_gpu is None:
        on_gpu = torch.cuda.is_available() and spec.train.device != "cpu"
    spec = spec.model_copy(update={"train": local_train(spec.train, divide(spec.train))})
    half = spec.train.is_half(on_gpu)
    averages = 0 if on_gpu and spec.student.ema.offload else averages_of(spec)
    spec = with_chunks(teacher, spec, on_gpu)
    most = MOST_CHUNKS * chunk_rows(spec)
    batch, small = spec.train.batch_size, max(1, most // teacher.space.length // 2)
    make = partial(make_method, rewards=rewards)

    def at(size: int) -> MemoryEstimate:
        return at_batch(teacher, spec, make, size, half, averages)

    if batch <= 2 * small:
        return at(batch)
    one, two = at(small).parts, at(2 * small).parts
    # Whatever grows with the batch does so in proportion, once there are several chunks.
    share = (batch - small) / small
    grown = {name: round(part + share * (two[name] - part)) for name, part in one.items()}
    return MemoryEstimate(**grown)


def averages_of(spec: DistillSpec) -> int:
    """How many running averages a run keeps of its student."""
    return 1 + (len(spec.student.ema.post_hoc.lengths) if spec.student.ema.post_hoc.every else 0)


def snapshot_bytes(teacher: Teacher, spec: DistillSpec) -> int:
    """What a run's snapshots of further averages take on disk: trained weights, in float32."""
    every, steps = spec.student.ema.post_hoc.every, spec.train.steps
    if every is None:
        return 0
    backbone = teacher.backbone
    frozen = backbone.embedding_parameters() if spec.student.freeze_embeddings else []
    _, size = trained_bytes(backbone, spec.student.lora, frozen)
    count = -(-steps // every)  # one more at the last step, where it is not one of them
    return len(spec.student.ema.post_hoc.lengths) * size * count


def checkpoint_bytes(teacher: Teacher, spec: DistillSpec) -> int:
    """About what a checkpoint takes: student, averages, auxiliary, and two moments of each role."""
    backbone = teacher.backbone
    frozen = backbone.embedding_parameters() if spec.student.freeze_embeddings else []
    _, student = trained_bytes(backbone, spec.student.lora, frozen)
    _, auxiliary = trained_bytes(backbone, spec.auxiliary_lora, [])
    return (3 + averages_of(spec)) * student + 3 * auxiliary


def with_chunks(teacher: Teacher, spec: DistillSpec, on_gpu: bool) -> DistillSpec:
    """The spec with the chunks that it has on a GPU or a CPU."""
    rows = spec.loss.chunk_tokens or rows_at_once(teacher.space, on_gpu)
    loss = spec.loss.model_copy(update={"chunk_tokens": rows})
    return spec.model_copy(update={"loss": loss})


def chunk_rows(spec: DistillSpec) -> int:
    """Positions whose logits exist at a time."""
    assert spec.loss.chunk_tokens is not None
    return spec.loss.chunk_tokens


def at_batch(
    teacher: Teacher,
    spec: DistillSpec,
    make: Callable[..., Distillation],
    batch: int,
    half: bool,
    averages: int,
) -> MemoryEstimate:
    """The estimate at a batch that is rehearsed as it is; further passes add what each keeps."""
    own = {"batch_size": batch, "accumulate": 1, "micro_batch": "auto"}
    train = spec.train.model_copy(update=own)
    build = partial(make, spec.model_copy(update={"train": train}))
    most_rows = 2 * chunk_rows(spec)
    found = rehearse(teacher, build, half, most_rows, averages)
    return MemoryEstimate(**found.of_passes(spec.train.accumulate))


def make_method(
    spec: DistillSpec,
    teacher: Teacher,
    generator: torch.Generator,
    autocast: Callable[[], AbstractContextManager[None]],
    rewards: Callable[[RefineSpec], Rewards],
) -> Distillation:
    """The method of a spec, with stand-ins for what it would load."""
    if not isinstance(spec, RefineSpec):
        supplies = blank_supplies(teacher)
        return Distillation(teacher, spec, generator, autocast, supplies=supplies)
    at_once = spec.gan.model_copy(update={"start": 0})  # a later step has all losses
    return Refinement(
        teacher,
        spec.model_copy(update={"gan": at_once}),
        generator,
        autocast,
        start=teacher.backbone,
        data=BlankImages(teacher) if spec.gan.enabled else None,
        rewards=rewards(spec),
        supplies=blank_supplies(teacher),
    )


def sharded_estimate(
    estimate: MemoryEstimate, backbone: Backbone, spec: DistillSpec, processes: int
) -> MemoryEstimate:
    """The memory of one process where the blocks are spread over `processes` of them.

    Student, auxiliary and average are, and a base that is under both; else the teacher is whole. A
    few blocks are gathered at a time.
    """
    frozen = backbone.embedding_parameters() if spec.student.freeze_embeddings else []
    student = trained_bytes(backbone, spec.student.lora, frozen)
    auxiliary = trained_bytes(backbone, spec.auxiliary_lora, frozen)
    roles = [student, auxiliary] if getattr(spec, "distill_weight", 1.0) else [student]
    away = 1 - 1 / processes
    in_blocks = sum(sum(blocks) for blocks, _ in roles)
    spread = in_blocks / sum(whole for _, whole in roles)
    gathered = GATHERED * max(size for blocks, _ in roles for size in blocks)
    weights = estimate.weights - (in_blocks + sum(student[0])) * away + gathered
    if spec.student.lora.rank and spec.auxiliary_lora.rank:
        weights -= base_bytes(backbone, spec) * away
    return replace(
        estimate,
        weights=round(weights),
        gradients_and_optimizers=round(estimate.gradients_and_optimizers * (1 - spread * away)),
    )


def base_bytes(backbone: Backbone, spec: DistillSpec) -> int:
    """Bytes of the linear maps in the blocks of a frozen base; what may be more counts as bf16."""
    numbers = sum(module.in_features * module.out_features for module in linear_maps(backbone))
    return numbers * (1 if spec.teacher.weights == "int8" else 2)


def trained_bytes(
    backbone: Backbone, lora: LoraSpec, frozen: Sequence[Tensor]
) -> tuple[list[int], int]:
    """Bytes of what is trained of a role: of each of its blocks, and all together."""
    if not lora.rank:
        sizes = [sum(p.nbytes for p in block.parameters()) for block in blocks_of(backbone)]
        whole = sum(p.nbytes for p in backbone.parameters()) - sum(p.nbytes for p in frozen)
        return sizes, whole
    network = new_adapters(without_memory(backbone), lora, 0)
    blocks = [trained_part(block) for block in blocks_of(network) if has_adapters(block)]
    sizes = [sum(p.nbytes for p in block.parameters()) for block in blocks]
    return sizes, sum(p.nbytes for p in trained_part(network).parameters())


def without_memory(backbone: Backbone) -> Backbone:
    """A network of the same shapes on the meta device."""
    return copy.deepcopy(backbone).to("meta")


def blank_rewards(spec: RefineSpec) -> Rewards:
    """The rewards of a spec in shapes alone, for a rehearsal; the held-out one takes its place."""
    models = {name: without_content(blank_reward(name)) for name in reward_names(spec)}
    for model in models.values():
        model.gradient_checkpointing = True

    def score(name: str, images: Tensor, texts: Sequence[str]) -> Tensor:
        return models[name](images, models[name].prepare(texts))

    return {name: (partial(score, name), weight) for name, weight in spec.reward.terms.items()}
