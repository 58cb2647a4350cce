"""FPD: what a step of the teacher makes of images, and the drift towards it."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Generation
from dimo_cli.engine.objectives.fpd import grid_means, straight_through
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import SpecError
from dimo_cli.planning.rehearsal import BlankImages
from dimo_cli.specs.refine import RefineSpec, RelaxSpec
from dimo_cli.specs.resolve import resolve_spec
from tests.conftest import small_spec
from tests.helpers.tabular import tabular_teacher
from tests.helpers.worlds import world_of


def run_of(teacher, settings=None, /, **groups):
    spec = small_spec(**groups)
    objective = {"kind": "fpd", **(settings or {})}
    spec = type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, spec, generator, contextlib.nullcontext)


@pytest.mark.parametrize("masked", [1, 2, 3])
def test_what_a_step_of_the_teacher_leaves_alone_is_the_law_of_the_sheet(golden, masked):
    """Exactly its joint law for single tokens (Gibbs), and the product of marginals for all."""
    world = world_of(golden("objectives/world_three.safetensors"))
    law = golden("objectives/closed.safetensors")["fpd.first.stationary"][masked - 1]
    run = run_of(tabular_teacher(world), {"ratio": masked / 3})
    draws, generator = 40_000, torch.Generator().manual_seed(2)
    full = world.states[world.counts == 0]
    picked = torch.multinomial(law, draws, replacement=True, generator=generator)
    tokens = full[picked].view(draws, 3, 1)
    (fpd,) = run.losses.objectives
    run.generator = generator
    refined = fpd.refined(tokens, run.teacher.conditioner.null(draws))
    assert ((refined != tokens).flatten(1).sum(-1) <= masked).all()
    numbers = (refined.flatten(1) * torch.tensor([9, 3, 1])).sum(-1)
    seen = torch.bincount(numbers, minlength=27) / draws
    assert ((seen - law).abs() < 5 * (law * (1 - law) / draws).sqrt() + 1e-9).all()


def test_drawn_tokens_have_the_gradient_of_their_probabilities():
    logits = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(4, (2, 3, 2))
    weights, probe = straight_through(logits, tokens), torch.randn(2, 3, 2, 4).double()
    assert torch.equal(weights.detach().round(), torch.nn.functional.one_hot(tokens, 4).double())
    (found,) = torch.autograd.grad((weights * probe).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * probe).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_features_are_averaged_over_a_grid_or_over_parts_of_a_row():
    features = torch.arange(64.0).view(1, 64, 1).expand(2, 64, 3)
    means = grid_means(features, (8, 8), 4)
    assert means.shape == (16, 2, 3)
    assert means[0, 0, 0] == torch.tensor([0.0, 1, 8, 9]).mean()
    assert grid_means(features[:, :5], None, 4).shape == (5, 2, 3)
    assert grid_means(features, (2, 32), 4).shape == (8, 2, 3)


@pytest.mark.parametrize("place", ["three", "two_groups"])
def test_it_asks_something_of_every_group_of_a_token_and_nothing_of_their_sum(golden, place):
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    teacher = tabular_teacher(world)
    run = run_of(teacher)
    (fpd,) = run.losses.objectives
    space, count = teacher.space, 64
    logits = torch.randn(count, space.length, space.groups, space.codes, requires_grad=True)
    tokens = logits.detach().argmax(-1)
    cond = teacher.conditioner.null(count)
    generation = Generation(cond, tokens > 9, 0.0, None, tokens, None, None)
    gradient, loss = fpd.ask(generation, logits, RelaxSpec(), run.generator)
    assert gradient.shape == logits.shape
    assert gradient.sum(-1).abs().max() < 1e-5
    assert (gradient.abs().amax((0, 3)) > 0).all()
    assert loss.shape == (count,)


@pytest.mark.parametrize("groups", [{}, {"teacher": {"guidance": 2.0}}], ids=["plain", "guided"])
def test_it_trains_the_student_without_an_auxiliary(teacher, groups):
    run = run_of(teacher, **groups)
    before = {name: t.clone() for name, t in run.student.state_dict().items()}
    run.step(0)
    values = run.step(1, measure=True).values
    assert set(run.networks()) == {"student"}
    assert values["fpd_loss"] > 0
    assert "auxiliary_loss" not in values
    assert any(not torch.equal(t, before[name]) for name, t in run.student.state_dict().items())


def test_settings_out_of_range_are_refused():
    for settings in ({"ratio": 0}, {"ratio": 1.5}, {"layers": 0}, {"speed": 3}):
        spec = small_spec().model_dump()
        with pytest.raises(ValueError, match="of objective fpd"):
            type(small_spec()).model_validate({**spec, "objectives": [{"kind": "fpd", **settings}]})


def test_beside_a_gan_whose_weight_follows_masked_tokens_it_is_refused(teacher):
    spec = resolve_spec(RefineSpec, preset="digits-gan", environment={},
                        sets=["objectives=[fpd]"]).spec  # fmt: skip

    def refinement(spec):
        return Refinement(teacher, spec, torch.Generator(), contextlib.nullcontext,
                          start=teacher.backbone, data=BlankImages(teacher))  # fmt: skip

    with pytest.raises(SpecError, match=r"`gan\.weight` is auto"):
        refinement(spec)
    numbered = spec.model_copy(update={"gan": spec.gan.model_copy(update={"weight": 1.0})})
    run = refinement(numbered)
    assert set(run.networks()) == {"student", "discriminator"}
