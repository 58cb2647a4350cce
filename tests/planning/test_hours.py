"""How long a run takes and what it costs is worked out from what was counted and measured."""

import json
from pathlib import Path

import pytest

from dimo_cli.planning import plan
from dimo_cli.planning.hours import (
    CONVOLVED,
    DOLLARS_AN_HOUR,
    H100_PEAK,
    PLAIN,
    Hours,
    cost_document,
    cost_words,
    counted_costs,
    seconds_on_h100,
    words,
)
from dimo_cli.planning.memory import MemoryEstimate
from dimo_cli.planning.plan import requirements
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import preset_names, refine_preset_names, resolve_spec

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu"


@pytest.mark.parametrize(("name", "share"), [("maskbit", PLAIN), ("meissonic", CONVOLVED)])
def test_the_shares_of_a_cards_peak_are_those_that_were_measured(name, share):
    measured = json.loads((MEASURED / f"step_{name}.json").read_text())["rows"]
    found = next(row["got"] for row in measured if row["what"] == f"{name} step MFU")
    assert share == pytest.approx(found, rel=0.01)


def test_a_step_that_was_measured_takes_on_an_h100_what_it_took():
    details = json.loads((MEASURED / "step_meissonic.json").read_text())["details"]["meissonic"]
    seconds = seconds_on_h100("meissonic", 1000 * details["flops_per_step"])
    assert seconds == pytest.approx(1000 * details["seconds"]["dimo"]["median"], rel=0.02)


def test_small_networks_keep_a_card_waiting_so_no_hours_are_told():
    assert seconds_on_h100("digits", 1e13) is None
    assert "under an hour" in cost_words(None)
    assert cost_document(None)["dollars"] is None


def test_a_cost_is_said_with_the_price_behind_it_and_that_it_is_an_estimate():
    hour = H100_PEAK * PLAIN * 3600
    seconds = seconds_on_h100("maskbit", 10 * hour)
    assert cost_words(seconds) == "about 10 hours, $25 at $2.50 an hour (an estimate)"
    assert cost_document(seconds) == {
        "h100_hours": 10.0, "dollars": 10 * DOLLARS_AN_HOUR, "dollars_an_hour": DOLLARS_AN_HOUR
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.1, "1 s"), (75, "75 s"), (600, "10 min"), (2 * 3600, "2.0 hours"), (4e6, "1,111 hours")],
)
def test_times_are_no_more_exact_than_an_estimate(seconds, told):
    assert words(seconds) == told


def test_what_is_not_known_is_null_for_machines():
    document = Hours(None, 36.0, 3600.0, "how").document()
    assert document["training"] is None
    assert (document["closing_table"], document["h100_hours"]) == (0.01, 1.0)


def test_every_preset_was_counted():
    assert set(counted_costs()) == {*preset_names(), *refine_preset_names()}
    assert {"family", "flops_per_step"} <= set(counted_costs()["maskbit"])


def test_the_list_of_presets_has_hours_and_cost(dimo):
    told = dimo("presets", "list")
    assert f"cost at ${DOLLARS_AN_HOUR:.2f} an hour" in " ".join(told.output.split())
    costs = json.loads(dimo("presets", "list", "--json").stdout)["costs"]
    assert costs["digits"]["h100_hours"] is None
    assert costs["maskbit"]["dollars"] == pytest.approx(
        DOLLARS_AN_HOUR * costs["maskbit"]["h100_hours"], rel=0.01
    )


def test_doctor_tells_hours_and_cost_of_a_preset(dimo):
    document = json.loads(dimo("doctor", "--preset", "digits", "--offline", "--json").stdout)
    assert document["preset"]["cost"] == cost_document(None)
    told = dimo("doctor", "--preset", "digits", "--offline").stdout
    assert "on one H100" in told


def test_what_doctor_says_of_a_preset_is_what_the_list_says(monkeypatch, dimo):
    monkeypatch.setattr(plan, "advice_to_fit", lambda *facts: None)
    monkeypatch.setattr(plan, "estimate_memory", lambda *facts: MemoryEstimate(1, 1, 1, 1))
    spec = resolve_spec(DistillSpec, preset="maskgit", environment={}).spec
    listed = json.loads(dimo("presets", "list", "--json").stdout)["costs"]["maskgit"]
    assert requirements(spec, ask_hub=False).document()["cost"] == listed
