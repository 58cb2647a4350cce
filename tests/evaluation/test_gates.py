"""Limits of numbers: which number a name means."""

from types import SimpleNamespace

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.evaluation.gates import (
    check_conventions,
    check_gates,
    check_limits,
    known_as,
    read_limits,
)
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.metrics.protocol import Result


def results(**values):
    return [SimpleNamespace(metric=name, value=value) for name, value in values.items()]


def test_a_limit_is_for_the_number_of_its_very_name_before_those_that_begin_so():
    found = results(emoji_clip=5.0, emoji=0.5, emoji_name=0.9)
    (gate,) = check_gates(found, {}, {"emoji": 0.8})
    assert (gate.metric, gate.passed) == ("emoji", False)


def test_a_limit_without_a_number_of_its_name_is_for_the_first_that_begins_so():
    (gate,) = check_gates(results(fid5k=3.0, fid_other=9.0), {"fid": 4.0}, {})
    assert (gate.metric, gate.passed) == ("fid5k", True)


def test_the_score_of_emoji_and_its_rewards_can_be_limited():
    assert read_limits(["0.8"], ["emoji"], "--min") == {"emoji": 0.8}
    assert read_limits(["emoji_preference=1"], [], "--min") == {"emoji_preference": 1.0}


FULL = {
    "fid50k": "fid",
    "kid256": "kid",
    "precision_k3": "precision",
    "clip_score_g14": "clip",
    "shapes_clip": "shapes_clip",
    "emoji_clip": "emoji_clip",
    "emoji_name": "emoji",
    "hps_v2.1_concept-art": "hps",
    "geneval_shapes_counting": "geneval",
    "fidelity": "fidelity",
    "clipped": "clipped",
}


@pytest.mark.parametrize(("full", "known"), FULL.items())
def test_a_full_name_begins_with_a_known_one_and_a_longer_word_does_not(full, known):
    assert known_as(full) == known


@pytest.mark.parametrize(
    ("metric", "full"), [("clip", "shapes_clip"), ("image_reward", "emoji_preference")]
)
def test_a_metric_is_a_worlds_own_number_of_it(metric, full):
    limits = read_limits(["5"], [metric], "--min")
    (gate,) = check_gates([Result(full, 9.0, {})], {}, limits)
    assert (gate.metric, gate.passed) == (full, True)
    assert Evaluation([Result(full, 9.0, {})], {})[metric] == 9.0


@pytest.mark.parametrize("name", ["fidelity", "is5k", "clip"])
def test_a_limit_of_what_is_not_measured_is_refused_before(name):
    with pytest.raises(SpecError, match="is not measured"):
        read_limits([f"{name}=3"], ["fid"], "--max")
    with pytest.raises(SpecError, match=f"no number `{name}`"):
        check_limits([name], ["fid", "pr"])


def test_a_limit_of_another_count_or_of_other_neighbors_is_refused_before():
    told = ["fid5k", "precision_k3"]
    check_conventions(["fid", "fid5k", "precision", "precision_k3", "shapes_clip"], told)
    with pytest.raises(SpecError, match="`fid50k` to gate on: it is `fid5k` here"):
        check_conventions(["fid50k"], told)
    with pytest.raises(SpecError, match="it is `precision_k3` here"):
        check_conventions(["precision_k10"], told)
