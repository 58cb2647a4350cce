"""A soft embedding is summed up in full precision, whatever the rest of a step computes in."""

from types import SimpleNamespace

import pytest
import torch

from dimo_cli.teachers.digits import LEVELS, DigitsTokenizer
from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.halton.tokenizer import LlamaGenTokenizer
from dimo_cli.teachers.maskbit.bits import expected_signs
from dimo_cli.teachers.maskgen.tokenizer import TATiTok
from dimo_cli.teachers.maskgit.vqgan import VQGAN
from dimo_cli.teachers.shapes.tokenizer import ShapesTokenizer
from dimo_cli.teachers.titok.tokenizer import TiTokTokenizer
from dimo_cli.teachers.vq_model import VQTokenizer

CODES, WIDTH = 4096, 8
BF16 = torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def table(generator):
    return torch.nn.Embedding.from_pretrained(torch.randn(CODES, WIDTH, generator=generator))


def probs(codes, generator):
    return torch.randn(2, 5, 1, codes, generator=generator).softmax(-1)


def assert_as_precise_under_autocast(decode, codes, generator):
    given = probs(codes, generator)
    exact = decode(given)
    with BF16:
        assert torch.equal(decode(given), exact)


def tokenizer_of(name, table):
    """What `decode_probs` reads of a tokenizer, which paints its mean codes as they are."""
    quantize = SimpleNamespace(
        embedding=table, clamped=lambda ids: ids, vectors=lambda: table.weight
    )
    told = {"shapes": {"codebook": table}, "titok": {"codes": table.weight}}
    shared = {"paint": lambda vectors: vectors, "_paint": lambda vectors, cond=None: vectors}
    return SimpleNamespace(quantize=quantize, **told.get(name, {}), **shared)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shapes", ShapesTokenizer),
        ("titok", TiTokTokenizer),
        ("maskgit", VQGAN),
        ("halton", LlamaGenTokenizer),
        ("amused", VQTokenizer),
        ("maskgen", TATiTok),
    ],
)
def test_half_precision_leaves_the_mean_code_alone(name, kind, table, generator):
    stand_in = tokenizer_of(name, table)
    assert_as_precise_under_autocast(lambda p: kind.decode_probs(stand_in, p), CODES, generator)


def test_it_leaves_expected_bits_and_gray_levels_alone(generator):
    assert_as_precise_under_autocast(lambda p: expected_signs(p, 7), 2**7, generator)
    gray = DigitsTokenizer().decode_probs
    given = torch.randn(2, 64, 1, LEVELS, generator=generator).softmax(-1)
    exact = gray(given)
    with BF16:
        assert torch.equal(gray(given), exact)


def test_a_mean_of_one_row_is_that_row(table):
    picked = torch.nn.functional.one_hot(torch.tensor([3, 5]), CODES).float()
    assert torch.equal(expected(picked, table.weight), table.weight[[3, 5]])
