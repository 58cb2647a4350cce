"""Adapters and whole copies are compared at rates that suit them, and nothing is trained twice."""

import pytest

from benchmarks import lora_ranks
from benchmarks.lora_ranks import FACTORS, RANKS, SEEDS, WHOLE, Arm, Kept, Role, arms, pairs, tries


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "kept.json")


def fill(kept, fid=1.0):
    """Remember all rates, the last of which is the best."""
    for rank in (WHOLE, *RANKS):
        for arm, value in zip(tries(rank), (fid + 0.2, fid + 0.1, fid), strict=True):
            kept.keep(arm, value, 1.0)


def test_rates_are_found_at_a_seed_of_their_own_before_anything_is_compared(kept):
    assert {arm.seed for arm in arms(kept)} == {lora_ranks.TRIED_AT}
    assert lora_ranks.TRIED_AT not in SEEDS
    fill(kept)
    compared = [arm for arm in arms(kept) if arm.seed in SEEDS]
    assert len(compared) == len(SEEDS) * len(pairs()) == 30
    assert {arm.student.factor for arm in compared} == {FACTORS[-1]}


def test_whole_copies_may_choose_their_rates_as_well(kept):
    assert [arm.student.factor for arm in tries(WHOLE)] == list(FACTORS)


def test_an_arm_says_all_that_it_changes(kept):
    arm = Arm(Role(4, 2.0), Role(WHOLE, 0.5), 1)
    assert "student.lora.rank=4" in arm.sets()
    assert "student.optimizer.learning_rate=0.0008" in arm.sets()
    assert "auxiliary.lora.rank=0" in arm.sets()
    assert "auxiliary.optimizer.learning_rate=0.00125" in arm.sets()


def test_what_was_trained_is_known_again_and_other_settings_are_not(kept, monkeypatch):
    arm = tries(4)[0]
    kept.keep(arm, 0.9, 1.0)
    again = Kept(kept.path)
    assert again.value(arm) == 0.9
    monkeypatch.setattr(lora_ranks, "STEPS", lora_ranks.STEPS + 1)
    assert again.value(arm) is None


def test_the_fids_of_a_pair_are_there_by_seed(kept):
    fill(kept)
    for seed in SEEDS[:2]:
        kept.keep(kept.arm(4, WHOLE, seed), 0.5 + seed, 1.0)
    assert kept.by_seed(4, WHOLE) == {0: 0.5, 1: 1.5}
    assert kept.by_seed(WHOLE, 4) == {}
