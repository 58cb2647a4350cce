"""Halton-MaskGIT's samplers against runs of the released code whose every draw was recorded."""

import math

import pytest
import torch

from dimo_cli.engine import many_steps
from dimo_cli.engine.many_steps import guided_head, reveal, revealing_ranks, sample_by_plan
from dimo_cli.metrics.expected import PUBLISHED
from dimo_cli.teachers.halton import VARIANTS, blueprint
from dimo_cli.teachers.halton.sampler import halton_plan
from dimo_cli.teachers.protocol import Cond
from tests.parity.test_halton import assert_near, config, drawing, teacher, weights

__all__ = ["config", "drawing", "teacher", "weights"]  # fixtures
RUNS = ("demo", "evaluation", "topk")


@pytest.fixture
def schedules(golden):
    return golden("halton/schedules.json")


@pytest.fixture
def recorded(golden):
    return golden("halton/sampler.safetensors")


@pytest.fixture
def labels(recorded):
    return Cond({"label": recorded["labels"]})


def plan_of(run, slots):
    """The plan of a recorded run, from its settings under the authors' names."""
    plan = halton_plan(
        run["sm_temp_min"], run["sm_temp_max"], run["temp_pow"], run["temp_warmup"],
        run["randomize"],
    )  # fmt: skip
    return plan(run["step"], slots, 1 + run["w"], 0.0)


def rolls_of(recorded, name, batch):
    """How far the order of each sample was rolled: not at all where nothing is recorded."""
    return recorded.get(f"{name}.rolls", torch.zeros(batch, dtype=torch.long))


def run_of(recorded, name):
    """The tensors of a run without its name; token grids as sequences."""
    parts = {key.removeprefix(f"{name}."): value for key, value in recorded.items()
             if key.startswith(f"{name}.")}  # fmt: skip
    grids = ("code_before_step", "drawn_code", "written", "masked_after")
    finals = ("final_code", "raw_final_code")
    return {key: value.flatten(2 if key in grids else 1) if key in (*grids, *finals) else value
            for key, value in parts.items()}  # fmt: skip


# ---------------------------------------------------------------- plans


def test_the_plan_reveals_what_the_released_sampler_reveals(schedules):
    assert schedules["tokens_per_step"]
    for size, table in schedules["tokens_per_step"].items():
        rows, columns = map(int, size.split("x"))
        slots = rows * columns
        for steps, counts in table.items():
            plan = halton_plan()(int(steps), slots, 1.0, 0.0)
            left = [slots - sum(counts[: index + 1]) for index in range(len(counts))]
            assert [step.masked_after for step in plan] == left


