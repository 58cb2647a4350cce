"""Curves of a report: thinned, smoothed, scaled, and told in words."""

import re

import pytest

from dimo_cli.reporting.charts import Chart, Series, axes, draw, round_steps, smooth, thin


def test_thinning_keeps_ends_and_spikes():
    points = [(i, 1.0) for i in range(10_000)]
    points[1234], points[7777], points[5000] = (1234, 99.0), (7777, -5.0), (5000, None)
    thinned = thin(points, 100)
    assert len(thinned) <= 100
    assert thinned[0] == (0, 1.0)
    assert thinned[-1] == (9999, 1.0)
    assert {(1234, 99.0), (7777, -5.0)} <= set(thinned)
    assert thinned == sorted(thinned)


def test_a_scale_is_logarithmic_only_where_a_linear_one_hides_the_curve():
    def chart(*values):
        return Chart("x", [Series("x", list(enumerate(values)))])

    assert chart(1e-6, 1.0, 10.0).is_logarithmic
    assert not chart(1.0, 2.0, 10.0).is_logarithmic
    assert not chart(0.0, 1e-6, 10.0).is_logarithmic  # zero has no logarithm


def test_what_is_next_to_nothing_lies_on_the_lower_edge():
    chart = Chart("entropy", [Series("entropy", [(1, 2.0), (2, 1e-3), (3, 1e-40)])])
    _, y_axis = axes(chart)
    assert y_axis.low == 2e-6
    assert y_axis(2.0) < y_axis(1e-3) < y_axis(1e-40) == y_axis(2e-6)


def test_a_long_curve_is_smoothed_and_a_short_one_is_not():
    zigzag = [(step, float(step % 2)) for step in range(200)]
    middle = [y for _, y in smooth(zigzag)][20:-20]
    assert all(0.4 < y < 0.6 for y in middle)
    assert smooth(zigzag[:40]) == zigzag[:40]
    powers = [(step, 10.0 ** (step % 2)) for step in range(200)]
    assert 2.5 < smooth(powers, is_logarithmic=True)[100][1] < 4  # 10 ** 0.5


def test_smoothing_closes_no_gap():
    points = [(step, None if step == 50 else 1.0) for step in range(100)]
    smoothed = smooth(points)
    assert smoothed[50] == (50, None)
    assert {y for _, y in smoothed if y is not None} == {1.0}


def test_a_curve_has_its_number_at_its_end():
    rising = Series("a", [(step, step / 100) for step in range(100)])
    close = Series("b", [(step, step / 100 + 0.001) for step in range(100)])
    drawn = draw(Chart("x", [rising, close]), "key")
    ends = re.findall(r'class="end c\d" x="\S+" y="(\S+)">([^<]+)', drawn)
    assert [text for _, text in ends] == ["0.981", "0.98"]
    (upper, _), (lower, _) = ends
    assert float(lower) - float(upper) >= 13  # they do not lie on each other
    assert drawn.count("curve raw") == 2


def test_a_chart_tells_in_words_what_it_shows():
    chart = Chart("FID", [Series("FID", [(10, 4.0), (20, None), (30, 2.0), (40, 2.5)])])
    words = chart.sentence()
    assert "FID: 4 at step 10, 2.5 at 40; lowest 2 at 30, highest 4 at 10." in words
    assert "Left out as not finite: 1 value." in words


def test_a_single_point_stands_in_the_middle_and_the_foot_has_whole_steps():
    drawn = draw(Chart("FID", [Series("FID", [(200, 4.0)])]), "fid")
    assert re.findall(r'class="x" x="[\d.]+" y="\d+">([\d.,]+)<', drawn) == ["199", "200", "201"]
    center, left, right = (
        float(re.search(pattern, drawn)[1])
        for pattern in (r'cx="([\d.]+)"', r'x="([\d.]+)" y="\d+">199', r'x="([\d.]+)" y="\d+">201')
    )
    assert center == pytest.approx((left + right) / 2)


def test_ticks_are_round_and_within():
    assert round_steps(0, 1) == [0, 0.5, 1.0]
    assert round_steps(3, 61) == [20, 40, 60]
    assert round_steps(-1, 1) == [-1.0, -0.5, 0.0, 0.5, 1.0]
