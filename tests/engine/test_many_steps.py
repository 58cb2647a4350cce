"""Sampling a teacher in many steps: the published schedules, and nothing left masked."""

import itertools
from dataclasses import replace

import pytest
import torch

from dimo_cli.engine.many_steps import (
    draw_rolls,
    draw_with_scores,
    guided_head,
    halton_ranks,
    radical_inverse,
    reveal,
    sample_by_plan,
    sample_theta_trapezoidal,
    token_scores,
)
from dimo_cli.errors import SpecError
from dimo_cli.sampling.samplers import shared_or_published
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.teachers.plans import heuristic_plan, masked_counts, tokens_per_step
from dimo_cli.teachers.protocol import Step, TokenSpace


def test_tokens_per_step_are_the_published_lists(golden):
    for size, table in golden("maskgit/schedules.json")["sampler_tokens_per_step"].items():
        rows, columns = map(int, size.split("x"))
        for schedule, lists in table.items():
            for steps, counts in lists.items():
                if min(counts) > 0:
                    assert tokens_per_step(schedule, int(steps), rows * columns) == counts


@pytest.mark.parametrize("schedule", ["root", "linear", "square", "cosine", "arccos"])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 60, 64])
def test_every_step_reveals_something_and_all_is_revealed(schedule, steps):
    counts = tokens_per_step(schedule, steps, 64)
    assert len(counts) == steps
    assert min(counts) >= 1
    assert sum(counts) == 64


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 64])
def test_masked_counts_fall_until_one_slot_is_left_for_the_last_step(steps):
    ratios = torch.linspace(1, 0, steps + 1)[1:] ** 3
    counts = masked_counts(ratios, 64)
    assert len(counts) == steps
    assert counts[-1] == 0
    for before, after in itertools.pairwise([64, *counts[:-1]]):
        assert after == 1 or after < before


def test_more_steps_than_tokens_are_refused():
    with pytest.raises(SpecError, match="65 steps are more than the 64 tokens"):
        tokens_per_step("arccos", 65, 64)


def test_guidance_is_a_line_through_the_two_predictions(teacher):
    tokens = torch.full((3, 64, 1), teacher.space.mask_id)
    cond = teacher.conditioner.labels(torch.tensor([1, 5, 9]))
    null = teacher.conditioner.null(3)
    rows = torch.arange(3 * 64)
    zero, one, two = (
        guided_head(teacher.backbone, tokens, cond, null, s)(rows) for s in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(two - one, one - zero, atol=1e-4, rtol=1e-4)
    unconditional = teacher.backbone(tokens, null).flatten(0, 1)
    torch.testing.assert_close(zero, unconditional, atol=1e-4, rtol=1e-4)


def test_the_highest_scores_stay_and_what_was_revealed_is_never_touched():
    tokens = torch.tensor([[9, 3, 9, 9]])
    masked = torch.tensor([[True, False, True, True]])
    drawn, scores = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0.1, -9.0, 0.3, 0.2]])
    after, still = reveal(tokens, masked, drawn, scores, masked_after=1, mask_id=9)
    assert after.tolist() == [[9, 3, 7, 8]]
    assert still.tolist() == [[True, False, False, False]]


def test_a_drawn_mask_id_counts_as_revealed():
    tokens, masked = torch.full((1, 2), 9), torch.ones(1, 2, dtype=torch.bool)
    after, still = reveal(tokens, masked, torch.tensor([[9, 4]]), torch.zeros(1, 2), 0, mask_id=9)
    assert after.tolist() == [[9, 4]]
    assert not still.any()


def test_token_noise_zero_takes_the_likeliest_token(generator):
    logits = torch.randn(5, 7)
    drawn, scores = draw_with_scores(logits, Step(0, token_noise=0.0, choice="logit"), generator)
    assert torch.equal(drawn, logits.argmax(-1))
    assert torch.equal(scores, logits.amax(-1))


def test_scores_are_log_probabilities_probabilities_or_logits():
    logits = torch.randn(4, 6)
    drawn = torch.tensor([0, 2, 5, 1])
    log_p = logits.log_softmax(-1)[torch.arange(4), drawn]
    torch.testing.assert_close(token_scores(logits, drawn, Step(0)), log_p)
    torch.testing.assert_close(token_scores(logits, drawn, Step(0, choice="prob")), log_p.exp())


@pytest.mark.parametrize("choice", ["random", "log_prob", "rolled_halton"])
@pytest.mark.parametrize("steps", [1, 3, 64])
def test_teacher_samples_are_whole_images(teacher, generator, choice, steps):
    cond = teacher.conditioner.labels(torch.arange(4))
    plan = heuristic_plan(choice)(steps, 64, 1.0, 1.0)
    tokens = sample_by_plan(teacher, cond, plan, generator)
    assert tokens.shape == (4, 64, 1)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < teacher.space.codes


def watch_inputs(teacher):
    """The tokens of every pass through the backbone."""
    seen, embed = [], teacher.backbone.embed
    teacher.backbone.embed = lambda tokens: (seen.append(tokens.clone()), embed(tokens))[1]
    return seen


