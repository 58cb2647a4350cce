"""Prompts of a dataset of the Hub, wherever a file of prompts can be named."""

import json

import pytest
import yaml

from dimo_cli.files.lines import FileLines
from dimo_cli.runs.prompts import prompts_at, with_commits
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from tests.helpers.fake_hub import COMMIT
from tests.helpers.tables import DATASET, as_lines, publish

PROMPTS = ("a red circle", "two blue squares", "a green triangle")
SHORT = ("--steps", "2", "--batch-size", "4")
SMALL = {"fid_every": 0, "table_samples": 0, "preview_every": 1000, "preview_images": 2}
UNSEEN = [word for key, value in SMALL.items() for word in ("--set", f"monitor.{key}={value}")]
NAMED, PINNED = "hub:owner/words:prompt", f"hub:owner/words:prompt@{COMMIT}"


@pytest.fixture
def hub(fake_hub):
    return publish(fake_hub, {"train.jsonl": as_lines({"prompt": p} for p in PROMPTS)})


def test_the_lines_of_a_large_file_are_read_when_they_are_asked_for(hub):
    lines = prompts_at(NAMED)
    assert isinstance(lines, FileLines)
    assert (len(lines), lines[0], lines[-1], lines[1:]) == (
        3, PROMPTS[0], PROMPTS[2], list(PROMPTS[1:]),
    )  # fmt: skip
    assert list(lines) == list(PROMPTS)
    with pytest.raises(IndexError):
        lines[3]


def test_a_run_trains_on_them_and_keeps_the_commit_and_goes_on_with_it(dimo, hub, tmp_path):
    flags = ("--set", f"condition.prompts={NAMED}", *SHORT, *UNSEEN, "--out", "run")
    done = dimo("distill", "--preset", "shapes", *flags)
    assert done.exit_code == 0, done.output
    spec = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert spec["condition"]["prompts"] == PINNED
    assert "3 prompts of" in done.stderr
    hub.push(DATASET, {"train.jsonl": as_lines([{"prompt": "another"}])})
    before = len(hub.requests)
    continued = with_commits(DistillSpec.model_validate(spec))
    assert continued.condition.prompts == PINNED
    assert list(prompts_at(PINNED)) == list(PROMPTS)
    assert len(hub.requests) == before


def test_a_dry_run_looks_and_downloads_nothing(dimo, hub):
    flags = ("--preset", "shapes", "--set", f"condition.prompts={NAMED}", "--dry-run", *SHORT)
    done = dimo("distill", *flags, *UNSEEN)
    assert done.exit_code == 0, done.output
    assert f"Prompts: {PINNED}, 8" in done.stderr
    assert "to download" in done.stderr
    assert hub.downloads() == [f"api/{DATASET}"]


@pytest.mark.parametrize(
    ("named", "told"),
    [("hub:owner/nothing", "no dataset `owner/nothing`"), ("hub:words", "hub:OWNER/NAME")],
)
def test_a_dry_run_refuses_what_is_not_there(dimo, hub, named, told):
    flags = ("--preset", "shapes", "--set", f"condition.prompts={named}", "--dry-run")
    refused = dimo("distill", *flags)
    assert refused.exit_code in (2, 3)
    assert told in refused.stderr


def test_classes_need_no_dataset(dimo, hub):
    flags = ("--preset", "digits", "--set", f"condition.prompts={NAMED}", *SHORT, "--out", "run")
    refused = dimo("distill", *flags)
    assert refused.exit_code == 2
    assert "takes classes" in refused.stderr
    assert hub.requests == []


def test_eval_draws_them_and_its_protocol_names_the_commit(dimo, hub):
    done = dimo("eval", "clip", "shapes", "--prompts", NAMED, "--json")
    if done.exit_code:  # the metric's network is no part of the tests
        done = dimo("eval", "fid", "shapes", "--prompts", NAMED, "--json")
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert result["protocol"]["prompt_set"] == PINNED
    assert result["protocol"]["images"] == 3


def test_tteo_optimizes_each_of_them(dimo, hub, tmp_path):
    done = dimo("tteo", "shapes", "--prompts-file", NAMED, "--budget", "bon8", "--out", "o")
    assert done.exit_code == 0, done.output
    found = [json.loads(path.read_text()) for path in (tmp_path / "o").glob("*/outcome.json")]
    assert {one["prompt"] for one in found} == set(PROMPTS)
    assert PINNED in done.stderr


@pytest.mark.slow
def test_a_sweep_trains_all_its_runs_on_one_commit(dimo, hub, tmp_path):
    over = ("--over", "student.optimizer.learning_rate=1e-5,1e-4")
    sets = ("--set", f"condition.prompts={NAMED}", "--set", "train.batch_size=4", *UNSEEN[4:])
    for _ in range(2):  # it is finished the second time
        done = dimo("sweep", "shapes", *over, "--steps", "2", *sets, "--out", "s")
        assert done.exit_code == 0, done.output
    specs = [yaml.safe_load(path.read_text()) for path in (tmp_path / "s").glob("*/run.yaml")]
    assert [spec["condition"]["prompts"] for spec in specs] == [PINNED] * 2


def test_what_a_run_is_measured_on_is_named_by_its_commit_too(hub):
    sets = [f"monitor.prompts={NAMED}"]
    spec = with_commits(resolve_spec(DistillSpec, preset="shapes", sets=sets).spec)
    assert spec.monitor.prompts == PINNED
    assert spec.condition.prompts is None
