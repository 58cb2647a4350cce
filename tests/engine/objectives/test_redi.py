"""ReDi against the numbers of its authors' code, in a world that can be counted, and as a run."""

import contextlib

import pytest
import torch
from pydantic import ValidationError

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.objectives.redi import SHARES, interpolated, smoothed_gradient
from dimo_cli.engine.pairs import PairStore
from dimo_cli.errors import SpecError
from tests.conftest import small_spec
from tests.helpers.tiny import tiny_teacher


@pytest.mark.parametrize("schedule", ["linear", "square", "root", "cosine", "arccos", "start"])
def test_what_is_seen_of_a_pair_is_what_the_authors_code_sees(golden, schedule):
    io = golden("objectives/redi.safetensors")
    name = "distill" if schedule == "start" else schedule
    share = SHARES[schedule](io[f"{name}.r"])
    found = interpolated(io["x0"], io["x1"], io[f"{name}.mask_uniform"], share)
    assert torch.equal(found, io[f"{name}.x_t"])


def test_the_first_round_mixes_masks_and_random_codes_as_the_authors_fine_tuning_does(golden):
    """There a share of 1 - r is replaced, by masks and codes drawn apart from the image."""
    io = golden("objectives/redi.safetensors")
    is_mask = io["stage0.mask_or_random_uniform"] < 0.3
    start = torch.where(is_mask, 8, io["stage0.random_codes"])
    share = SHARES["linear"](io["stage0.r"])
    found = interpolated(start, io["x1"], io["stage0.mask_uniform"], share)
    assert torch.equal(found, io["stage0.x_t"])


def test_loss_and_gradient_are_those_of_the_authors_code(golden):
    io = golden("objectives/redi.safetensors")
    gradient, loss = smoothed_gradient(io["logits"].log_softmax(-1), io["x1"].flatten(1), 0.1)
    scale = 1 / (2 * loss.numel())  # two passes are added up
    torch.testing.assert_close(gradient * scale, io["linear.plain.grad_logits"], atol=1e-6, rtol=0)
    torch.testing.assert_close(loss.sum() * scale, io["linear.plain.loss"], atol=0, rtol=1e-5)


def slots_drawn(states, posterior, chance):
    """The law of the next state [N, N], where each slot is drawn anew with some probability."""
    step = torch.ones(len(states), len(states), dtype=torch.float64)
    for slot in range(states.shape[1]):
        stays = (states[:, None, slot] == states[None, :, slot]).double() * (1 - chance)
        codes = posterior.shape[-1]
        drawn = torch.zeros(len(states), len(states), dtype=torch.float64)
        reached = states[:, slot] < codes
        drawn[:, reached] = posterior[:, slot, :][:, states[reached, slot]]
        step *= stays + chance * drawn
    return step


def seen_law(coupling, starts, ends, share):
    """P(x_t, x_1) [N, E] of pairs with the law `coupling` [N, E], by `interpolated`."""
    joint = torch.zeros(len(starts), len(ends), dtype=torch.float64)
    for kept in torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])):
        chance = torch.where(kept == 0, share, 1 - share).prod()
        for number, end in enumerate(ends):
            x_t = interpolated(starts, end, kept, torch.tensor([0.5]))
            places = x_t[:, 0] * 3 + x_t[:, 1]
            joint[:, number].index_add_(0, places, chance * coupling[:, number])
    return joint


def total_correlation(law):
    """Of pairs of slots, given each start [N, 2, 2]."""
    product = law.sum(-1)[..., None] * law.sum(-2)[..., None, :]
    return torch.where(law > 0, law * (law / product).log(), 0.0).sum((-1, -2))


