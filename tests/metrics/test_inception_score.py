"""Inception Score in every convention."""

import math
import re

import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics import inception_score as module
from dimo_cli.metrics.inception_score import InceptionScore, Splits, inception_score
from dimo_cli.metrics.manifold import FeatureBank
from dimo_cli.metrics.protocol import Features

CONVENTIONS = {
    r"torch_fidelity_splits(\d+)_shuffle(\d+)": lambda n, seed: Splits(n, seed),
    r"torch_fidelity_splits(\d+)_noshuffle": lambda n: Splits(n, shuffle_seed=None),
    r"torch_fidelity_splits(1)": Splits,
    r"stylegan_style_splits(\d+)_noshuffle": lambda n: Splits(n, shuffle_seed=None),
    r"adm_split_size_(\d+)": lambda rows: Splits(rows=rows, shuffle_seed=None),
    r"dgm_eval_splits(\d+)_shuffle(\d+)": lambda n, seed: Splits(n, seed, drop_tail=True),
}


@pytest.fixture
def logits(golden):
    return golden("metrics/io.safetensors")["logits"]


@pytest.mark.parametrize("pattern", CONVENTIONS)
def test_score_is_that_of_the_convention(golden, logits, pattern):
    cases = {
        name: match
        for name in golden("metrics/expected.json")["inception_score"]
        if (match := re.fullmatch(pattern, name))
    }
    assert cases
    for name, match in cases.items():
        expected = golden("metrics/expected.json")["inception_score"][name]
        found = inception_score(logits, CONVENTIONS[pattern](*map(int, match.groups())))
        if isinstance(expected, dict):
            assert found.std == pytest.approx(expected["std"], rel=1e-6, abs=1e-9)
            expected = expected["mean"]
        assert found.mean == pytest.approx(expected, rel=1e-6)


def test_every_golden_convention_is_tested(golden):
    for name in set(golden("metrics/expected.json")["inception_score"]) - {"note"}:
        assert any(re.fullmatch(pattern, name) for pattern in CONVENTIONS), name
    assert Splits() == Splits(count=10, shuffle_seed=2020)


def test_reading_a_few_rows_at_a_time_changes_nothing(logits, monkeypatch):
    whole = inception_score(logits)
    monkeypatch.setattr(module, "ROWS", 7)
    parts = inception_score(logits)
    assert (whole.mean, whole.std) == pytest.approx((parts.mean, parts.std), rel=1e-12)


def test_sure_and_evenly_spread_classes_score_their_number():
    sure = 1e4 * torch.eye(5).repeat(40, 1)
    assert inception_score(sure).mean == pytest.approx(5, rel=0.1)
    assert inception_score(sure, Splits(1)).mean == pytest.approx(5)
    assert inception_score(torch.ones(50, 5)).mean == pytest.approx(1)


def test_ordered_classes_need_the_shuffle():
    ordered = 1e4 * torch.eye(10).repeat_interleave(30, 0)
    assert inception_score(ordered, Splits(shuffle_seed=None)).mean == pytest.approx(1)
    assert inception_score(ordered).mean > 8


def test_bad_logits_are_refused(logits):
    with pytest.raises(SpecError, match="at least 10 images, but there are 4"):
        inception_score(logits[:4])
    with pytest.raises(SpecError, match="NaN or infinite"):
        inception_score(logits * math.nan)


def test_the_metric_reads_logits_and_tells_its_protocol(logits):
    metric = InceptionScore(FeatureBank(*logits.shape))
    for first in range(0, len(logits), 100):
        part = logits[first : first + 100]
        batch = Batch(torch.zeros(len(part), 3, 1, 1), first)
        metric.add(Features(torch.zeros(len(part), 2), part), batch)
    metric.reduce()
    (result,) = metric.results()
    assert result.metric == f"is{len(logits)}"
    assert result.value == inception_score(logits).mean
    assert result.protocol["splits"] == 10
    assert result.protocol["shuffle_seed"] == 2020


def test_a_network_without_classes_has_no_inception_score():
    metric = InceptionScore(FeatureBank(4, 10))
    with pytest.raises(SpecError, match="needs class logits"):
        metric.add(Features(torch.zeros(4, 2)), Batch(torch.zeros(4, 3, 1, 1)))
