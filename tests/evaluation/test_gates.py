"""Limits of numbers: which number a name means."""

from types import SimpleNamespace

from dimo_cli.evaluation.gates import check_gates, read_limits


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
