"""The memory estimate is made of things that can be counted."""

from dimo_cli.engine.memory import estimate_memory, saved_bytes
from tests.conftest import small_spec


def test_four_networks_two_of_them_trained(teacher):
    estimate = estimate_memory(teacher, small_spec())
    count = sum(p.numel() for p in teacher.backbone.parameters())
    frozen = teacher.backbone.token_embedding.weight.numel()
    assert estimate.weights == 4 * 4 * count
    assert estimate.gradients_and_optimizers == 2 * 3 * 4 * (count - frozen)
    assert estimate.total > estimate.weights


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(teacher):
    small, large = (saved_bytes(teacher.backbone, teacher, batch) for batch in (4, 8))
    assert 1.9 < large / small < 2.1
    plain = estimate_memory(teacher, small_spec())
    checkpointed = estimate_memory(teacher, small_spec(train={"gradient_checkpointing": True}))
    assert checkpointed.activations < 0.3 * plain.activations


def test_accumulating_passes_needs_no_more_memory_than_one(teacher):
    one, four = (
        estimate_memory(teacher, small_spec(train={"accumulate": passes})) for passes in (1, 4)
    )
    assert one == four


def test_estimating_allocates_nothing_large(teacher):
    huge = small_spec(train={"batch_size": 100_000})
    assert estimate_memory(teacher, huge).activations > 50 * 2**30