def test_temperatures_are_the_inverse_of_the_released_factors(schedules):
    for table in schedules["inverse_temperature_per_step"].values():
        plan = halton_plan(
            table["sm_temp_min"], table["sm_temp_max"], table["temp_pow"], table["temp_warmup"]
        )(table["steps"], 4096, 1.0, 0.0)
        assert [1 / step.temperature for step in plan] == pytest.approx(table["values"], abs=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_the_plan_of_a_run_is_the_recorded_one(config, name):
    run, slots = config["sampler"]["runs"][name], config["transformer"]["input_size"] ** 2
    plan = plan_of(run, slots)
    assert [slots - step.masked_after for step in plan] == run["revealed_after_step"]
    factors = [1 / step.temperature for step in plan]
    assert factors == pytest.approx(run["inverse_temperature_per_step"], abs=1e-6)
    assert {step.guidance for step in plan} == {run["guidance"]}
    assert {step.choice_noise for step in plan} == {0.0}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_sample_as_their_published_numbers_were_measured(schedules, variant):
    facts, sampler = VARIANTS[variant], blueprint(variant, {}).sampler
    settings = schedules["published_evaluation_settings"]
    table = schedules["published_presets"][f"transformer_{facts.pixels}_{facts.size}"]
    assert (sampler.steps, sampler.guidance) == (table["steps"], table["guidance"])
    names = ("sm_temp_min", "sm_temp_max", "temp_pow", "temp_warmup", "randomize")
    run = {name: settings[name] for name in names} | {"step": table["steps"], "w": table["w"]}
    published = plan_of(run, 256)
    assert sampler.plan(sampler.steps, 256, sampler.guidance, sampler.choice_noise) == published
    fid, score = PUBLISHED[variant][str(table["steps"])]
    assert (fid.value, score.value) == (table["fid"], table["inception_score"])


# ---------------------------------------------------------------- runs


def recorded_noise(exponential, logits):
    """Gumbel noise on logits [B, L, V] from the numbers that the released code divided by.

    Of a top-k run there are k for each position, of the largest logits in falling order.
    """
    noise = -exponential.log()
    if noise.shape == logits.shape:
        return noise
    largest = logits.topk(noise.shape[-1], dim=-1).indices
    return torch.full_like(logits, -torch.inf).scatter(-1, largest, noise)


@torch.no_grad()
def all_guided(teacher, tokens, labels, guidance):
    """Guided logits [B, L, V] of every position."""
    null = teacher.conditioner.null(len(labels))
    project = guided_head(teacher.backbone, tokens[..., None], labels, null, guidance)
    return project(torch.arange(tokens.numel())).view(*tokens.shape, -1)


@pytest.mark.parametrize("name", RUNS)
def test_every_step_of_a_run_is_the_recorded_one(teacher, config, recorded, labels, name):
    space, data = teacher.space, run_of(recorded, name)
    plan = plan_of(config["sampler"]["runs"][name], space.length)
    ranks = revealing_ranks(plan, space, rolls_of(recorded, name, len(labels)))
    tokens = torch.full((len(labels), space.length), space.mask_id)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    for index, step in enumerate(plan):
        assert torch.equal(tokens, data["code_before_step"][index])
        logits = all_guided(teacher, tokens, labels, step.guidance)
        if "guided_logits" in data:
            assert_near(logits, data["guided_logits"][index])
        noise = recorded_noise(data["exponential"][index], logits)
        drawn = (logits / step.temperature + noise).argmax(-1)
        assert torch.equal(drawn, data["drawn_code"][index])
        before = masked
        tokens, masked = reveal(
            tokens, masked, drawn, -ranks.float(), step.masked_after, space.mask_id
        )
        assert torch.equal(before & ~masked, data["written"][index])
    if "guided_logits_last" in data:
        assert_near(logits, data["guided_logits_last"])
    assert torch.equal(tokens, data["raw_final_code"])
    assert torch.equal(tokens.clamp(max=space.codes - 1), data["final_code"])


@pytest.mark.parametrize("name", [name for name in RUNS if name != "topk"])
def test_sampling_with_the_recorded_draws_gives_the_recorded_images(
    teacher, config, recorded, labels, name, generator, monkeypatch
):
    data, rolls = run_of(recorded, name), rolls_of(recorded, name, len(labels))
    known = data["written"].cumsum(0) - data["written"].long()
    draws = [-exponential[before == 0].log()[:, None]
             for exponential, before in zip(data["exponential"], known, strict=True)]  # fmt: skip
    monkeypatch.setattr(many_steps, "gumbel", lambda shape, generator: draws.pop(0))
    monkeypatch.setattr(many_steps, "draw_rolls", lambda *_: rolls)
    monkeypatch.setattr(many_steps, "CHUNK_TOKENS", draws[0].numel())  # one draw for each step
    plan = plan_of(config["sampler"]["runs"][name], teacher.space.length)
    tokens = sample_by_plan(teacher, labels, plan, generator)
    assert draws == []
    assert torch.equal(tokens.squeeze(-1), data["final_code"])
    with torch.no_grad():
        images = teacher.tokenizer.decode(tokens).clamp(-1, 1)
    assert_near(images, data["image"])


def test_the_networks_draw_what_the_other_released_sampler_drew(teacher, config, recorded, labels):
    """It goes by confidence, draws known tokens again, and is not the published one.

    dimo has no such sampler, but its networks saw what these saw.
    """
    run, data = config["confidence_sampler"], run_of(recorded, "confidence")
    for index, guidance in enumerate(run["guidance_per_step"]):
        tokens = data["code_before_step"][index]
        assert guidance == pytest.approx(1 + run["w"] * index / (run["step"] - 1))
        logits = all_guided(teacher, tokens, labels, guidance) * run["sm_temp"]
        drawn = (logits - data["exponential"][index].log()).argmax(-1)
        assert torch.equal(drawn, data["drawn_code"][index])
        left = run["cumulative_counts"][-1] - run["cumulative_counts"][index]
        assert (data["masked_after"][index].sum(-1) == left).all()
        fade = run["r_temp"] * (1 - index / (run["step"] - 1))
        chosen = logits.log_softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)
        score = chosen + fade * data["gumbel"][index]
        score[tokens != teacher.space.mask_id] = math.inf
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        masked.scatter_(-1, score.argsort(-1)[:, :left], True)
        assert torch.equal(masked, data["masked_after"][index])
    images = teacher.tokenizer.decode(data["final_code"][..., None]).clamp(-1, 1)
    assert_near(images, data["image"])


def test_the_published_sampler_makes_whole_images(teacher, generator):
    space, sampler = teacher.space, teacher.sampler
    cond = teacher.conditioner.draw(2, generator)
    plan = sampler.plan(4, space.length, sampler.guidance, sampler.choice_noise)
    tokens = sample_by_plan(teacher, cond, plan, generator)
    assert tokens.shape == (2, space.length, 1)
    assert tokens.max() < space.codes
    size = space.image_size
    assert teacher.tokenizer.decode(tokens).shape == (2, 3, size, size)
