"""A run goes on from its own checkpoints, and as what it was."""

import json
import shutil

import pytest

from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.run_folder.state import finished_as
from dimo_cli.specs.checkpoint import settings_hash
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from tests.helpers.runs import as_earlier, change_contents, contents_of, copied, distilled


@pytest.fixture
def run(finished_run, tmp_path):
    return copied(finished_run, tmp_path / "run")


def test_a_checkpoint_says_which_run_it_is_of_and_lists_all_its_files(finished_run):
    said = contents_of(finished_run, 6)
    assert said["run"] == json.loads((finished_run / "run.json").read_text())["id"]
    assert said["step"] == said["progress"]["step"] == 6
    assert said["spec"]["init"]["mask_ratio"] == {"kind": "fixed", "value": 0.6}
    assert "monitor" not in said["spec"]
    assert "steps" not in said["spec"]["train"]
    assert said["spec_sha256"] == settings_hash(said["spec"])
    folder = finished_run / "checkpoints" / "step-6"
    assert {*said["files"], "contents.json"} == {path.name for path in folder.iterdir()}


def test_two_runs_of_one_spec_have_ids_of_their_own(finished_run, tmp_path):
    distilled(tmp_path / "other", steps=1)
    assert contents_of(tmp_path / "other", 1)["run"] != contents_of(finished_run, 6)["run"]


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    distilled(tmp_path / "other", steps=1, train={"seed": 1})
    foreign = shutil.copytree(tmp_path / "other/checkpoints/step-1", run / "checkpoints/step-9")
    change_contents(run, 9, step=9)
    with pytest.raises(SpecError, match="step-9` is of another run") as caught:
        distilled(run, steps=12, resume=True)
    assert "Move it out" in caught.value.hint
    assert foreign.is_dir()


def test_a_run_that_lost_its_id_is_not_taken_for_another(run):
    (run / "run.json").unlink()
    with pytest.raises(SpecError, match=r"its run\.json is missing"):
        distilled(run, steps=7, resume=True)


@pytest.mark.parametrize(
    "left",
    [
        *("checkpoints/step-100/ema.safetensors", "log.jsonl", "report.html"),
        *("student/thesis.txt", "samples/me.png"),
    ],
)
def test_a_new_run_is_refused_where_another_one_left_something(tmp_path, left):
    precious = tmp_path / "taken" / left
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with pytest.raises(SpecError, match=f"no run.yaml, but {left.split('/')[0]}") as caught:
        distilled(tmp_path / "taken", steps=1)
    assert "another `--out`" in caught.value.hint
    assert [path for path in (tmp_path / "taken").rglob("*") if path.is_file()] == [precious]


def test_a_run_does_not_go_on_where_its_student_would_replace_what_is_none(run):
    (run / "student" / "thesis.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"'thesis\.txt' in it is no student's") as caught:
        distilled(run, steps=7, resume=True)
    assert "Move it away" in caught.value.hint
    assert "steps: 6" in (run / "run.yaml").read_text(), "what was refused is left as it was"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda step: (step / "auxiliary.safetensors").unlink(), "auxiliary.safetensors is miss"),
        (lambda step: (step / "student-2.safetensors").touch(), "student-2.safetensors is not in"),
        (lambda step: step.rename(step.with_name("step-7")), "it was written as step-6"),
    ],
)
def test_a_missing_an_unlisted_and_a_renamed_checkpoint_give_way_to_the_one_before(
    run, damage, words
):
    damage(run / "checkpoints" / "step-6")
    said = distilled(run, steps=7, resume=True)
    assert any(words in line and "going on from step" in line for line in said), said


def test_settings_that_were_edited_in_a_checkpoint_are_damage(run):
    said = contents_of(run, 6)["spec"]
    change_contents(run, 6, spec={**said, "train": {**said["train"], "seed": 5}})
    said = distilled(run, steps=7, resume=True)
    assert any("not those that were written" in line for line in said), said


@pytest.mark.parametrize("look", [(), ("--dry-run",)])
def test_an_edited_run_yaml_does_not_change_what_cannot_change(run, dimo, look):
    path = run / "run.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 4"))
    refused = dimo("distill", "--resume", run, "--set", "train.steps=7", *look)
    assert refused.exit_code == 2, refused.stderr
    assert "cannot change `train.seed`" in refused.stderr
    assert "0 before, 4 now" in refused.stderr
    assert "seed: 4" in path.read_text(), "what was refused is left as it was"


@pytest.mark.parametrize("look", [(), ("--dry-run",)])
def test_a_run_that_is_asked_for_fewer_steps_than_it_has_stays_as_it_was(run, dimo, look):
    before = (run / "run.yaml").read_text()
    refused = dimo("distill", "--resume", run, "--steps", 4, *look)
    assert refused.exit_code == 2, refused.stderr
    assert "`train.steps` is 4, but the run is at step 6 already" in refused.stderr
    assert (run / "run.yaml").read_text() == before


def test_a_run_of_an_earlier_dimo_is_continued_by_its_run_yaml(run):
    as_earlier(run)
    with pytest.raises(SpecError, match=r"cannot change `train\.seed`"):
        distilled(run, steps=7, resume=True, train={"seed": 1})
    distilled(run, steps=7, resume=True)
    assert contents_of(run, 7)["run"] is None


def test_where_no_checkpoint_is_whole_the_run_says_what_is_wrong_with_each(run):
    for path in run.glob("checkpoints/step-*/state.pt"):
        path.write_bytes(b"")
    with pytest.raises(MissingError, match=r"step-6 \(state\.pt has 0 bytes"):
        distilled(run, steps=7, resume=True)
    assert (run / "checkpoints" / "step-6").is_dir()


def test_settings_of_a_version_to_come_are_said(run):
    settings = {**contents_of(run, 6)["spec"], "novelty": 1}
    change_contents(run, 6, spec=settings, spec_sha256=settings_hash(settings))
    with pytest.raises(DimoError, match="another version of dimo"):
        distilled(run, steps=7, resume=True)


def test_a_finished_run_says_so_and_trains_and_measures_nothing(run, dimo, monkeypatch):
    def never(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr("dimo_cli.runs.distill.distill", never)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = dimo("distill", "--resume", run, "--set", "train.log_every=2")
    assert done.exit_code == 0, done.stderr
    assert "is finished: its student is of step 6" in done.stdout
    assert "--set train.steps=12" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    said = json.loads(dimo("distill", "--resume", run, "--json").stdout)
    assert said == json.loads((run / "summary.json").read_text())


def spec_at(run, *sets):
    return resolve_spec(DistillSpec, file=run / "run.yaml", sets=sets).spec


@pytest.mark.parametrize("setting", ["train.steps=7", "monitor.table_samples=100", "train.seed=1"])
def test_a_finished_run_that_is_asked_for_more_is_not_finished(finished_run, setting):
    assert finished_as(finished_run, spec_at(finished_run))
    assert finished_as(finished_run, spec_at(finished_run, setting)) is None


def test_a_run_that_was_killed_while_it_was_measured_is_not_finished(run):
    (run / "summary.json").unlink()
    assert finished_as(run, spec_at(run)) is None
