"""The small functions of the step, against the released code's tables."""

import re

import pytest
import torch

from dimo_cli.engine.auxiliary import auxiliary_loss
from dimo_cli.engine.schedules import (
    draw_mask_ratio,
    ema_decay,
    guidance_scale,
    noise_over_spread,
    noise_sigma,
    perturb_embeddings,
    schedule_factor,
    warmup_factor,
)
from dimo_cli.specs.init import FixedNoise, RandomRatio, WarmupNoise
from dimo_cli.specs.optimizer import RateSchedule
from dimo_cli.specs.teacher import TeacherGuidance

SHAPES = {"": "linear", "linear": "linear", "exp": "exponential", "cos": "cosine"}


def released_noise(name):
    """The noise that the released code means by a name such as `warmup_cos_1000` or `fix_0.1`."""
    kind, *shape, number = name.split("_")
    if kind == "fix":
        return FixedNoise(sigma=float(number))
    return WarmupNoise(sigma=1.0, shape=SHAPES["".join(shape)], steps=int(number))


def test_embedding_noise_follows_the_released_schedules(golden):
    tables = golden("maskgit/schedules.json")["noise_perturb"]
    assert tables
    for name, table in tables.items():
        for step, sigma in table.items():
            assert noise_sigma(released_noise(name), int(step)) == pytest.approx(sigma, abs=1e-6)


def test_ema_decay_ramps_up_as_released(golden):
    table = golden("maskgit/schedules.json")["ema_rate"]
    for step, decay in table["values"].items():
        assert ema_decay(int(step), table["max"]) == pytest.approx(decay, abs=1e-6)
    assert ema_decay(0, 0.99, warmup=False) == 0.99


def test_learning_rate_warms_up_from_zero(golden):
    prefix, schedules = "lr_factor_constant_with_warmup_", golden("maskgit/schedules.json")
    names = [name for name in schedules if name.startswith(prefix)]
    assert names
    for name in names:
        for step, factor in schedules[name].items():
            steps = int(name.removeprefix(prefix))
            assert warmup_factor(int(step), steps) == pytest.approx(factor)
    assert warmup_factor(0, 0) == 1.0


def test_a_rate_stays_or_falls_to_its_floor_along_a_line_or_a_half_cosine():
    def at(schedule, *steps):
        return [schedule_factor(schedule, step, 100, 300) for step in steps]

    assert at(RateSchedule(), 0, 150, 10_000) == [1.0, 1.0, 1.0]
    linear = RateSchedule(kind="linear", floor=0.2)
    assert at(linear, 50, 100, 200, 300, 400) == pytest.approx([1, 1, 0.6, 0.2, 0.2])
    cosine = RateSchedule(kind="cosine")
    assert at(cosine, 100, 150, 200, 300) == pytest.approx([1, 0.5 + 8**-0.5, 0.5, 0])
    earlier = RateSchedule(kind="linear", steps=200)  # than the run ends
    assert at(earlier, 150, 200, 299) == pytest.approx([0.5, 0, 0])
    held = RateSchedule(kind="linear", hold=0.5)
    assert at(held, 100, 150, 225, 300) == pytest.approx([1, 1, 0.5, 0])
    assert at(RateSchedule(kind="linear", hold=0.1), 100, 200, 300) == at(
        RateSchedule(kind="linear"), 100, 200, 300
    )  # it is in the warm-up still


def test_guidance_depends_on_the_mask_ratio_as_named():
    m = torch.tensor([0.0, 0.5, 1.0])
    assert guidance_scale(TeacherGuidance(scale=3), m).tolist() == [3, 3, 3]
    assert guidance_scale(TeacherGuidance(kind="linear", scale=3), m).tolist() == [1, 2, 3]
    cosine = guidance_scale(TeacherGuidance(kind="cosine", scale=3), m)
    torch.testing.assert_close(cosine, torch.tensor([1.0, 2.0, 3.0]))
    papers = guidance_scale(TeacherGuidance(kind="linear", start=1.5, scale=2), m)
    assert papers.tolist() == [1.5, 1.75, 2]


def test_constant_guidance_starts_nowhere_else():
    with pytest.raises(ValueError, match=r"start \(1\.5\) needs kind linear or cosine"):
        TeacherGuidance(start=1.5, scale=2)


def test_noise_keeps_the_variance_of_normal_embeddings(generator):
    embeds = torch.randn(64, 64, 16, generator=generator)
    noisy = perturb_embeddings(embeds, 0.6, generator)
    assert noisy.std() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(perturb_embeddings(embeds, 0.0, generator), embeds)


def test_random_mask_ratio_stays_between_its_bounds(generator):
    drawn = [draw_mask_ratio(RandomRatio(low=0.3, high=0.5), generator) for _ in range(500)]
    assert 0.3 <= min(drawn) < 0.32
    assert 0.48 < max(drawn) <= 0.5


def test_auxiliary_loss_is_that_of_the_released_code(golden):
    data = golden("maskgit/loss.safetensors")
    smoothing = golden("maskgit/config.json")["loss"]["label_smoothing"]
    cases = [re.fullmatch(r"aux\.alpha([\d.]+)\.T([\d.]+)\.loss", name) for name in data]
    cases = [tuple(map(float, case.groups())) for case in cases if case]
    assert cases
    for alpha, temperature in cases:
        check_auxiliary_loss(data, alpha, temperature, smoothing)


def check_auxiliary_loss(data, alpha, temperature, smoothing):
    """Loss, its parts and its gradient as recorded for these settings."""
    prefix = f"aux.alpha{alpha}.T{temperature}"
    mask = data["mask"].flatten(1)
    logits, student = data["aux_logits"][mask], data["student_logits"][mask]
    targets = data["sampled_code"].flatten(1)[mask]

    def loss_of(soft_weight, smoothing=smoothing):
        settings = {"label_smoothing": smoothing, "scale": 1 / mask.sum().item()}
        return auxiliary_loss(logits, targets, student, soft_weight, temperature, **settings)

    loss, gradient = loss_of(alpha)
    everywhere = torch.zeros_like(data["aux_logits"])
    everywhere[mask] = gradient
    torch.testing.assert_close(everywhere, data[f"{prefix}.grad_aux_logits"], atol=1e-6, rtol=0)
    parts = {"loss": loss, "hard": loss_of(0)[0], **({"soft": loss_of(1)[0]} if alpha else {})}
    for part, found in parts.items():
        torch.testing.assert_close(
            found.total / mask.sum(), data[f"{prefix}.{part}"].squeeze(), rtol=1e-5, atol=1e-7
        )
    torch.testing.assert_close(loss.plain, loss_of(0, smoothing=0)[0].total, rtol=1e-6, atol=0)


def test_noise_is_told_in_units_of_the_embeddings_that_it_is_put_on(teacher):
    embeds = teacher.backbone.embed(torch.arange(64).view(1, 64, 1) % teacher.space.codes)
    expected = 0.1 / embeds.std(1).mean().item()
    assert noise_over_spread(0.1, teacher.backbone, teacher.space) == pytest.approx(expected)
