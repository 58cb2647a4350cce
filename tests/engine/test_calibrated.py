"""The weight that makes the loss a KL, and where there is none."""

import contextlib

import pytest
import torch

from dimo_cli.engine.calibrated import (
    LAWS,
    KlMonitor,
    calibrated_weights,
    count_probabilities,
    nats_at_tokens,
)
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.field import TeacherLogits
from dimo_cli.engine.masking import draw_mask, draw_ratio, masked_count
from dimo_cli.engine.objective import MaskedRows
from dimo_cli.errors import SpecError
from tests.conftest import small_spec
from tests.helpers.worlds import student_of, world_of


@pytest.mark.parametrize("schedule", LAWS)
def test_counts_are_drawn_as_their_law_says(schedule, generator):
    slots, draws = 7, 20_000
    ratio = draw_ratio(schedule, draws, generator)
    seen = torch.bincount(masked_count(ratio, slots), minlength=slots + 1)[1:] / draws
    law = count_probabilities(schedule, slots)
    assert law.sum() == pytest.approx(1)
    error = (law * (1 - law) / draws).sqrt()
    assert ((seen - law).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("place", ["three", "two_groups", "equal_bits"])
def test_weights_are_those_of_the_sheet(golden, place):
    world = golden(f"objectives/world_{place}.safetensors")
    slots = int(world["shape"][0] * world["shape"][1])
    torch.testing.assert_close(
        calibrated_weights("arccos", slots), world["law.arccos_calibrated.weight"]
    )
    uniform = slots / torch.arange(1, slots + 1, dtype=torch.float64)
    torch.testing.assert_close(uniform, world["law.calibrated.weight"])


@pytest.mark.parametrize("name", ["factorised", "mixture", "engine"])
@pytest.mark.parametrize("place", ["three", "two_groups", "equal_bits"])
def test_at_the_drawn_tokens_it_is_the_kl_to_the_teacher(golden, place, name):
    """Exactly with the exact auxiliary; else a lower bound, by the auxiliary's excess."""
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    student = student_of(world.tensors, name)
    probability = world.tensors["law.arccos_calibrated.probability"]
    weight = world.tensors["law.arccos_calibrated.weight"]
    scale = torch.cat([weight.new_zeros(1), weight])[world.counts]
    chance = student.weights[:, None] * student.reaches(world, probability)
    codes = world.teacher.shape[-1]

    def estimate(auxiliary):
        total = 0
        for token in range(codes):
            tokens = torch.full(world.states.shape, token)
            nats = nats_at_tokens(auxiliary.log(), world.teacher.log(), tokens)
            drawn = student.probs[:, None, :, token] * world.masked
            total += (chance * scale * (drawn * nats.nan_to_num()).sum(-1)).sum()
        return total

    own = student.tensors
    torch.testing.assert_close(estimate(student.auxiliary), own["kl_qp"][0], atol=1e-9, rtol=0)
    wrong = own["wrong_auxiliary.estimate"][0]
    found = estimate(0.7 * student.auxiliary + 0.3 / codes)
    torch.testing.assert_close(found, wrong, atol=1e-9, rtol=0)
    torch.testing.assert_close(found + own["wrong_auxiliary.excess"][0], own["kl_qp"][0])


def test_a_calibrated_weight_multiplies_each_samples_gradient(teacher):
    plain, calibrated = (
        Distillation(teacher, small_spec(loss={"weight": weight}), torch.Generator(),
                     contextlib.nullcontext)
        for weight in ("constant", "calibrated")
    )  # fmt: skip
    mask = torch.zeros(8, 64, 1, dtype=torch.bool)
    for row in range(8):
        mask[row, : 8 * row + 1] = True
    found, usual = (
        run.student_update.sample_weights(None, None, mask) for run in (calibrated, plain)
    )
    ratio = found / usual
    expected = calibrated_weights("arccos", 64)[8 * torch.arange(8)]
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "masking",
    [
        {"student": "truncated_normal", "auxiliary": "truncated_normal"},
        {"method": "bernoulli"},
        {"lowest": 0.1},
        {"highest": 0.9},
        {"content": "soft"},
    ],
    ids=lambda masking: next(iter(masking)),
)
def test_where_counts_or_drawn_tokens_are_missing_no_weight_calibrates(teacher, masking):
    spec = small_spec(loss={"weight": "calibrated"}, masking=masking)
    with pytest.raises(SpecError, match=r"`loss.weight` is calibrated, but `masking\."):
        Distillation(teacher, spec, torch.Generator(), contextlib.nullcontext)
    with pytest.raises(ValueError, match=r"needs loss\.reduction sum"):
        small_spec(loss={"weight": "calibrated", "reduction": "mean"})


