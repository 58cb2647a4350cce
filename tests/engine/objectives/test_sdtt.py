"""SDTT against the numbers of its authors' code, in a world that can be counted, and as a run."""

import contextlib
from dataclasses import replace
from itertools import product

import pytest
import torch
from pydantic import ValidationError

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.input_noise import noise_of
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.objectives.sdtt import (
    loss_and_gradient,
    mask_chance,
    reveal_chance,
    step_length,
)
from dimo_cli.engine.pairs import PairStore
from dimo_cli.errors import SpecError
from dimo_cli.specs.objectives import SdttSpec
from dimo_cli.teachers.protocol import LATENT
from tests.conftest import small_spec
from tests.helpers.tabular import tabular_teacher
from tests.helpers.tiny import tiny_teacher
from tests.helpers.worlds import world_of

MASK = 8


def over_codes(logits):
    """As the authors have it: the mask is never said."""
    return logits.masked_fill(torch.arange(9) == MASK, -1e6).log_softmax(-1)


def test_images_are_masked_as_in_the_authors_code(golden):
    io = golden("objectives/sdtt.safetensors")
    masked = io["mask_uniform"] < mask_chance(io["t"])[:, None]
    assert torch.equal(io["x0"].masked_fill(masked, MASK), io["x_t"])


@pytest.mark.parametrize("grid", ["paper", "released", "imdm"])
def test_the_teachers_first_step_reveals_what_it_does_in_the_authors_code(golden, grid):
    """IMDM's grid ends elsewhere, which a network that is told no time does not notice."""
    io = golden("objectives/sdtt.safetensors")
    dt = io[f"{grid}.dt"].item()
    chance = reveal_chance(io["t"].double(), dt, "released" if grid == "released" else "paper")
    law = over_codes(io[f"{grid}.teacher_logits"][0]).exp().double() * chance[:, None, None]
    law[..., MASK] = (1 - chance)[:, None]
    u = io[f"{grid}.uniform"][0].double()
    picked = (law / (1e-10 - (u + 1e-10).log())).argmax(-1)
    masked = io["x_t"] == MASK
    x_s = torch.where(masked, picked, io["x_t"])
    assert torch.equal(x_s, io[f"{grid}.x_seen"][1])
    early, late = (over_codes(logits) for logits in io[f"{grid}.teacher_logits"])
    target = torch.where((x_s != MASK)[..., None], early, late)[masked][:, :MASK]
    torch.testing.assert_close(target, io[f"{grid}.target"][masked][:, :MASK], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "name"), [("reverse_kl", "bwd_kl"), ("forward_kl", "fwd_kl")])
def test_losses_and_gradients_are_those_of_the_authors_code(golden, kind, name):
    io = golden("objectives/sdtt.safetensors")
    masked = io["x_t"] == MASK
    log_p, target = (
        over_codes(io["student_logits"])[masked][:, :MASK],
        io["paper.target"][masked][:, :MASK],
    )
    gradient, loss = loss_and_gradient(kind, log_p, target)
    torch.testing.assert_close(loss.mean(), io[f"loss.{name}"], atol=0, rtol=1e-5)
    expected = io[f"grad.{name}"][masked][:, :MASK]
    torch.testing.assert_close(gradient / masked.sum(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "tvd", "mse"])
def test_every_gradient_is_that_of_its_loss(kind, generator):
    logits, target = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    gradient, loss = loss_and_gradient(kind, logits.log_softmax(-1), target.log_softmax(-1))
    (expected,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient.detach(), expected, atol=1e-12, rtol=0)


def targets_of(world, state, chance):
    """All targets [n, S, V] that the teacher's two steps can give, and how likely each is [n]."""
    slots, codes = world.teacher.shape[1:]
    base = (codes + 1) ** torch.arange(slots - 1, -1, -1)
    first = world.teacher[(state * base).sum()]
    open_slots = (state == codes).nonzero().flatten().tolist()
    targets, weights = [], []
    for drawn in product(range(codes + 1), repeat=len(open_slots)):
        x_s, weight = state.clone(), 1.0
        for slot, code in zip(open_slots, drawn, strict=True):
            x_s[slot] = code
            weight *= 1 - chance if code == codes else chance * first[slot, code].item()
        second = world.teacher[(x_s * base).sum()]
        targets.append(torch.where((x_s != codes)[:, None], first, second))
        weights.append(weight)
    return torch.stack(targets).log(), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("chance", [0.25, 0.5])
@pytest.mark.parametrize("state", [0, 1])
def test_the_student_comes_to_rest_where_the_sheet_says(golden, state, chance):
    """The geometric mean of targets for KL(p || target), the arithmetic one the other way round."""
    closed = golden("objectives/closed.safetensors")
    world = world_of(golden("objectives/world_three.safetensors"))
    name = f"sdtt.first.state{state}"
    masked = closed[name] == 3
    targets, weights = targets_of(world, closed[name], chance)
    targets = targets[:, masked]
    for kind, short in (("reverse_kl", "bwd"), ("forward_kl", "fwd")):
        rest = closed[f"{name}.rho{chance}.{short}_optimum"][masked].log().expand_as(targets)
        gradient, loss = loss_and_gradient(kind, rest, targets)
        assert (weights[:, None, None] * gradient).sum(0).abs().max() < 1e-10
        if short == "bwd":
            value = closed[f"{name}.rho{chance}.bwd_value"][masked]
            torch.testing.assert_close((weights @ loss), value, atol=1e-10, rtol=0)


