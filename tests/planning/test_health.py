"""What `dimo doctor` finds is worth what it says."""

import re

import pytest

from dimo_cli.planning import health
from dimo_cli.planning.health import check_bf16


@pytest.fixture
def _no_card(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("_no_card")
def test_bf16_is_timed_on_matrices_of_a_networks_size_beside_fp32():
    found = check_bf16().found
    ratio, bf16, fp32 = map(float, re.findall(r"[\d.]+(?=x the| and| ms for)", found))
    assert bf16 > 0
    assert ratio == pytest.approx(bf16 / fp32, rel=0.2, abs=0.1)
    assert health.SIDE >= 512


@pytest.mark.usefixtures("_no_card")
def test_one_slow_try_says_nothing_about_bf16(monkeypatch):
    steps = iter([0.010] * 4 + [5.0] + [0.020] * 4 + [7.0])
    now = [0.0]

    def clock():
        clock.calls += 1
        if clock.calls % 2 == 0:
            now[0] += next(steps)
        return now[0]

    clock.calls = 0
    monkeypatch.setattr(health.time, "perf_counter", clock)
    monkeypatch.setattr(health, "SIDE", 2)
    assert check_bf16().found.startswith("on CPU, 2.0x the time of fp32")
