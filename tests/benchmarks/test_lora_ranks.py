"""Adapters and whole copies are compared at rates that suit them, and nothing is trained twice."""

import math
from itertools import islice

import pytest

from benchmarks import lora_ranks
from benchmarks.lora_ranks import SEEDS, TRIED_AT, WHOLE, Arm, Kept, Role, arms, pairs, trial


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "kept.json")


def carry_out(kept, fid_of, until=1000):
    """All trainings in their order, with FIDs that somebody makes up."""
    done = []
    for arm in islice(arms(kept), until):
        kept.keep(arm, fid_of(arm), 1.0)
        done.append(arm)
    return done


def best_at(factor):
    """FIDs that grow with the distance from the best rates."""
    return lambda arm: 1 + abs(math.log2(arm.student.factor / factor))


def test_rates_are_found_at_a_seed_of_their_own_before_anything_is_compared(kept):
    done = carry_out(kept, best_at(1.0))
    seeds = [arm.seed for arm in done]
    assert seeds == [TRIED_AT] * 12 + [seed for seed in SEEDS for _ in pairs()]
    assert TRIED_AT not in SEEDS
    assert {arm.student.factor for arm in done[12:]} == {1.0}
    assert list(arms(kept)) == []


@pytest.mark.parametrize(
    ("best", "tried"), [(4.0, [0.5, 1, 2, 4, 8]), (0.25, [0.125, 0.25, 0.5, 1, 2])]
)
def test_rates_are_tried_until_both_neighbors_of_the_best_are_known(kept, best, tried):
    carry_out(kept, best_at(best), until=6)
    assert list(kept.tried(WHOLE)) == tried
    assert kept.best_role(WHOLE) == Role(WHOLE, best)


def test_an_arm_says_all_that_it_changes(kept):
    arm = Arm(Role(4, 2.0), Role(WHOLE, 0.5), 1)
    assert "student.lora.rank=4" in arm.sets()
    assert "student.optimizer.learning_rate=0.0008" in arm.sets()
    assert "auxiliary.lora.rank=0" in arm.sets()
    assert "auxiliary.optimizer.learning_rate=0.00125" in arm.sets()


def test_what_was_trained_is_known_again_and_other_settings_are_not(kept, monkeypatch):
    arm = trial(4, 0.5)
    kept.keep(arm, 0.9, 1.0)
    again = Kept(kept.path)
    assert again.value(arm) == 0.9
    monkeypatch.setattr(lora_ranks, "STEPS", lora_ranks.STEPS + 1)
    assert again.value(arm) is None


def test_the_fids_of_a_pair_are_there_by_seed(kept):
    carry_out(kept, best_at(1.0), until=12)
    for seed in SEEDS[:2]:
        kept.keep(kept.arm(4, WHOLE, seed), 0.5 + seed, 1.0)
    assert kept.by_seed(4, WHOLE) == {0: 0.5, 1: 1.5}
    assert kept.by_seed(WHOLE, 4) == {}
