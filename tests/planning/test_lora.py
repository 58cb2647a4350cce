"""What runs of adapters need: one copy of the teacher, and a few bytes for each factor."""

import pytest

from benchmarks.networks import random_teacher
from dimo_cli.engine.lora import LoraSpec, new_adapters, trained_part
from dimo_cli.planning.memory import estimate_memory, sharded_estimate, snapshot_bytes
from dimo_cli.planning.rehearsal import autocast
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.registry import load_skeleton, load_teacher
from dimo_cli.teachers.spread import linear_maps
from dimo_cli.training.precision import store_in_bf16
from tests.conftest import small_spec
from tests.helpers.tiny import ARCHITECTURES
from tests.planning.test_memory import distillation, measured

pytestmark = pytest.mark.usefixtures("whole_rehearsals")
RANK = 8


def estimated(teacher, student=0, auxiliary="student"):
    spec = small_spec(
        student={"lora": {"rank": student}},
        auxiliary={"lora": {"rank": auxiliary}},
        train={"batch_size": 1},
    )
    return estimate_memory(teacher, spec, on_gpu=False)


def numbers_in(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_base_is_in_memory_once_and_nothing_of_it_is_trained():
    teacher = load_teacher("digits")
    size = numbers_in(teacher.backbone)
    factors = numbers_in(trained_part(new_adapters(teacher.backbone, LoraSpec(rank=RANK), 0)))
    whole, adapted = estimated(teacher), estimated(teacher, RANK)
    # Student, auxiliary and average, 4 bytes a number.
    assert whole.weights - adapted.weights == 4 * 3 * (size - factors)
    assert whole.gradients_and_optimizers > 2 * 8 * size * 0.9  # but for the embeddings
    assert adapted.gradients_and_optimizers < 2 * 12 * factors * 1.1


def test_an_auxiliary_of_its_own_weights_counts_with_them():
    teacher = load_teacher("digits")
    size = numbers_in(teacher.backbone)
    factors = numbers_in(trained_part(new_adapters(teacher.backbone, LoraSpec(rank=RANK), 0)))
    mixed, adapted = estimated(teacher, RANK, 0), estimated(teacher, RANK)
    assert mixed.weights - adapted.weights == 4 * (size - factors)


# Lumina-DiMOO with few blocks and narrow ones, which have the proportions of its own.
SHALLOW = {
    **ARCHITECTURES["lumina-dimoo"],
    "d_model": 128,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 4,
    "mlp_hidden_size": 384,
    "image_size": 24,
}


@pytest.mark.parametrize(
    ("weights", "half"),
    [
        ("fp32", False),
        ("int8", True),
        pytest.param("fp32", True, marks=pytest.mark.slow),
        pytest.param("int8", False, marks=pytest.mark.slow),
    ],
)
def test_what_lumina_dimoo_is_estimated_to_take_is_what_it_takes_with_few_blocks(weights, half):
    teacher = random_teacher("lumina-dimoo", SHALLOW)
    spec = small_spec(
        teacher={"name": "lumina-dimoo", "guidance": 4.0, "weights": weights},
        student={"lora": {"rank": 64}},
        train={"batch_size": 1, "gradient_checkpointing": True},
    )
    expected = estimate_memory(teacher, spec, on_gpu=half).total
    method = distillation(teacher, spec, autocast(half))
    if half:
        store_in_bf16(teacher.backbone)
    assert measured(method) == pytest.approx(expected, rel=0.05)


def test_ranks_that_share_the_base_have_a_part_of_it_each(teacher):
    maps = sum(module.weight.numel() for module in linear_maps(teacher.backbone))
    factors = numbers_in(trained_part(new_adapters(teacher.backbone, LoraSpec(rank=RANK), 0)))
    for weights, width in (("bf16", 2), ("int8", 1)):
        spec = small_spec(student={"lora": {"rank": RANK}}, teacher={"weights": weights})
        whole = estimate_memory(teacher, spec, on_gpu=False)
        one, four = (sharded_estimate(whole, teacher.backbone, spec, n).weights for n in (1, 4))
        assert one - four == pytest.approx(0.75 * (width * maps + 3 * 4 * factors), rel=1e-6)
    spec = small_spec(student={"lora": {"rank": RANK}}, auxiliary={"lora": {"rank": 0}})
    whole = estimate_memory(teacher, spec, on_gpu=False)
    assert sharded_estimate(whole, teacher.backbone, spec, 4).weights > 4 * maps


def test_snapshots_of_further_averages_are_of_adapters_alone(teacher):
    factors = numbers_in(trained_part(new_adapters(teacher.backbone, LoraSpec(rank=RANK), 0)))
    spec = small_spec(student={"ema": {"post_hoc": {"every": 2}}, "lora": {"rank": RANK}})
    assert snapshot_bytes(teacher, spec) == 3 * 2 * 4 * factors


@pytest.mark.slow
def test_lumina_dimoo_at_rank_64_fits_a_card_of_80_gb_and_in_int8_one_of_24():
    sets = ["train.accumulate=1", "student.lora.rank=64", "condition.prompts=prompts.txt"]
    totals = {}
    for weights in ("fp32", "int8"):
        wanted = [*sets, f"teacher.weights={weights}"]
        spec = resolve_spec(DistillSpec, preset="lumina-dimoo", sets=wanted).spec
        totals[weights] = estimate_memory(load_skeleton(spec.teacher), spec, on_gpu=True).total
    assert totals["fp32"] < 80e9
    assert totals["int8"] < 24e9


@pytest.mark.slow
def test_meissonic_at_rank_64_fits_a_card_of_24_gb():
    sets = ["train.batch_size=1", "train.accumulate=1", "train.gradient_checkpointing=true"]
    sets += ["student.lora.rank=64", "condition.prompts=prompts.txt"]
    spec = resolve_spec(DistillSpec, preset="meissonic", sets=sets).spec
    found = estimate_memory(load_skeleton(spec.teacher), spec, on_gpu=True)
    assert found.total < 24e9