def test_an_already_revealed_token_is_never_changed(teacher, generator):
    seen = watch_inputs(teacher)
    cond = teacher.conditioner.labels(torch.arange(2))
    final = sample_by_plan(teacher, cond, heuristic_plan("random")(6, 64, 1.0, 0.0), generator)
    for tokens in seen:
        known = tokens != teacher.space.mask_id
        assert torch.equal(tokens[known], final[known])
    assert len(seen) == 6


def test_halton_visits_every_position_once_and_spreads_early_ones_out(teacher):
    ranks = halton_ranks(teacher.space)
    assert sorted(ranks.tolist()) == list(range(64))
    early = ranks.view(8, 8) < 16
    quadrants = early.view(2, 4, 2, 4).sum((1, 3))
    assert quadrants.flatten().tolist() == pytest.approx([4, 4, 4, 4], abs=1)


def test_halton_order_is_the_published_one_on_every_grid(golden):
    halton = golden("halton/schedules.json")["halton"]
    for base in (2, 3):
        ours = [float(radical_inverse(index + 1, base)) for index in range(len(halton["base2"]))]
        assert ours == pytest.approx(halton[f"base{base}"])
    assert halton["order"]
    for size, order in halton["order"].items():
        rows, columns = map(int, size.split("x"))
        space = TokenSpace(rows * columns, 1, 4, 4, 4, 8, (rows, columns))
        assert halton_ranks(space).argsort().tolist() == order


def test_in_one_dimension_halton_halves_what_is_left():
    ranks = halton_ranks(TokenSpace(8, 1, 4, 4, 4, 8, None))
    assert ranks.argsort().tolist() == [4, 2, 6, 1, 5, 3, 7, 0]


def test_a_plan_says_whether_samples_share_halton_order_or_begin_apart(teacher, generator):
    cond = teacher.conditioner.labels(torch.arange(6))

    def first_revealed(choice):
        seen = watch_inputs(teacher)
        plan = [replace(step, choice=choice) for step in heuristic_plan("random")(64, 64, 1.0, 0.0)]
        sample_by_plan(teacher, cond, plan, generator)
        masked = [tokens.squeeze(-1) == teacher.space.mask_id for tokens in seen]
        return [(before & ~after).nonzero()[:, 1] for before, after in itertools.pairwise(masked)]

    order = halton_ranks(teacher.space).argsort()
    for place, positions in enumerate(first_revealed("halton")):
        assert positions.tolist() == [order[place]] * 6
    places = torch.stack([halton_ranks(teacher.space)[p] for p in first_revealed("rolled_halton")])
    assert len(places[0].unique()) > 1
    assert ((places[1:] - places[:-1]) % 64 == 1).all()


def test_only_a_rolled_order_costs_a_draw():
    for choice, draws in (("random", False), ("log_prob", False), ("halton", False),
                          ("rolled_halton", True)):  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        draw_rolls([Step(0, choice=choice)], 3, 64, generator)
        assert torch.equal(generator.get_state(), before) is not draws


def test_the_shared_halton_sampler_rolls_the_order_of_every_sample(teacher):
    plan, noise = shared_or_published(teacher, SamplerSpec(teacher=True, method="halton"))
    assert {step.choice for step in plan(8, 64, 1.0, noise)} == {"rolled_halton"}


@pytest.mark.parametrize("theta", [0.3, 0.5])
def test_theta_trapezoidal_takes_two_passes_a_step_and_one_in_the_last(teacher, generator, theta):
    seen = watch_inputs(teacher)
    cond = teacher.conditioner.labels(torch.arange(4))
    tokens = sample_theta_trapezoidal(
        teacher, cond, generator, steps=5, guidance=1.0, schedule="arccos", theta=theta
    )
    assert len(seen) == 9
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < teacher.space.codes


def test_theta_trapezoidal_draws_from_the_network_where_positions_do_not_matter(teacher):
    """With logits that ignore the input, every method must give their softmax exactly."""
    logits = torch.randn(teacher.space.vocab)
    teacher.backbone.head = lambda hidden, positions=None: logits.expand(len(hidden), 1, -1)
    cond = teacher.conditioner.labels(torch.zeros(300, dtype=torch.long))
    tokens = sample_theta_trapezoidal(
        teacher,
        cond,
        torch.Generator().manual_seed(1),
        steps=4,
        guidance=1.0,
        schedule="cosine",
    )
    shares = torch.bincount(tokens.flatten(), minlength=len(logits)) / tokens.numel()
    torch.testing.assert_close(shares, logits.softmax(-1), atol=0.01, rtol=0)


def test_theta_trapezoidal_follows_the_mask_schedule(teacher, generator):
    seen = watch_inputs(teacher)
    cond = teacher.conditioner.labels(torch.zeros(64, dtype=torch.long))
    sample_theta_trapezoidal(
        teacher, cond, generator, steps=4, guidance=1.0, schedule="linear", theta=0.5
    )
    starts = [float((tokens == teacher.space.mask_id).float().mean()) for tokens in seen[::2]]
    assert starts == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=0.04)