def test_a_run_logs_its_kl_to_the_teacher_where_its_masks_allow_it(teacher):
    hidden = {"method": "bernoulli"}, {"content": "soft"}
    for masking, is_there in (({}, True), *((masking, False) for masking in hidden)):
        run = Distillation(teacher, small_spec(masking=masking), torch.Generator().manual_seed(0),
                           contextlib.nullcontext)  # fmt: skip
        values = run.step(0, measure=True).values
        assert ("teacher_kl" in values) == is_there
    assert "teacher_kl" not in run.step(1).values


def test_it_is_zero_where_the_auxiliary_says_what_the_teacher_says(teacher):
    run = Distillation(teacher, small_spec(), torch.Generator().manual_seed(0),
                       contextlib.nullcontext)  # fmt: skip
    assert abs(run.step(0, measure=True).values["teacher_kl"]) < 1e-5


@pytest.mark.parametrize("name", ["factorised", "mixture", "engine"])
def test_as_sampled_it_is_the_kl_within_five_standard_errors(golden, name):
    """With the exact auxiliary, arccos masks and tokens drawn by the student."""
    world = world_of(golden("objectives/world_three.safetensors"))
    student, draws, slots, codes = student_of(world.tensors, name), 40_000, 3, 3
    generator = torch.Generator().manual_seed(3)
    inits = torch.multinomial(student.weights, draws, replacement=True, generator=generator)
    flat = student.probs[inits].flatten(0, 1)
    tokens = torch.multinomial(flat, 1, generator=generator).view(draws, slots)
    ratio = draw_ratio("arccos", draws, generator)
    mask = draw_mask((draws, slots, 1), ratio, generator).squeeze(-1)
    x_tilde = tokens.masked_fill(mask, codes)
    state = (x_tilde * (codes + 1) ** torch.arange(slots - 1, -1, -1)).sum(-1)
    assert torch.equal(world.states[state], x_tilde)
    sample, slot = mask.nonzero(as_tuple=True)

    def logits(table):
        return table[state[sample], slot][:, None].log()

    each = torch.zeros(draws, dtype=torch.float64)
    monitor = KlMonitor("arccos", slots)
    for start in range(0, draws, draws // 20):  # sums of batches, whose spread is the error
        part = (sample >= start) & (sample < start + draws // 20)
        each[start // (draws // 20)] = monitor.sums(
            MaskedRows(
                teacher=lambda part=part: TeacherLogits(logits(world.teacher)[part]),
                auxiliary=lambda part=part: logits(student.auxiliary)[part],
                student=lambda: None,
                tokens=lambda part=part: tokens[sample, slot][part][:, None],
                slots=torch.ones(int(part.sum()), 1, dtype=torch.bool),
                masked=lambda part=part: mask.sum(-1)[sample][part],
                scale=torch.ones(int(part.sum()), 1, 1),
                temperatures=(1.0, 1.0),
            )
        )
    means = each[:20] / (draws // 20)
    expected = student.tensors["kl_qp"][0] / slots
    assert abs(means.mean() - expected) < 5 * means.std() / 20**0.5
