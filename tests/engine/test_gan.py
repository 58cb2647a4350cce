"""The discriminator: the teacher looks, light heads judge, gradients reach the logits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.gan import (
    Discriminator,
    augmentation_mask,
    discriminator_loss,
    even_taps,
    generator_loss,
    masked_embeds,
    plane_of,
)
from dimo_cli.errors import SpecError
from dimo_cli.teachers.digits import training_tokens
from dimo_cli.teachers.registry import load_skeleton


@pytest.fixture
def discriminator(teacher):
    torch.manual_seed(0)
    return Discriminator(teacher, heads=2, width=8)


@pytest.fixture
def real(teacher):
    tokens, labels = training_tokens()
    return tokens[:6], teacher.conditioner.labels(labels[:6])


@pytest.mark.parametrize(
    ("name", "heads", "millions"), [("maskgit", 4, 72), ("maskbit", 4, 85), ("maskgen-l", 6, 65)]
)
def test_discriminators_have_about_the_published_size(name, heads, millions):
    teacher = load_skeleton(name)
    with torch.device("meta"):
        discriminator = Discriminator(teacher, heads=heads)
    count = sum(parameter.numel() for parameter in discriminator.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.15)
    assert len(discriminator.taps) == heads


def test_taps_are_evenly_spaced_and_end_at_the_last_layer():
    assert even_taps(24, 4) == (5, 11, 17, 23)
    assert even_taps(16, 6) == (2, 5, 7, 10, 13, 15)
    assert even_taps(3, 3) == (0, 1, 2)
    with pytest.raises(SpecError, match="has 3 layers"):
        even_taps(3, 4)


def test_a_layer_that_is_not_there_is_refused(teacher):
    with pytest.raises(SpecError, match="no layer 4 to tap: 0 to 3"):
        Discriminator(teacher, taps=(1, 4), width=8)


def test_taps_of_a_coarser_resolution_find_their_place_in_the_grid():
    assert plane_of(64, (8, 8)) == (8, 8)
    assert plane_of(16, (8, 8)) == (4, 4)
    assert plane_of(8, (8, 4)) == (4, 2)
    for length in (63, 32, 4096):
        with pytest.raises(SpecError, match="does not fit the grid"):
            plane_of(length, (8, 8))


@pytest.mark.parametrize("name", ["amused-512", "titok-s128"])
def test_heads_follow_the_layout_of_the_tokens(name):
    teacher = load_skeleton(name)
    with torch.device("meta"):
        discriminator = Discriminator(teacher, heads=2, width=8)
    shape = (2, teacher.space.length, teacher.space.groups)
    embeds = teacher.backbone.embed(torch.zeros(shape, dtype=torch.long, device="meta"))
    cond = teacher.conditioner.blank(2).to("meta")
    assert discriminator.to("meta")(embeds, cond).shape == (2,)
    assert (discriminator.heads[0].plane is None) == (teacher.space.grid is None)


def test_only_heads_are_parameters_and_the_teachers_weights_are_shared(teacher, discriminator):
    names = {name.split(".")[0] for name, _ in discriminator.named_parameters()}
    assert names == {"heads", "mlp"}
    assert {name.split(".")[0] for name in discriminator.state_dict()} == names
    pairs = zip(teacher.backbone.parameters(), discriminator.backbone.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_the_backbone_stays_in_eval_mode_whatever_the_teacher_does(teacher, discriminator):
    teacher.backbone.train()
    discriminator.train()
    assert not any(module.training for module in discriminator.backbone.modules())
    assert teacher.backbone.training


def test_a_trainable_backbone_is_refused(teacher):
    teacher.backbone.requires_grad_(True)
    with pytest.raises(ValueError, match="frozen"):
        Discriminator(teacher)


def test_gradients_reach_the_logits_and_leave_the_teacher_alone(
    teacher, discriminator, real, generator
):
    _, cond = real
    logits = torch.randn(6, 64, 1, teacher.space.vocab, generator=generator, requires_grad=True)
    mask = augmentation_mask(teacher.space, 6, 0.0, 0.5, generator)
    embeds = masked_embeds(teacher.backbone, teacher.space, logits.softmax(-1), mask)
    generator_loss(discriminator(embeds, cond)).sum().backward()
    moved = logits.grad.abs().sum((-1, -2)) > 0
    assert torch.equal(moved, ~mask.squeeze(-1)), "masked slots say nothing, all others do"
    assert all(parameter.grad is None for parameter in teacher.backbone.parameters())


def test_gradients_at_the_embeddings_are_those_of_finite_differences(teacher, real, generator):
    teacher = copy.deepcopy(teacher)
    teacher.backbone.double()
    discriminator = Discriminator(teacher, heads=2, width=8).double().eval()
    tokens, cond = real
    embeds = teacher.backbone.embed(tokens).detach()
    leaf = embeds.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(leaf, cond).sum(), leaf)
    direction = torch.randn(embeds.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (discriminator(embeds + h * direction, cond).sum() for h in (1e-5, -1e-5))
    assert ((ahead - behind) / 2e-5).item() == pytest.approx(
        (gradient * direction).sum().item(), rel=1e-5
    )


def test_real_tokens_and_certain_probabilities_look_the_same_under_one_mask(
    teacher, real, generator
):
    tokens, _ = real
    mask = augmentation_mask(teacher.space, 6, 0.2, 0.8, generator)
    certain = F.one_hot(tokens, teacher.space.vocab).float()
    backbone, space = teacher.backbone, teacher.space
    as_tokens = masked_embeds(backbone, space, tokens, mask)
    torch.testing.assert_close(as_tokens, masked_embeds(backbone, space, certain, mask))
    hidden = backbone.embed(torch.full_like(tokens, space.mask_id))
    torch.testing.assert_close(as_tokens[mask[..., 0]], hidden[mask[..., 0]])


def test_mask_ratios_are_uniform_between_their_limits(generator):
    space = load_skeleton("maskbit").space
    mask = augmentation_mask(space, 4000, 0.25, 0.75, generator)
    assert mask.shape == (4000, space.length, space.groups)
    ratios = mask.float().mean((1, 2))
    assert ratios.min() >= 0.25 - 1e-3
    assert ratios.max() <= 0.75 + 1e-3
    assert ratios.mean().item() == pytest.approx(0.5, abs=0.01)
    assert ratios.std().item() == pytest.approx(0.5 / math.sqrt(12), rel=0.05)
    assert not torch.equal(mask[..., 0], mask[..., 1]), "slots are masked, not positions"
    assert not augmentation_mask(space, 3, 0.0, 0.0, generator).any()
    assert augmentation_mask(space, 3, 1.0, 1.0, generator).all()


def test_losses_are_the_non_saturating_ones():
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log())
    extreme = torch.tensor([-200.0, 200.0])
    assert discriminator_loss(extreme, extreme).isfinite()
    assert generator_loss(extreme).isfinite().all()


def test_noise_and_dropout_act_in_training_alone_and_follow_the_generator(teacher, real):
    torch.manual_seed(0)
    discriminator = Discriminator(teacher, heads=2, width=8, noise=0.5)
    tokens, cond = real
    embeds = teacher.backbone.embed(tokens)

    def judge(seed):
        return discriminator(embeds, cond, torch.Generator().manual_seed(seed))

    assert torch.equal(judge(1), judge(1))
    assert not torch.equal(judge(1), judge(2))
    with pytest.raises(ValueError, match="generator"):
        discriminator(embeds, cond)
    discriminator.eval()
    assert torch.equal(judge(1), judge(2))
    dropping = Discriminator(teacher, heads=2, width=8, dropout=0.5)
    assert not torch.equal(dropping(embeds, cond), dropping(embeds, cond))
    dropping.eval()
    assert torch.equal(dropping(embeds, cond), dropping(embeds, cond))


def test_the_condition_enters_through_the_backbone(teacher, discriminator, real):
    tokens, cond = real
    embeds = teacher.backbone.embed(tokens)
    other = teacher.conditioner.labels((cond.tensors["label"] + 1) % 10)
    assert not torch.allclose(discriminator(embeds, cond), discriminator(embeds, other))


def test_it_learns_to_tell_digits_from_noise(teacher, generator):
    torch.manual_seed(0)
    discriminator = Discriminator(teacher, taps=(1, 3), width=16)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.999))
    tokens, labels = training_tokens()
    for _ in range(25):
        rows = torch.randint(len(tokens), (16,), generator=generator)
        fake = torch.rand(16, 64, 1, 17, generator=generator).softmax(-1)
        mask = augmentation_mask(teacher.space, 16, 0.0, 0.5, generator)
        cond = teacher.conditioner.labels(labels[rows])
        logits = [
            discriminator(masked_embeds(teacher.backbone, teacher.space, seen, mask), cond)
            for seen in (tokens[rows], fake)
        ]
        loss = discriminator_loss(*logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    assert (logits[0] > logits[1]).float().mean() > 0.9