def spec_with(objective, **groups):
    spec = small_spec(init={"mask_ratio": 1}, **groups)
    return type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})


def run_of(teacher, spec, folder=None, data=None):
    torch.manual_seed(0)
    supplies = Supplies(data, PairStore(teacher, spec, folder) if folder else None)
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, spec, generator, contextlib.nullcontext, supplies=supplies)


def test_the_engines_targets_have_the_mean_that_is_counted(golden):
    closed = golden("objectives/closed.safetensors")
    world = world_of(golden("objectives/world_three.safetensors"))
    spec = spec_with({"kind": "sdtt", "images": "student", "rounds": 1, "from_steps": 2})
    run = run_of(tabular_teacher(world), spec)
    run.losses.begin(0)
    sdtt, count = run.losses.passes[0], 20_000
    state = closed["sdtt.first.state0"].view(1, 3, 1).expand(count, 3, 1)
    cond = run.draw_conditions(count)
    run.generator = torch.Generator().manual_seed(0)
    t = torch.full((count,), 2 * step_length(sdtt.settings, 0))  # so that a half is revealed
    found = sdtt.two_steps(state, torch.ones(state.shape, dtype=torch.bool), cond, t, 0.0)
    targets = found(torch.arange(3 * count)).view(count, 3, 3)
    expected = closed["sdtt.first.state0.rho0.5.expected_log_target"].float()
    error = targets.std(0) / count**0.5
    assert ((targets.mean(0) - expected).abs() < 5 * error).all()


def test_each_round_halves_the_steps_and_has_the_student_as_its_teacher(teacher, tmp_path):
    spec = spec_with({"kind": "sdtt", "images": "student", "rounds": 3, "from_steps": 8})
    run = run_of(teacher, spec)
    sdtt, weight = run.losses.passes[0], "blocks.0.qkv.weight"
    lengths, teachers = [], []
    for step in range(6):
        before = run.student.state_dict()[weight].clone()
        values = run.step(step, measure=True).values
        lengths.append(step_length(sdtt.settings, sdtt.rounds.current))
        teachers.append(torch.equal(sdtt.teacher.teacher.backbone.state_dict()[weight], before))
    assert lengths == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1 / 2], rel=1e-4)
    assert teachers == [True, True, True, False, True, False]  # the first step has no rate
    assert "sdtt_loss" in values
    assert set(run.networks()) == {"student", "sdtt_teacher"}


def test_a_teacher_that_was_the_student_has_its_noise_and_its_latent(teacher, monkeypatch):
    objective = {"kind": "sdtt", "images": "student", "rounds": 2, "from_steps": 8}
    init = {"noise": "mask", "embed_noise": 0.5, "mask_ratio": 1}
    spec = small_spec(init=init, student={"latent": True}, train={"steps": 2})
    run = run_of(
        teacher, type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})
    )
    source, noises, latents = run.losses.passes[0].rounds.source, [], []
    noise_of(source).register_forward_hook(lambda *_: noises.append(1))
    hidden = source.hidden
    monkeypatch.setattr(
        source,
        "hidden",
        lambda seen, cond: (latents.append(LATENT in cond.tensors), hidden(seen, cond))[1],
    )
    run.step(0)
    assert not noises
    run.step(1)
    assert (len(noises), latents) == (2, [True, True])


def test_it_learns_from_the_teachers_images_and_tokens_with_groups(tmp_path):
    maskbit = tiny_teacher("maskbit")
    maskbit = replace(maskbit, sampler=replace(maskbit.sampler, steps=4))
    objective = {"kind": "sdtt", "images": "teacher", "teacher_images": 4,
                 "rounds": 1, "from_steps": 2}  # fmt: skip
    spec = spec_with(objective, teacher={"guidance": 2.0}, train={"batch_size": 2})
    assert run_of(maskbit, spec, tmp_path).step(0, measure=True).skipped is None


def test_a_step_in_passes_is_the_step_in_one(teacher):
    found = []
    for train in ({"batch_size": 8}, {"batch_size": 4, "accumulate": 2}):
        objective = {"kind": "sdtt", "images": "student", "rounds": 1, "from_steps": 4}
        run = run_of(teacher, spec_with(objective, train=train))
        for step in range(2):
            run.step(step)
        found.append(run.student.state_dict())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, atol=2e-5, rtol=1e-4)


def test_what_it_cannot_be_used_with_is_refused_with_the_reason(teacher):
    objective = {"kind": "sdtt", "images": "student"}
    spec = spec_with(objective, train={"steps": 10})
    mixed = spec.model_copy(update={"init": small_spec(init={"mask_ratio": 0.6}).init})
    with pytest.raises(SpecError, match="shows the student masks and tokens of images"):
        run_of(teacher, mixed)
    with pytest.raises(SpecError, match=r"7 rounds do not fit into `train.steps` \(6\)"):
        run_of(teacher, spec_with(objective))
    with pytest.raises(ValidationError, match="3 rounds need from_steps of at least 8, not 4"):
        SdttSpec(rounds=3, from_steps=4)
