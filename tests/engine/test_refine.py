"""Refinement: all losses meet at the student's hidden states, and each does what it says."""

import contextlib

import pytest
import torch

from dimo_cli.data.shards import builtin_dataset
from dimo_cli.engine.norms import RunningNorm
from dimo_cli.engine.refine import Refinement
from dimo_cli.runs.refine import LabeledTokens, diversity
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.training.guard import Guard
from tests.conftest import small_spec


def brightness(images, texts):
    """A reward with a simple gradient."""
    return images.mean((1, 2, 3))


def refine_spec(**groups):
    """A run of seconds."""
    base = small_spec().model_dump()
    for name, values in groups.items():
        base[name] = {**base[name], **values} if isinstance(base.get(name), dict) else values
    return RefineSpec.model_validate(base)


GAN = {"enabled": True, "weight": 1.0, "width": 16, "heads": 2,
       "optimizer": {"learning_rate": 2e-3, "beta1": 0.0, "warmup_steps": 1}}  # fmt: skip


def build(teacher, generator, rewards=None, auxiliary_weights=None, **groups):
    spec = refine_spec(**groups)
    data = LabeledTokens(builtin_dataset("digits"), teacher) if spec.gan.enabled else None
    return Refinement(
        teacher,
        spec,
        generator,
        contextlib.nullcontext,
        start=teacher.backbone,
        data=data,
        rewards=rewards,
        auxiliary=auxiliary_weights,
    )


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(network, before):
    return [n for n, t in network.state_dict().items() if not torch.equal(t, before[n])]


def test_a_reward_alone_rises(teacher, generator):
    run = build(
        teacher,
        generator,
        rewards={"brightness": (brightness, 1.0)},
        distill_weight=0.0,
        reward={"terms": {"clip": 1.0}, "weight": 1.0},
        student={"optimizer": {"learning_rate": 1e-2, "warmup_steps": 0}},
    )
    seen = [run.step(step, measure=True).values["reward_brightness"] for step in range(12)]
    assert seen[-1] > seen[0] + 0.1


def test_the_weight_of_a_reward_multiplies_its_score(teacher, generator):
    run = build(
        teacher,
        generator,
        rewards={"brightness": (brightness, 3.0)},
        distill_weight=0.0,
        reward={"terms": {"clip": 3.0}},
    )
    weights = torch.rand(4, 64, 1, 17).softmax(-1)
    (reward,) = run.losses.objectives
    loss = reward.loss(weights, teacher.conditioner.labels(torch.arange(4)))
    images = teacher.tokenizer.decode_probs(weights)
    torch.testing.assert_close(loss, -3.0 * brightness(images, ()))


