"""Lumina-DiMOO's sampler against runs of the official one whose every draw was recorded."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from dimo_cli.engine import many_steps
from dimo_cli.engine.many_steps import guided_head, reveal, sample_by_plan, token_scores
from dimo_cli.teachers.dimoo import dimoo_plan
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from tests.parity.test_dimoo import (
    arch,
    backbone,
    config,
    drawing,
    facts,
    io,
    local,
    padded,
    weights,
)

__all__ = ["arch", "backbone", "config", "drawing", "facts", "io", "weights"]  # fixtures


@pytest.fixture(scope="module")
def schedules(golden):
    return golden("dimoo/schedules.json")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("dimoo/sampler.safetensors")


def run_of(facts, recorded, name):
    """The settings of a run and its tensors, without its name."""
    (settings,) = (run for run in facts["sampler_runs"] if run["name"] == name)
    tensors = {key.removeprefix(f"{name}."): value for key, value in recorded.items()
               if key.startswith(f"{name}.")}  # fmt: skip
    return {**settings, **tensors}


def names_of(facts, cached=False):
    """Runs whose every step looks at the whole sequence, or those that keep some of it."""
    return [run["name"] for run in facts["sampler_runs"] if run["use_cache"] == cached]


def gumbel_of(uniform):
    return -torch.log(-torch.log(uniform + 1e-20) + 1e-20)


def plan_of(run, slots):
    return dimoo_plan(run["timesteps"], slots, 1 + run["cfg_scale"], run["temperature"])


def conditions_of(io, run):
    """The condition of a run's prompt, and null, of one length."""
    text, null = io[f"text_ids.{run['prompt']}"], io["null_ids"]
    length = max(len(text), len(null))
    return padded(text, length=length), padded(null, length=length)


def all_guided(backbone, tokens, cond, null, guidance):
    """Guided logits [L, V] of one sequence [L]."""
    project = guided_head(backbone, tokens[None, :, None], cond, null, guidance)
    return project(torch.arange(len(tokens))).squeeze(-2)


def test_ratios_are_the_official_ones_in_float32(schedules):
    for steps, ratios in schedules["cosine"].items():
        found = SCHEDULES["cosine"](torch.arange(1, int(steps) + 1) / int(steps))
        assert_close(found, torch.tensor(ratios), atol=1e-6, rtol=0)


def test_the_plan_leaves_as_many_masked_as_the_official_sampler(schedules):
    assert schedules["masked_after"]
    for slots, table in schedules["masked_after"].items():
        for steps, counts in table.items():
            if int(steps) > int(slots):  # refused: upstream would repeat steps that reveal nothing
                continue
            plan = dimoo_plan(int(steps), int(slots), 5.0, 1.0)
            assert [step.masked_after for step in plan] == counts
            assert {step.guidance for step in plan} == {5.0}
            noises = {(step.token_noise, step.choice_noise, step.temperature) for step in plan}
            assert noises == {(1.0, 1.0, 1.0)}


def test_half_of_all_is_one_less_in_float32():
    ratios = SCHEDULES["cosine"](torch.arange(1, 4) / 3)
    assert masked_counts(ratios, 24)[1] == 11


def test_every_step_of_every_run_is_the_official_one(backbone, arch, facts, io, recorded):
    for name in names_of(facts):
        run = run_of(facts, recorded, name)
        cond, null = conditions_of(io, run)
        states = local(run["states"], arch).squeeze(-1)
        plan = plan_of(run, int((states[0] == arch.codes).sum()))
        for index, step in enumerate(plan):
            masked = states[index] == arch.codes
            with torch.inference_mode():
                logits = all_guided(backbone, states[index], cond, null, step.guidance)[masked]
            expected = run["logits"][index][masked]
            assert_close(logits, expected, atol=1e-3, rtol=1e-4)
            noisy = logits
            if step.token_noise:
                noisy = logits + step.token_noise * gumbel_of(run["u_tokens"][index][masked])
            drawn = torch.zeros_like(states[index])
            drawn[masked] = noisy.argmax(-1)
            scores = torch.zeros(masked.shape)
            noise = gumbel_of(run["u_choice"][index][masked])
            scores[masked] = token_scores(logits, drawn[masked], step) + step.choice_noise * noise
            after, _ = reveal(states[index][None], masked[None], drawn[None], scores[None],
                              step.masked_after, arch.codes)  # fmt: skip
            assert step.masked_after == run["masked_after"][index]
            assert torch.equal(after[0], states[index + 1])


def test_a_run_from_masks_alone_is_sampled_from_its_draws(
    backbone, drawing, arch, facts, io, recorded, generator, monkeypatch
):
    rows, columns = facts["grid"]
    space = replace(drawing.space, length=rows * columns, grid=(rows, columns))
    for name in names_of(facts):
        run = run_of(facts, recorded, name)
        states = local(run["states"], arch).squeeze(-1)
        if not (states[0] == arch.codes).all():
            continue
        cond, null = conditions_of(io, run)
        draws = iter(recorded_draws(run, states, arch.codes))
        monkeypatch.setattr(many_steps, "gumbel", lambda shape, _, draws=draws: next(draws))
        teacher = SimpleNamespace(
            space=space, backbone=backbone, conditioner=SimpleNamespace(null=lambda _, n=null: n)
        )
        tokens = sample_by_plan(teacher, cond, plan_of(run, space.length), generator)
        assert torch.equal(tokens[0, :, 0], states[-1])
        assert next(draws, None) is None


def recorded_draws(run, states, mask):
    """Noise for the masked positions of each step: of the tokens, then of the choice."""
    for index, state in enumerate(states[:-1]):
        masked = state == mask
        if run["temperature"]:
            yield gumbel_of(run["u_tokens"][index][masked])[:, None]
            yield gumbel_of(run["u_choice"][index][masked])[:, None]


def test_steps_of_the_cached_run_that_look_at_everything_have_the_same_logits(
    backbone, arch, facts, io, recorded
):
    """The authors' cache, which is no part of dimo, keeps logits of some positions."""
    for name in names_of(facts, cached=True):
        run = run_of(facts, recorded, name)
        states = local(run["states"], arch)
        cond, null = conditions_of(io, run)
        for index in run["refreshed"].nonzero().flatten().tolist():
            assert run["computed_cond"][index].all()
            assert run["computed_null"][index].all()
            for which, condition in (("cond", cond), ("null", null)):
                with torch.inference_mode():
                    logits = backbone(states[index][None], condition)[0, :, 0]
                expected = run[f"logits_{which}_image"][index]
                assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_sizes_are_counted_as_upstream_counts_them(schedules, drawing):
    for size in schedules["sizes"].values():
        rows, columns = size["rows"], size["columns"]
        assert size["tokens"] == rows * columns
        assert size["image_part"] == 2 + rows * (columns + 1) + 2
