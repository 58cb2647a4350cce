"""The page of adapters has what was measured, and says so where nothing was."""

import pytest

from benchmarks.lora_ranks import SEEDS, WHOLE, Kept
from docs.generator.adapters import UNKNOWN, ranks_table
from tests.benchmarks.test_lora_ranks import best_at, carry_out


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "kept.json")


def test_nothing_is_compared_before_whole_copies_are_there(kept):
    assert ranks_table(kept) == UNKNOWN
    carry_out(kept, best_at(1.0), until=12)
    assert ranks_table(kept) == UNKNOWN


def test_a_pair_of_ranks_is_held_against_whole_copies(kept):
    carry_out(kept, best_at(1.0), until=12)
    for seed in SEEDS:
        kept.keep(kept.arm(WHOLE, WHOLE, seed), 1.0, 1.0)
        kept.keep(kept.arm(64, 64, seed), 1.05, 1.0)
        kept.keep(kept.arm(4, WHOLE, seed), 1.5, 1.0)
    kept.keep(kept.arm(4, 4, SEEDS[0]), 1.0, 1.0)  # one seed alone is not shown
    lines = ranks_table(kept).splitlines()[2:]
    assert len(lines) == 3
    assert lines[1] == ("| rank 64 | rank 64 | x 1 | 1.05, 1.05, 1.05 | 1.05 | 1.05 | within 1.1 |")
    assert lines[2].startswith("| rank 4 | whole |")
    assert "within" not in lines[2]
