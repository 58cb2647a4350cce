"""Sampling a student: the right distribution, and nothing but the seed decides."""

import re

import pytest
import torch

from dimo_cli.engine.draws import chunks
from dimo_cli.engine.one_step import (
    draw_from_hidden,
    draw_tokens,
    filter_logits,
    sample_student,
    student_input,
)
from dimo_cli.specs.init import InitSpec


def test_chunks_cover_every_row_once():
    rows = list(range(10))
    assert [row for part in chunks(10, 4) for row in rows[part]] == rows


def test_temperature_top_k_and_top_p_are_those_of_the_released_code(golden):
    data = golden("maskgit/sampler.safetensors")
    names = [name for name in data if name.startswith("onestep.probs_")]
    assert names
    for name in names:
        settings = dict(re.findall(r"(temp|topk|topp)([\d.]+)", name))
        probs = filter_logits(
            data["onestep.logits"],
            temperature=float(settings.get("temp", 1)),
            top_k=int(settings.get("topk", 0)),
            top_p=float(settings.get("topp", 0)),
        ).softmax(-1)
        torch.testing.assert_close(probs, data[name], atol=1e-5, rtol=0)


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
    assert runs[0].entropy.item() == pytest.approx(runs[1].entropy.item(), rel=1e-5)
    assert runs[0].top1.item() == pytest.approx(runs[1].top1.item(), rel=1e-5)


def test_measured_entropy_and_top1_are_those_of_the_distribution(teacher, generator):
    hidden = torch.randn(2, 64, 64)
    drawn = draw_from_hidden(teacher.backbone, hidden, generator, measure=True)
    p = teacher.backbone.head(hidden).softmax(-1)
    assert drawn.entropy.item() == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-4)
    assert drawn.top1.item() == pytest.approx(float(p.amax(-1).mean()), rel=1e-5)


def test_student_samples_depend_on_the_seed_alone(teacher):
    cond, init = teacher.conditioner.labels(torch.arange(6)), InitSpec()

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        x_init = student_input(teacher.space, teacher.tokenizer, init, 6, generator)
        sigma = init.embed_noise.sigma
        return sample_student(teacher.backbone, teacher.space, x_init, cond, sigma, generator)

    first, same, other = sample(1), sample(1), sample(2)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
