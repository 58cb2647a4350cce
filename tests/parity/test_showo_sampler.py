"""Show-o's sampler against runs of the released code whose every draw was recorded."""

import itertools

import pytest
import torch

from dimo_cli.engine import many_steps
from dimo_cli.engine.many_steps import guided_head, reveal, sample_by_plan
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.showo import VARIANTS, blueprint
from dimo_cli.teachers.showo.sampler import showo_plan
from tests.parity.test_showo import assert_near, conditions, config, drawing, io, teacher, weights

__all__ = ["config", "drawing", "io", "teacher", "weights"]  # fixtures
RUNS = ("cfg", "nocfg", "hot", "inpaint", "onestep")


@pytest.fixture
def schedules(golden):
    return golden("showo/schedules.json")


@pytest.fixture
def settings(config):
    """Of a recorded run: its settings by their recorded names."""
    return config["golden"]["sampler_runs"].__getitem__


def run_of(io, name):
    """The tensors of a run, without its name."""
    start = f"sampler.{name}."
    return {key.removeprefix(start): value for key, value in io.items() if key.startswith(start)}


def plan_of(run, slots):
    """The plan of a recorded run."""
    return showo_plan(run["num_steps"], slots, run["standard_guidance"], run["temperature"])


def gumbel_of(uniform):
    """The noise that the released code makes of a uniform number."""
    return -torch.log((-torch.log(uniform.clamp(min=1e-20))).clamp(min=1e-20))


# ---------------------------------------------------------------- plans


def test_the_plan_masks_what_the_released_sampler_masks(schedules):
    assert schedules["sampler"]
    for table in schedules["sampler"]:
        steps = table["num_steps"]
        for slots, counts in table["seq"].items():
            if steps <= int(slots):
                plan = showo_plan(steps, int(slots), 1.0, 1.0)
                assert [step.masked_after for step in plan] == counts["masked_after_step"]
            noises = [step.choice_noise for step in plan]
            assert noises == pytest.approx(table["temperature_for_start_1"], abs=1e-6)
    cosine = SCHEDULES["cosine"](torch.tensor(schedules["mask_ratio_of_progress"]["progress"]))
    assert_near(cosine, torch.tensor(schedules["mask_ratio_of_progress"]["cosine"]), 1e-6)


def test_a_training_mask_is_the_rounded_share_of_the_cosine(schedules):
    assert schedules["training_masking"]
    for row in schedules["training_masking"]:
        ratio = SCHEDULES["cosine"](torch.tensor(row["t"])).clamp(min=0)
        assert max(1, round(row["seq_len"] * ratio.item())) == row["num_masked"]


@pytest.mark.parametrize("name", RUNS)
def test_the_plan_of_a_run_is_the_recorded_one(teacher, settings, name):
    run = settings(name)
    plan = plan_of(run, teacher.space.length)
    assert [step.choice_noise for step in plan] == pytest.approx(run["temperatures"], abs=1e-9)
    assert {step.guidance for step in plan} == {run["standard_guidance"]}
    assert run["standard_guidance"] == 1 + run["guidance_scale"]
    if run["start"] == "all masked":  # in the last step one is masked that is drawn all the same
        counts = [[step.masked_after] * len(run["mask_len"][0]) for step in plan]
        assert counts[:-1] == run["mask_len"][:-1]
        assert run["mask_len"][-1] == [1] * len(run["mask_len"][-1])


@pytest.mark.parametrize(("name", "steps", "guidance"), [("showo", 18, 2.75), ("showo-512", 50, 6)])
def test_variants_sample_as_their_authors_do(name, steps, guidance):
    sampler = blueprint(name, {}).sampler
    assert (sampler.steps, sampler.guidance, sampler.choice_noise) == (steps, guidance, 1.0)
    assert guidance == 1 + VARIANTS[name].weight
    counts = [255, 252, 247, 240, 232, 221, 209, 196, 181, 164, 146, 127, 108, 87, 66, 44, 22, 0]
    assert [step.masked_after for step in sampler.plan(18, 256, 1.0, 1.0)] == counts


# ---------------------------------------------------------------- runs


def all_guided(teacher, tokens, conds, guidance):
    """Guided probabilities [B, L, V] of every position."""
    project = guided_head(teacher.backbone, tokens[..., None], *conds, guidance)
    with torch.no_grad():
        return project(torch.arange(tokens.numel())).view(*tokens.shape, -1).softmax(-1)


def recorded_states(teacher, states):
    """Recorded tokens as tokens of the teacher, whose mask has another id."""
    return states.where(states < teacher.space.codes, teacher.space.mask_id)


@torch.no_grad()
@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_a_run_is_the_recorded_one(teacher, io, settings, name):
    run, data, space = settings(name), run_of(io, name), teacher.space
    conds = [teacher.backbone.prepared(cond) for cond in conditions(teacher.backbone.arch, io)]
    states = recorded_states(teacher, data["states"])
    for index, (before, after) in enumerate(itertools.pairwise(states)):
        masked, drawn = before == space.mask_id, data["drawn"][index]
        probs = all_guided(teacher, before, conds, run["standard_guidance"])
        if "probs" in data:
            assert_near(probs, data["probs"][index])
        chosen = probs.gather(-1, drawn[..., None]).squeeze(-1)
        assert_near(chosen[masked], data["selected_probs"][index][masked])
        noise = run["temperatures"][index] * gumbel_of(data["u_confidence"][index])
        scores = chosen.clamp(min=1e-20).log() + noise
        for row, count in enumerate(run["mask_len"][index]):
            part = slice(row, row + 1)
            given = (before[part], masked[part], drawn[part], scores[part])
            found, still_masked = reveal(*given, count, space.mask_id)
            assert torch.equal(still_masked, data["masking"][index][part])
            if index < len(states) - 2:
                assert torch.equal(found, after[part])
    assert torch.equal(torch.where(masked, drawn, before), states[-1])


def test_given_codes_stay_and_are_never_masked(teacher, io):
    data = run_of(io, "inpaint")
    states = recorded_states(teacher, data["states"])
    for state in states:
        assert torch.equal(state[data["known"]], states[-1][data["known"]])


@pytest.mark.parametrize("name", [name for name in RUNS if name != "inpaint"])
def test_sampling_with_the_recorded_draws_gives_the_recorded_tokens(
    teacher, io, settings, name, generator, monkeypatch
):
    run, data, space = settings(name), run_of(io, name), teacher.space
    cond, null = conditions(teacher.backbone.arch, io)
    draws = []
    for state, drawn, uniform, noise in zip(
        data["states"], data["drawn"], data["u_confidence"], run["temperatures"], strict=False
    ):
        masked = state >= space.codes
        chosen = torch.zeros(int(masked.sum()), 1, space.vocab)
        draws.append(chosen.scatter(-1, drawn[masked][:, None, None], 1e9))
        draws += [gumbel_of(uniform[masked])[:, None]] if noise else []
    monkeypatch.setattr(many_steps, "gumbel", lambda shape, generator: draws.pop(0).view(shape))
    monkeypatch.setattr(many_steps, "CHUNK_TOKENS", data["drawn"][0].numel())
    monkeypatch.setattr(teacher.conditioner, "null", lambda count: null[:count])
    tokens = sample_by_plan(teacher, cond, plan_of(run, space.length), generator)
    assert draws == []
    assert torch.equal(tokens.squeeze(-1), data["states"][-1])
