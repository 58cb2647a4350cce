"""The small functions of the step, against the released code's tables."""

import pytest
import torch

from dimo_cli.engine.auxiliary import auxiliary_loss
from dimo_cli.engine.schedules import (
    draw_mask_ratio,
    ema_decay,
    guidance_scale,
    noise_sigma,
    perturb_embeddings,
    warmup_factor,
)
from dimo_cli.specs.distill import FixedNoise, RandomRatio, TeacherGuidance, WarmupNoise

NOISES = {
    "fix_0.1": FixedNoise(sigma=0.1),
    "fix_0.": FixedNoise(sigma=0.0),
    "warmup_linear_1000": WarmupNoise(sigma=1.0, shape="linear", steps=1000),
    "warmup_exp_1000": WarmupNoise(sigma=1.0, shape="exponential", steps=1000),
    "warmup_cos_1000": WarmupNoise(sigma=1.0, shape="cosine", steps=1000),
}


@pytest.mark.parametrize("name", NOISES)
def test_embedding_noise_follows_the_released_schedules(golden, name):
    for step, sigma in golden("maskgit/schedules.json")["noise_perturb"][name].items():
        assert noise_sigma(NOISES[name], int(step)) == pytest.approx(sigma, abs=1e-6)


def test_ema_decay_ramps_up_as_released(golden):
    for step, decay in golden("maskgit/schedules.json")["ema_rate"]["values"].items():
        assert ema_decay(int(step), 0.9999) == pytest.approx(decay, abs=1e-6)
    assert ema_decay(0, 0.99, warmup=False) == 0.99


def test_learning_rate_warms_up_from_zero(golden):
    table = golden("maskgit/schedules.json")["lr_factor_constant_with_warmup_100"]
    for step, factor in table.items():
        assert warmup_factor(int(step), 100) == pytest.approx(factor)
    assert warmup_factor(0, 0) == 1.0


def test_guidance_depends_on_the_mask_ratio_as_named():
    m = torch.tensor([0.0, 0.5, 1.0])
    assert guidance_scale(TeacherGuidance(scale=3), m).tolist() == [3, 3, 3]
    assert guidance_scale(TeacherGuidance(kind="linear", scale=3), m).tolist() == [1, 2, 3]
    cosine = guidance_scale(TeacherGuidance(kind="cosine", scale=3), m)
    torch.testing.assert_close(cosine, torch.tensor([1.0, 2.0, 3.0]))


def test_noise_keeps_the_variance_of_normal_embeddings(generator):
    embeds = torch.randn(64, 64, 16, generator=generator)
    noisy = perturb_embeddings(embeds, 0.6, generator)
    assert noisy.std() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(perturb_embeddings(embeds, 0.0, generator), embeds)


def test_random_mask_ratio_stays_between_its_bounds(generator):
    drawn = [draw_mask_ratio(RandomRatio(low=0.3, high=0.5), generator) for _ in range(500)]
    assert 0.3 <= min(drawn) < 0.32
    assert 0.48 < max(drawn) <= 0.5


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.3, 2.0), (1.0, 1.0)])
def test_auxiliary_loss_is_that_of_the_released_code(golden, alpha, temperature):
    data = golden("maskgit/loss.safetensors")
    prefix = f"aux.alpha{alpha}.T{temperature}"
    mask = data["mask"].flatten(1)
    logits = data["aux_logits"].clone().requires_grad_()
    loss = auxiliary_loss(
        logits[mask],
        data["sampled_code"].flatten(1)[mask],
        data["student_logits"][mask],
        alpha,
        temperature,
        label_smoothing=0.1,
    )
    (loss.total / mask.sum()).backward()
    for part, value in (("loss", loss.total), ("hard", loss.hard)):
        torch.testing.assert_close(
            (value / mask.sum()).detach(), data[f"{prefix}.{part}"].squeeze(), rtol=1e-5, atol=1e-7
        )
    torch.testing.assert_close(logits.grad, data[f"{prefix}.grad_aux_logits"], atol=1e-6, rtol=0)
    if alpha:
        torch.testing.assert_close(
            (loss.soft / mask.sum()).detach(),
            data[f"{prefix}.soft"].squeeze(),
            rtol=1e-5,
            atol=1e-7,
        )
