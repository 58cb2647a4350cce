"""The benchmarks of a card, at sizes that a CPU does in seconds: what is broken breaks here."""

import json
import sys

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import launches
from benchmarks.output import rows_table
from benchmarks.real import loss, sample, step, training
from benchmarks.real.pieces import Found, Row, Setting, measure_pieces
from benchmarks.real.profiling import busiest

CPU = torch.device("cpu")
TINY = Setting(CPU, tiny=True, rounds=1, seconds=0)
BENCHMARKS = {
    "step-maskbit": (step, "maskbit", "maskbit step over the released recipe"),
    "step-meissonic": (step, "meissonic", "meissonic peak over the released recipe"),
    "loss": (loss, None, "losses over whole tensors"),
    "sample-maskbit": (sample, "maskbit", "one-step maskbit 256 px, batch 2, eager"),
    "sample-meissonic": (sample, "meissonic", "one-step meissonic 128 px, batch 2, eager"),
    "training": (training, None, "digits training, batch 64"),
}


def forget(document):
    """Keeps nothing."""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_of_a_card_runs_tiny_on_a_cpu(name):
    module, shape, row = BENCHMARKS[name]
    document = module.measure(TINY, forget, shape)
    assert document["failed"] == {}
    got = {found["what"]: found["got"] for found in document["rows"]}
    assert got[row] > 0


def two_pieces(broken):
    return {
        "broken": broken,
        "sound": lambda setting: Found([Row("time", 2.0, 1.0, before=3.0)], {"batch": 4}),
    }


def test_a_shape_that_fails_loses_nothing_of_the_others():
    def broken(setting):
        raise RuntimeError("an illegal\nmemory access")

    kept = []
    setting = Setting(CPU, tiny=False, rounds=3)
    document = measure_pieces(
        "step",
        two_pieces(broken),
        setting,
        lambda found: kept.append(json.loads(json.dumps(found))),
    )
    assert document["failed"] == {"broken": "RuntimeError: an illegal memory access"}
    assert [row["what"] for row in document["rows"]] == ["time"]
    assert kept[0]["failed"], "what there is is kept after each shape"
    assert kept[1]["details"] == {"sound": {"batch": 4}}
    told = rows_table(document)
    assert "MISSED" in told
    assert "broken failed: RuntimeError" in told


def test_nothing_is_asked_of_tiny_sizes():
    pieces = two_pieces(lambda setting: Found([]))
    (row,) = measure_pieces("step", pieces, TINY, forget)["rows"]
    assert (row["asked"], row["before"], row["met"]) == (None, None, None)


@pytest.mark.parametrize(
    ("better", "got", "is_met"),
    [("lower", 0.9, True), ("lower", 1.1, False), ("higher", 0.9, False), ("higher", 1.1, True)],
)
def test_a_row_knows_which_side_is_the_better_one(better, got, is_met):
    assert Row("time", got, 1.0, better).is_met is is_met


def test_where_a_card_cannot_hold_both_sides_one_follows_the_other(monkeypatch):
    asked = []

    def sides(make, setting):
        asked.append(sorted(make))
        if len(make) > 1:
            raise torch.OutOfMemoryError
        return step.Measured(*(dict.fromkeys(make, number) for number in (1.0, 2, 3, {})))

    monkeypatch.setattr(step, "measure_sides", sides)
    found, took_turns = step.both_at_once({"dimo": None, "released": None}, TINY)
    each = (dict.fromkeys(("dimo", "released"), number) for number in (1.0, 2, 3, {}))
    assert found == step.Measured(*each)
    assert not took_turns
    assert asked == [["dimo", "released"], ["dimo"], ["released"]]


def test_the_command_writes_its_file_and_says_by_its_exit_code_what_failed(monkeypatch, tmp_path):
    def fails(size, device):
        raise RuntimeError("no memory")

    monkeypatch.setattr(loss, "Heads", fails)
    file = tmp_path / "loss.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "loss", "--tiny", "--json", str(file)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert json.loads(file.read_text())["failed"] == {"losses": "RuntimeError: no memory"}


def test_a_profile_names_what_took_most_of_the_time():
    large, small = torch.randn(400, 400), torch.randn(4, 4)

    def call():
        for _ in range(20):
            large @ large
        small.exp()

    found = busiest(call, TINY)
    assert found["busiest"][0]["name"] == "aten::mm"
    assert found["busiest"][0]["calls"] == 20
    assert 0 < found["busy_seconds"] <= found["seconds"]


def test_views_and_what_is_inside_a_compiled_function_are_no_launches():
    numbers = torch.ones(3, 2)
    with launches.counted() as seen:
        numbers.t().reshape(6).exp()  # a view, a copy, an operation
        seen.as_one(lambda: numbers.exp().exp().exp())()
        numbers.add_(1)
    assert seen.count == 4