def test_the_gradient_of_all_soft_losses_is_that_of_their_sum(teacher, generator):
    """Each loss is differentiated to the logits by itself; together they must be one gradient."""
    run = build(
        teacher,
        generator,
        rewards={"brightness": (brightness, 2.0)},
        distill_weight=0.0,
        gan=GAN,
        reward={"terms": {"clip": 2.0}, "weight": 5.0},
    )
    gan, reward = run.losses.objectives
    gan.discriminator.eval()
    mask = torch.rand(8, 64, 1) < 0.3
    gan.draw_mask = lambda count: mask
    generation = run.generate(0)
    found = run.student_update.soft_gradient(generation)
    head = [p.grad.clone() for p in run.student.to_logits.parameters()]
    run.student.zero_grad()

    leaf = generation.hidden.detach().requires_grad_()
    weights = run.student.head(leaf).softmax(-1)
    total = gan.loss(weights, generation.cond) + 5.0 * reward.loss(weights, generation.cond)
    total.mean().backward()
    torch.testing.assert_close(found, leaf.grad, atol=1e-7, rtol=1e-4)
    for mine, parameter in zip(head, run.student.to_logits.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_one_step_trains_student_auxiliary_and_discriminator_and_nothing_else(teacher, generator):
    run = build(teacher, generator, gan=GAN)
    run.step(0)
    before = {name: snapshot(network) for name, network in run.networks().items()}
    frozen = snapshot(teacher.backbone)
    values = run.step(1, measure=True).values
    for name, network in run.networks().items():
        assert changed(network, before[name]), name
    assert changed(teacher.backbone, frozen) == []
    assert {"gan_loss", "discriminator_loss", "gan_norm", "distill_norm", "divergence"} <= set(
        values
    )


def test_the_discriminator_learns_to_tell_real_digits_from_the_teachers_one_step(
    teacher, generator
):
    run = build(
        teacher,
        generator,
        gan={**GAN, "start": 1000},
        student={"optimizer": {"learning_rate": 1e-9}},
    )
    values = [run.step(step, measure=True).values for step in range(40)]
    assert "gan_loss" not in values[-1]
    assert values[-1]["real_logit"] > values[-1]["fake_logit"] + 0.5
    assert values[-1]["discriminator_loss"] < values[0]["discriminator_loss"]


def test_an_automatic_weight_gives_both_gradients_one_norm(teacher, generator):
    run = build(teacher, generator, gan={**GAN, "weight": "auto", "start": 0})
    for step in range(3):
        values = run.step(step, measure=True).values
    assert values["gan_weight"] * values["gan_norm"] == pytest.approx(values["distill_norm"])
    assert values["weighted_gan_norm"] == pytest.approx(values["distill_norm"])
    assert values["gan_ratio"] == pytest.approx(1.0)


def test_norms_are_logged_with_their_weights_and_over_that_of_di_m_o(teacher, generator):
    run = build(
        teacher,
        generator,
        rewards={"brightness": (brightness, 1.0)},
        gan={**GAN, "weight": 7.0},
        reward={"terms": {"clip": 1.0}, "weight": 15.0},
    )
    for step in range(3):
        values = run.step(step, measure=True).values
    assert values["weighted_reward_norm"] == pytest.approx(15 * values["reward_norm"])
    assert values["weighted_gan_norm"] == pytest.approx(7 * values["gan_norm"])
    for name in ("reward", "gan"):
        ratio = values[f"weighted_{name}_norm"] / values["distill_norm"]
        assert values[f"{name}_ratio"] == pytest.approx(ratio)


def test_an_untrained_discriminator_is_not_amplified(teacher, generator):
    run = build(teacher, generator, gan={**GAN, "weight": "auto"})
    for step in (0, 50, 99):
        values = run.step(step, measure=True).values
        assert (values["gan_weight"], "gan_norm" in values) == (0, False)
    assert "gan_norm" in run.step(100, measure=True).values
    assert refine_spec(gan={"enabled": True, "weight": 5.0}).gan.first_step == 0


def test_the_auxiliary_goes_on_from_the_run_before_if_asked_to(teacher, generator):
    tracked = {name: tensor + 1 for name, tensor in teacher.backbone.state_dict().items()}
    run = build(teacher, generator, auxiliary_weights=tracked)
    assert changed(run.auxiliary, tracked) == []
    assert changed(build(teacher, generator).auxiliary, teacher.backbone.state_dict()) == []


def test_real_and_generated_digits_share_their_classes(teacher, generator):
    run = build(teacher, generator, gan=GAN)
    run.step(0)
    (judged,) = run.losses.objectives[0].judged
    dataset = builtin_dataset("digits")
    everything, labels = dataset.tokens[0].long(), dataset.conditions[0].long()
    for tokens, label in zip(judged.real, judged.cond.tensors["label"], strict=True):
        rows = (everything == tokens).flatten(1).all(1).nonzero().flatten()
        assert int(label) in labels[rows].tolist()


@pytest.mark.parametrize("kind", ["soft", "gumbel_st", "reinforce"])
def test_every_estimator_can_carry_a_refinement(teacher, generator, kind):
    run = build(
        teacher,
        generator,
        rewards={"brightness": (brightness, 1.0)},
        relax={"kind": kind},
        gan=GAN,
        reward={"terms": {"clip": 1.0}, "weight": 1.0},
    )
    for step in range(2):
        report = run.step(step, measure=True)
        assert report.skipped is None
    assert all(torch.isfinite(torch.tensor(v)) for v in report.values.values())


def test_without_any_loss_a_spec_is_refused():
    with pytest.raises(ValueError, match="neither --gan nor --reward"):
        refine_spec(distill_weight=0.0)
    with pytest.raises(ValueError, match="auto needs the Di"):
        refine_spec(distill_weight=0.0, gan={"enabled": True, "weight": "auto"})
    with pytest.raises(ValueError, match="above mask_high"):
        refine_spec(gan={"mask_low": 0.9, "mask_high": 0.1})


def test_the_guard_stops_when_a_number_stays_low():
    guard = Guard(patience=2, tolerance=0.1)
    for step, diversity_seen in enumerate([1.0, 0.95, 0.8, 1.0, 0.7]):
        guard.see(step, {"diversity": diversity_seen, "held_out_reward": -2.0})
        assert guard.reason is None
    resumed = Guard(patience=2, tolerance=0.1)
    resumed.load_state(guard.state())
    for one in (guard, resumed):
        one.see(5, {"diversity": 0.6, "held_out_reward": -2.1})
        assert "diversity fell from 1 to 0.6" in one.reason


def test_the_guard_measures_a_held_out_reward_from_its_best():
    guard = Guard(patience=1, tolerance=0.1, rising=("held_out_reward",))
    for step, reward in enumerate([10.0, 13.0, 12.0]):
        guard.see(step, {"diversity": 1.0, "held_out_reward": reward})
        assert guard.reason is None
    guard.see(3, {"diversity": 1.0, "held_out_reward": 11.0})
    assert "held out reward fell from 13 to 11" in guard.reason


@pytest.mark.parametrize("kind", ["soft", "gumbel_st"])
def test_a_refinement_in_several_passes_is_that_in_one(teacher, kind):
    found = []
    for batch, accumulate in ((16, 1), (4, 4)):
        generator = torch.Generator().manual_seed(0)
        train = {"steps": 6, "batch_size": batch, "accumulate": accumulate}
        gan = {**GAN, "weight": "auto", "start": 0, "feature_noise": 0.1}
        torch.manual_seed(0)
        run = build(teacher, generator, gan=gan, train=train, relax={"kind": kind})
        for step in range(3):
            report = run.step(step, measure=True)
        found.append(report.values)
    for name in ("distill_norm", "gan_norm", "gan_weight", "student_gradient"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-3), name


def test_a_norm_that_is_not_finite_is_not_remembered():
    norm = RunningNorm()
    norm.see(torch.tensor(2.0))
    norm.see(torch.tensor(torch.nan))
    assert norm.value == 2.0


@pytest.mark.parametrize("kind", ["gumbel_st", "reinforce"])
def test_the_discriminator_sees_what_the_student_is_judged_on(teacher, generator, kind):
    run = build(teacher, generator, gan=GAN, relax={"kind": kind})
    run.step(0)
    (judged,) = run.losses.objectives[0].judged
    assert torch.equal(judged.fake.amax(-1), torch.ones(judged.fake.shape[:-1]))


def test_without_the_distillation_loss_there_is_no_auxiliary(teacher, generator):
    run = build(teacher, generator, gan=GAN, distill_weight=0.0)
    run.step(0)
    assert set(run.networks()) == set(run.optimizers()) == {"student", "discriminator"}


def test_diversity_is_the_mean_distance_within_a_prompt():
    images = torch.zeros(4, 3, 8, 8)
    assert diversity(images, groups_of=2) == 0
    images[1] += 1  # 3 channels of 64 pixels, one apart: sqrt(192) within the first pair alone
    assert diversity(images, groups_of=2) == pytest.approx(192**0.5 / 2)