@pytest.mark.parametrize("steps", [2, 8])
def test_in_a_counted_world_total_correlation_falls_round_by_round(golden, steps):
    """The theorem, with students that are exact: after each round pairs agree more."""
    closed = golden("objectives/closed.safetensors")
    starts, weight = closed["redi.starts"], closed["redi.start_probability"]
    ends = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    law = torch.tensor([[0.45, 0.05, 0.05, 0.45]], dtype=torch.float64).expand(9, 4)
    for expected in closed[f"redi.steps{steps}.numbers"]:
        correlation = (weight * total_correlation(law.view(9, 2, 2))).sum()
        torch.testing.assert_close(correlation, expected[0], atol=1e-10, rtol=0)
        reached = torch.eye(9, dtype=torch.float64)
        for step in range(steps):
            share = SHARES["linear"](torch.tensor(step / steps, dtype=torch.float64))
            seen = seen_law(weight[:, None] * law, starts, ends, share)
            of_slots = torch.stack([seen @ (ends == code).double() for code in (0, 1)], -1)
            posterior = (of_slots / seen.sum(-1)[:, None, None]).nan_to_num(0.5)
            reached = reached @ slots_drawn(starts, posterior, 1 / (steps - step))
        places = ends[:, 0] * 3 + ends[:, 1]
        law = reached[:, places]


def spec_with(objective, **groups):
    spec = small_spec(**groups)
    return type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})


def run_of(teacher, spec, folder, notes=None):
    torch.manual_seed(0)
    said = notes.append if notes is not None else lambda line: None
    supplies = Supplies(pairs=PairStore(teacher, spec, folder, said))
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, spec, generator, contextlib.nullcontext, supplies=supplies)


REDI = {"kind": "redi", "rounds": 3, "pairs": 16, "sampler_steps": 2}


def test_each_round_has_pairs_of_its_own_and_a_second_run_finds_them(teacher, tmp_path):
    spec, notes = spec_with(REDI), []
    run = run_of(teacher, spec, tmp_path, notes)
    for step in range(6):
        values = run.step(step, measure=True).values
    assert ["the teacher digits" in note for note in notes] == [True, False, False]
    assert {"redi_loss", "entropy"} <= set(values)
    assert set(run.networks()) == {"student", "redi_source"}
    again = run_of(teacher, spec, tmp_path, notes)
    for step in range(6):
        again.step(step, measure=step == 3)  # what is measured draws nothing of the run's
    assert len(notes) == 3
    for name, weight in run.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], weight)


def test_a_run_that_goes_on_within_a_round_has_its_pairs(teacher, tmp_path):
    spec = spec_with(REDI)
    run = run_of(teacher, spec, tmp_path)
    for step in range(4):
        run.step(step)
    networks = {name: network.state_dict() for name, network in run.networks().items()}
    notes = []
    later = run_of(teacher, spec, tmp_path, notes)
    for name, network in later.networks().items():
        network.load_state_dict(networks[name])
    later.losses.begin(3)
    assert notes == []
    assert torch.equal(later.losses.passes[0].pairs.end, run.losses.passes[0].pairs.end)


def test_the_last_round_sees_starts_alone_unless_told_otherwise(teacher, tmp_path):
    for ends, schedule in ((True, "start"), (False, "linear")):
        objective = {**REDI, "schedule": "linear", "ends_at_start": ends}
        run = run_of(teacher, spec_with(objective), tmp_path)
        run.losses.begin(4)
        assert run.losses.passes[0].schedule == schedule
        run.losses.begin(0)
        assert run.losses.passes[0].schedule == "linear"


def test_it_learns_beside_di_m_o_and_of_tokens_with_groups(tmp_path):
    maskbit = tiny_teacher("maskbit")
    assert maskbit.space.groups > 1
    spec = spec_with(REDI, train={"batch_size": 2, "steps": 3})
    spec = spec.model_copy(update={"objectives": (*spec.objectives, *spec_with("dimo").objectives)})
    run = run_of(maskbit, spec, tmp_path)
    values = run.step(0, measure=True).values
    assert {"redi_loss", "divergence"} <= set(values)


def test_several_steps_are_refused_with_the_reason(teacher, tmp_path):
    with pytest.raises(SpecError, match="the later ones of several steps"):
        run_of(teacher, spec_with(REDI, student={"steps": [1, 2]}), tmp_path)


def test_what_it_has_no_field_for_is_refused_by_name():
    with pytest.raises(ValidationError, match=r"round of objective redi: .*it has weight, rounds"):
        spec_with({"kind": "redi", "round": 2})
    with pytest.raises(ValidationError, match=r"rounds of objective redi: .*greater than or equal"):
        spec_with({"kind": "redi", "rounds": 0})
