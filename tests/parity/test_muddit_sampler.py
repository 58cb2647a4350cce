"""Muddit's sampler against runs of the published pipeline whose draws were recorded."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from dimo_cli.engine import many_steps
from dimo_cli.engine.many_steps import guided_head, sample_by_plan
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers import muddit
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.vq_model import VQTokenizer
from tests.helpers import amused_style as checks
from tests.helpers.amused_style import GUIDED_TOLERANCE, TOLERANCE, ends_of
from tests.parity.test_muddit import case, on_grid, rows_of

__all__ = ["case"]  # a fixture


@pytest.fixture(scope="module")
def schedules(golden):
    return golden("muddit/schedules.json")


@pytest.fixture(scope="module")
def runs(golden):
    return golden("muddit/sampler_runs.json")["sampler_runs"]


def test_the_plan_is_the_published_scheduler_and_tells_shares_of_the_steps(case, schedules):
    checks.check_plan(case.blueprint.sampler.plan, schedules, told="times")


def test_the_number_of_steps_that_are_left_may_be_told_instead(case, schedules):
    settings = {**case.blueprint.architecture, "told_time": "index"}
    checks.check_plan(muddit.blueprint("muddit", settings).sampler.plan, schedules, "timesteps")


def test_the_plan_leaves_as_many_masked_as_diffusers(case, generator):
    checks.check_counts_of_diffusers(case.blueprint.sampler.plan, generator)


def test_a_recorded_step_reveals_the_recorded_tokens(case, schedules, golden):
    step_io = golden("muddit/scheduler_step.safetensors")
    checks.check_recorded_step(case.blueprint.sampler.plan, schedules, step_io)
    assert torch.equal(step_io["prev_sample_timestep0"], step_io["pred_original_sample"])


def test_masks_of_training_follow_the_same_cosine(schedules, golden):
    step_io, example = golden("muddit/scheduler_step.safetensors"), schedules["example_step"]
    steps = example["num_inference_steps"]
    ratio = SCHEDULES["cosine"](torch.tensor((steps - example["timestep"]) / steps))
    masked = step_io["add_noise_uniform"] < ratio
    expected = step_io["add_noise_clean"].masked_fill(masked, schedules["mask_token_id"])
    assert torch.equal(step_io["add_noise_out"], expected)


def names_of(io):
    return sorted({name.split(".")[1] for name in io if name.startswith("sampler.")})


def teacher_of(case, golden, io):
    """A teacher over the grid of a run, with the recorded conditions."""
    rows, columns = io["grid"]
    space = replace(case.blueprint.space, length=rows * columns, grid=(rows, columns))
    weights = case.blueprint.tokenizer.convert(golden("muddit/vqvae.safetensors"))
    network = on_meta(lambda: VQTokenizer(case.arch.vqvae, (rows, columns)))
    backbone = on_grid(case, (rows, columns)).backbone
    null = cond_of(case, io, "uncond")
    return SimpleNamespace(
        space=space,
        backbone=backbone,
        tokenizer=fill(network, weights, "the golden file").eval(),
        conditioner=SimpleNamespace(null=lambda count: null[slice(count)]),
    )


def cond_of(case, io, which):
    """The golden condition with the micro-conditions of a run."""
    cond = case.cond(which)
    return Cond({**cond.tensors, "micro": io["micro_conds"].expand(len(cond), -1)})


def run_of(case, runs, name):
    """The settings of a run and its tensors, without its name."""
    prefix = f"sampler.{name}."
    tensors = {key.removeprefix(prefix): value for key, value in case.io.items()
               if key.startswith(prefix)}  # fmt: skip
    return {**runs[name], **tensors}


def plan_of(case, run):
    """The plan of a run; its temperatures may end above zero."""
    start, end = ends_of(run["temperature_arg"])
    steps, slots = run["num_inference_steps"], run["states"].shape[-1]
    plan = case.blueprint.sampler.plan(steps, slots, run["guidance_scale"], start - end)
    return [replace(step, choice_noise=step.choice_noise + end) for step in plan]


def gumbel_of(uniform):
    return -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()


def test_every_run_is_sampled_from_its_recorded_draws(case, golden, runs, generator, monkeypatch):
    assert names_of(case.io) == sorted(runs)
    for name in runs:
        run = run_of(case, runs, name)
        teacher, plan = teacher_of(case, golden, run), plan_of(case, run)
        assert [step.masked_after for step in plan] == run["masked_after_step"]
        assert [step.time for step in plan] == [pytest.approx(time) for time in run["times"]]
        noises = [step.choice_noise for step in plan]
        assert noises == [pytest.approx(noise, abs=1e-6) for noise in run["temperatures"]]
        rows = []
        for row, cond in enumerate(each(cond_of(case, run, "cond"))):
            draws = recorded_draws(run, row, case.blueprint.space)
            monkeypatch.setattr(many_steps, "gumbel", lambda shape, _, draws=draws: next(draws))
            null = each(cond_of(case, run, "uncond"))[row]
            teacher.conditioner.null = lambda count, null=null: null
            rows.append(sample_by_plan(teacher, cond, plan, generator))
        tokens = torch.cat(rows)
        assert torch.equal(tokens.squeeze(-1), run["states"][-1])
        with torch.inference_mode():
            image = (teacher.tokenizer.decode(tokens) + 1) / 2
        assert_close(image.clamp(0, 1), run["image"], **TOLERANCE)


def each(cond):
    """The conditions of a batch one by one: recorded null conditions differ, a teacher's do not."""
    return [cond[index : index + 1] for index in range(len(cond))]


def recorded_draws(run, row, space):
    """Noise for the masked positions of a sample: what makes the recorded token win, then that on
    the choice. The published pipeline adds none in the last step, where all stay.
    """
    for index, state in enumerate(run["states"][:-1, row]):
        masked = state == space.mask_id
        won = torch.nn.functional.one_hot(run["drawn"][index, row][masked], space.vocab)
        yield 1e9 * won[:, None].float()
        is_last = index == len(run["u_confidence"])
        if not is_last:
            yield gumbel_of(run["u_confidence"][index, row][masked])[:, None]
        elif ends_of(run["temperature_arg"])[1]:
            yield torch.zeros(int(masked.sum()), 1)


def test_every_step_of_a_run_enters_with_the_recorded_tokens_and_logits(case, golden, runs):
    recorded = 0
    for name in runs:
        run = run_of(case, runs, name)
        teacher, plan = teacher_of(case, golden, run), plan_of(case, run)
        cond = cond_of(case, run, "cond")
        null = teacher.conditioner.null(len(cond))
        for index, expected in enumerate(run.get("logits", ())):
            tokens, step = run["states"][index][..., None], plan[index]
            at = (cond.at(step.time), null.at(step.time))
            with torch.inference_mode():
                project = guided_head(teacher.backbone, tokens, *at, step.guidance)
                logits = project(torch.arange(tokens.numel())).view(*tokens.shape[:2], 1, -1)
            assert_close(logits, rows_of(expected), **GUIDED_TOLERANCE)
            recorded += 1
    assert recorded


def test_micro_conditions_have_the_width_first(case, runs):
    for name in runs:
        run = run_of(case, runs, name)
        height, width = run["image_px"]
        assert run["micro_conds"].tolist() == [[width, height, 0, 0, 6]]
        rows, columns = (side // 2 for side in run["grid"])
        assert run["img_ids"].tolist() == [[0, r, c] for r in range(rows) for c in range(columns)]
