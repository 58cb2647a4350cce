"""The memory estimate is what a step really takes, whatever the step consists of."""

import contextlib

import pytest
import torch

from benchmarks.measuring import bytes_of, peak_bytes
from dimo_cli.data.shards import builtin_dataset
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.lora import own_copy
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.refine import Refinement
from dimo_cli.planning.memory import blank_rewards, estimate_memory, snapshot_bytes
from dimo_cli.rewards.shapes import load as load_shapes_reward
from dimo_cli.runs.refine import LabeledTokens
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.precision import matrices
from tests.conftest import small_spec

pytestmark = pytest.mark.usefixtures("whole_rehearsals")
CPU = torch.device("cpu")


def measured(method, *others):
    """The most bytes that a method, its average and its teacher take over three steps."""
    ema = Ema(own_copy(method.student), method.student)
    with peak_bytes(CPU) as found:
        for step in range(3):
            method.step(step)
            ema.update(0.9)
    teacher = method.teacher
    networks = [teacher.backbone, teacher.tokenizer, *method.backbones(), ema.network]
    networks += method.networks().values()
    tensors = [t for n in (*networks, *others) for t in (*n.parameters(), *n.buffers())]
    return bytes_of({id(tensor): tensor for tensor in tensors}.values()) + found["peak"]


def distillation(teacher, spec, autocast=contextlib.nullcontext):
    return Distillation(teacher, spec, torch.Generator().manual_seed(0), autocast)


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"loss": {"chunk_tokens": 50}, "teacher": {"guidance": 2.0}},
        {"train": {"batch_size": 32, "gradient_checkpointing": True}},
        {"auxiliary": {"share_x_tilde": True, "soft_weight": 0.5}},
        {"auxiliary": {"fresh_samples": True}, "train": {"accumulate": 3}},
        {"masking": {"content": "soft"}, "student": {"freeze_embeddings": False}},
        {"loss": {"entropy_bonus": 0.1, "weight": {"kind": "adaptive"}}},
    ],
    ids=lambda groups: ",".join(f"{k}.{j}" for k, v in groups.items() for j in v) or "plain",
)
def test_the_estimate_is_what_a_step_takes(teacher, groups):
    spec = small_spec(**groups)
    expected = estimate_memory(teacher, spec).total
    assert measured(distillation(teacher, spec)) == pytest.approx(expected, rel=0.05)


def refinement(teacher, spec, **parts):
    generator = torch.Generator().manual_seed(0)
    return Refinement(
        teacher, spec, generator, contextlib.nullcontext, start=teacher.backbone, **parts
    )


def test_a_discriminator_and_real_images_are_part_of_it(teacher):
    spec = RefineSpec.model_validate(
        {**small_spec().model_dump(), "gan": {"enabled": True, "heads": 2}}
    )
    data = LabeledTokens(builtin_dataset("digits"), teacher)
    expected = estimate_memory(teacher, spec).total
    method = refinement(teacher, spec, data=data)
    assert measured(method) == pytest.approx(expected, rel=0.15)


def test_rewards_are_part_of_it():
    teacher = load_teacher("shapes")
    spec = RefineSpec.model_validate(
        {
            **small_spec(train={"batch_size": 4}).model_dump(),
            "reward": {"terms": {"shapes_clip": 1.0}},
            "teacher": {"name": "shapes"},
        }
    )
    reward = load_shapes_reward("shapes_clip")
    reward.gradient_checkpointing = True
    rewards = {"shapes_clip": (lambda images, texts: reward(images, reward.prepare(texts)), 1.0)}
    expected = estimate_memory(teacher, spec, blank_rewards).total
    method = refinement(teacher, spec, rewards=rewards)
    assert measured(method, reward) == pytest.approx(expected, rel=0.15)


def test_four_networks_two_of_them_trained(teacher):
    estimate = estimate_memory(teacher, small_spec())
    count = sum(p.numel() for p in teacher.backbone.parameters())
    frozen = teacher.backbone.token_embedding.weight.numel()
    assert estimate.weights == 4 * 4 * count
    # Both have two moments; their gradients are not there at the same time.
    moments = 2 * 2 * 4 * (count - frozen)
    assert moments <= estimate.gradients_and_optimizers < 1.3 * moments
    assert estimate.total > estimate.weights


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(teacher):
    small, large = (
        estimate_memory(teacher, small_spec(train={"batch_size": size})) for size in (32, 64)
    )
    assert 1.9 < large.activations / small.activations < 2.1
    checkpointed = estimate_memory(
        teacher, small_spec(train={"batch_size": 64, "gradient_checkpointing": True})
    )
    assert checkpointed.activations < 0.5 * large.activations


def test_accumulating_passes_needs_hardly_more_memory_than_one(teacher):
    one, four = (
        estimate_memory(teacher, small_spec(train={"accumulate": passes, "batch_size": 32}))
        for passes in (1, 4)
    )
    assert one.total < four.total < 1.2 * one.total


def test_half_precision_halves_what_is_kept_and_the_teachers_matrices(teacher):
    spec = small_spec(train={"batch_size": 64})
    whole, half = (estimate_memory(teacher, spec, on_gpu=on_gpu) for on_gpu in (False, True))
    assert half.activations < 0.8 * whole.activations
    rounded = sum(parameter.numel() for parameter in matrices(teacher.backbone))
    assert half.weights == whole.weights - 2 * rounded


def test_on_a_gpu_an_average_may_wait_elsewhere(teacher):
    kept, offloaded = (
        estimate_memory(teacher, small_spec(student={"ema": {"offload": offload}}), on_gpu=True)
        for offload in (False, True)
    )
    count = sum(parameter.numel() for parameter in teacher.backbone.parameters())
    assert kept.weights - offloaded.weights == 4 * count


def test_estimating_allocates_nothing_large(teacher):
    huge = small_spec(train={"batch_size": 100_000})
    assert estimate_memory(teacher, huge).activations > 50 * 2**30


def test_averages_for_other_lengths_are_counted_in_memory_and_on_disk(teacher):
    plain = small_spec()
    post_hoc = {"post_hoc": {"every": 2}}
    spec = small_spec(student={"ema": post_hoc})
    weights = sum(parameter.numel() for parameter in teacher.backbone.parameters())
    trained = weights - sum(p.numel() for p in teacher.backbone.embedding_parameters())
    more = estimate_memory(teacher, spec).weights - estimate_memory(teacher, plain).weights
    assert more == pytest.approx(2 * 4 * weights, rel=0.02)
    assert snapshot_bytes(teacher, plain) == 0
    assert snapshot_bytes(teacher, spec) == 3 * 2 * 4 * trained  # after steps 2, 4 and 6
