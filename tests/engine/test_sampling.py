"""Sampling: the right distribution, the published schedules, and nothing left masked."""

import pytest
import torch

from dimo_cli.engine.sampling import (
    chunks,
    draw_from_hidden,
    draw_tokens,
    filter_logits,
    guided_logits,
    sample_student,
    sample_teacher,
    tokens_per_step,
)
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import InitSpec


def test_chunks_cover_every_row_once():
    rows = list(range(10))
    assert [row for part in chunks(10, 4) for row in rows[part]] == rows


@pytest.mark.parametrize("side", [4, 16, 32])
@pytest.mark.parametrize("schedule", ["root", "linear", "square", "cosine", "arccos"])
def test_tokens_per_step_are_the_published_lists(golden, schedule, side):
    table = golden("maskgit/schedules.json")["sampler_tokens_per_step"][f"{side}x{side}"]
    for steps, counts in table.get(schedule, {}).items():
        if min(counts) > 0:
            assert tokens_per_step(schedule, int(steps), side * side) == counts


@pytest.mark.parametrize("schedule", ["root", "linear", "square", "cosine", "arccos"])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 60, 64])
def test_every_step_reveals_something_and_all_is_revealed(schedule, steps):
    counts = tokens_per_step(schedule, steps, 64)
    assert len(counts) == steps
    assert min(counts) >= 1
    assert sum(counts) == 64


def test_more_steps_than_tokens_are_refused():
    with pytest.raises(SpecError, match="65 steps are more than the 64 tokens"):
        tokens_per_step("arccos", 65, 64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("temp1", {}),
        ("temp7", {"temperature": 7}),
        ("temp2_topk5", {"temperature": 2, "top_k": 5}),
        ("temp2_topp0.8", {"temperature": 2, "top_p": 0.8}),
        ("temp2_topk5_topp0.8", {"temperature": 2, "top_k": 5, "top_p": 0.8}),
    ],
)
def test_temperature_top_k_and_top_p_are_those_of_the_released_code(golden, name, settings):
    data = golden("maskgit/sampler.safetensors")
    probs = filter_logits(data["onestep.logits"], **settings).softmax(-1)
    torch.testing.assert_close(probs, data[f"onestep.probs_{name}"], atol=1e-5, rtol=0)


def test_gumbel_max_draws_from_the_softmax(generator):
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    drawn = draw_tokens(logits.expand(60_000, 4), generator)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share, logits.softmax(-1), atol=0.01, rtol=0)


def test_chunk_size_changes_memory_and_not_the_statistics(teacher):
    hidden = torch.randn(4, 64, 64)
    runs = [
        draw_from_hidden(
            teacher.backbone,
            hidden,
            torch.Generator().manual_seed(0),
            chunk_tokens=size,
            measure=True,
        )
        for size in (7, 256)
    ]
    assert runs[0].entropy == pytest.approx(runs[1].entropy, rel=1e-5)
    assert runs[0].top1 == pytest.approx(runs[1].top1, rel=1e-5)


def test_measured_entropy_and_top1_are_those_of_the_distribution(teacher, generator):
    hidden = torch.randn(2, 64, 64)
    drawn = draw_from_hidden(teacher.backbone, hidden, generator, measure=True)
    p = teacher.backbone.head(hidden).softmax(-1)
    assert drawn.entropy == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-4)
    assert drawn.top1 == pytest.approx(float(p.amax(-1).mean()), rel=1e-5)


def test_guidance_is_a_line_through_the_two_predictions(teacher):
    tokens = torch.full((3, 64, 1), teacher.space.mask_id)
    cond = teacher.conditioner.labels(torch.tensor([1, 5, 9]))
    null = teacher.conditioner.null(3)
    zero, one, two = (
        guided_logits(teacher.backbone, tokens, cond, null, s) for s in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(two - one, one - zero, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(zero, teacher.backbone(tokens, null), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("steps", [1, 3, 64])
def test_teacher_samples_are_whole_images(teacher, generator, order, steps):
    cond = teacher.conditioner.labels(torch.arange(4))
    tokens = sample_teacher(teacher, cond, generator, steps=steps, order=order)
    assert tokens.shape == (4, 64, 1)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < teacher.space.codes


def test_an_already_revealed_token_is_never_changed(teacher, generator):
    seen = []
    original = teacher.backbone.hidden

    def spy(embeds, cond, taps=()):
        return original(embeds, cond, taps)

    teacher.backbone.hidden = spy
    embed = teacher.backbone.embed
    teacher.backbone.embed = lambda tokens: (seen.append(tokens.clone()), embed(tokens))[1]
    cond = teacher.conditioner.labels(torch.arange(2))
    final = sample_teacher(teacher, cond, generator, steps=6)
    for tokens in seen:
        known = tokens != teacher.space.mask_id
        assert torch.equal(tokens[known], final[known])
    assert len(seen) == 6


def test_student_samples_depend_on_the_seed_alone(teacher):
    cond = teacher.conditioner.labels(torch.arange(6))
    first, same, other = (
        sample_student(
            teacher.backbone,
            teacher.space,
            teacher.tokenizer,
            cond,
            InitSpec(),
            torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
