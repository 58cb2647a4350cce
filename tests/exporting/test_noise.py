"""The noise of exported files: whatever a seed stands for, and evenly spread."""

import numpy as np
import pytest
import torch
from scipy import stats

from dimo_cli.exporting import noise

SEEDS = torch.tensor([0, 1, 2, 2**32, -1, 2**63 - 1])
MANY = 20_000


def evenly(values, boxes):
    """How likely counts as uneven as these are, where every box is as likely as the others."""
    return stats.chisquare(np.bincount(values, minlength=boxes)).pvalue


def test_the_numbers_of_a_seed_are_fixed_for_good():
    """Another runtime, or a later version, must make the same of a seed."""
    found = noise.random_bits(torch.tensor([0, 7, -7]), noise.CODES, 3)
    assert found.tolist() == [
        [3078616772, 4221822011, 3939773090],
        [2048566830, 1362110594, 2806082642],
        [1287387311, 540869959, 2849788440],
    ]


def test_bits_are_those_of_plain_integers():
    """Python's own integers know no overflow: nothing wraps around on the way."""

    def scramble(x):
        x = ((x ^ x >> 16) * 0x21F0AAAD) % 2**32
        x = ((x ^ x >> 15) * 0xD35A2D97) % 2**32
        return x ^ x >> 15

    for seed in SEEDS.tolist():
        low, high = seed % 2**32, seed // 2**32 % 2**32
        first = scramble(scramble(low ^ 0x9E3779B9) ^ noise.GUMBEL)
        second = scramble(scramble(scramble(high) ^ first) ^ 0x9E3779B9)
        plain = [scramble(scramble(place ^ first) ^ second) for place in range(50)]
        assert noise.random_bits(torch.tensor([seed]), noise.GUMBEL, 50)[0].tolist() == plain


def test_a_seed_draws_the_same_in_whichever_batch():
    together = noise.random_bits(SEEDS, noise.CODES, 100)
    alone = torch.cat([noise.random_bits(seed[None], noise.CODES, 100) for seed in SEEDS])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("stream", [noise.CODES, noise.ORDER, noise.EMBEDS, noise.GUMBEL])
def test_bits_are_uniform_at_both_ends(stream):
    bits = noise.random_bits(SEEDS, stream, MANY).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**32
    assert all(len(set(row)) == MANY for row in bits.tolist())
    for row in bits:
        assert evenly(row >> 24, 256) > 1e-4
        assert evenly(row & 255, 256) > 1e-4


def test_no_place_has_the_same_number_for_all_seeds():
    bits = noise.random_bits(torch.arange(200), noise.CODES, 300)
    assert all(len(set(column)) == 200 for column in bits.T.tolist())


def test_seeds_and_streams_have_nothing_to_do_with_each_other():
    """Neighbouring seeds, places and streams: half of all bits differ, and no numbers correlate."""
    streams = (noise.CODES, noise.ORDER, noise.EMBEDS, noise.EMBEDS + 1, noise.GUMBEL)
    rows = torch.cat([noise.random_bits(torch.arange(8), stream, MANY) for stream in streams])
    unit = rows.double().numpy() / 2**32
    correlation = np.corrcoef(np.concatenate([unit, np.roll(unit, 1, axis=1)]))
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / MANY**0.5
    flipped = (rows[0] ^ rows[1:]).numpy()
    share = np.mean([[row >> bit & 1 for bit in range(32)] for row in flipped], axis=-1)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / MANY**0.5


def test_integers_are_uniform_below_their_bound():
    for high in (2, 17, 1000):
        values = noise.random_integers(torch.tensor([3]), noise.CODES, high, MANY)[0].numpy()
        assert values.max() == high - 1
        assert evenly(values, high) > 1e-4


def test_a_subset_has_as_many_as_asked_and_takes_every_place_as_often():
    masks = noise.random_subset(torch.arange(4000), noise.ORDER, 38, 64)
    assert (masks.sum(1) == 38).all()
    assert stats.chisquare(masks.sum(0).numpy()).pvalue > 1e-4
    pairs = masks[:, :-1] & masks[:, 1:]  # neighbours as often as chance has it
    expected = 38 * 37 / (64 * 63)
    assert pairs.double().mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [(noise.random_gumbel, stats.gumbel_r), (noise.random_normal, stats.norm)],
)
def test_noise_has_its_distribution_also_far_out(draw, distribution):
    values = draw(torch.arange(50), noise.EMBEDS, MANY)
    assert values.dtype == torch.float32
    flat = values.flatten().double().numpy()
    assert stats.kstest(flat, distribution.cdf).pvalue > 1e-4
    beyond = distribution.isf(1e-5)
    assert 2 <= (flat > beyond).sum() <= 25  # 10 of a million
    assert np.isfinite(flat).all()


def test_the_largest_and_smallest_bits_give_finite_noise():
    ends = noise.between(torch.tensor([0, 2**32 - 1]))
    assert 0 < ends[0] < ends[1] < 1
    assert (-(-ends.log()).log()).isfinite().all()
