"""RUN@best, RUN@last and RUN@step-N: a checkpoint of a run, wherever a student is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.publishing.package import prepare
from dimo_cli.run_folder.checkpoints import read_contents
from dimo_cli.run_folder.naming import checkpoint_names
from dimo_cli.specs.push import PushSpec
from dimo_cli.students.checkpoints import choice_of
from dimo_cli.students.folder import load_student
from dimo_cli.students.names import AtCheckpoint
from dimo_cli.students.published import hub_id, look_at_student, open_student
from dimo_cli.students.student import LoadOptions
from tests.helpers.runs import as_earlier, change_contents, contents_of, copied, distilled


@pytest.fixture
def run(finished_run, tmp_path):
    return copied(finished_run, tmp_path / "run")


def weights(student):
    return student.backbone.state_dict()


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in {*one, *two})


def test_the_last_checkpoint_of_a_finished_run_is_its_student(finished_run):
    last, final = open_student(f"{finished_run}@last"), load_student(finished_run)
    assert last.manifest == final.manifest
    assert same(weights(last), weights(final))


@pytest.mark.parametrize(("name", "step"), [("step-3", 3), ("best", 2)])
def test_a_checkpoint_is_the_averaged_student_of_its_step(finished_run, name, step):
    student = open_student(f"{finished_run}@{name}")
    averaged = load_file(finished_run / "checkpoints" / f"step-{step}" / "ema.safetensors")
    assert same(weights(student), averaged)
    assert student.manifest.training.steps == step
    assert student.manifest.training.samples == 8 * step


def test_what_was_the_best_has_no_number_of_a_better_one_since(run):
    name = AtCheckpoint(run, "best")
    contents = read_contents(name.folder)
    assert choice_of(name, contents).value == 1.0
    better = {"best_step": 3, "best_metric": "fid", "best_value": 0.5}
    change_contents(run, 6, progress=better)
    found = choice_of(name, contents)
    assert (found.step, found.metric, found.value) == (2, None, None)


def test_an_unfinished_run_has_students_as_well(unfinished_run):
    with pytest.raises(MissingError, match="unfinished run") as caught:
        open_student(unfinished_run)
    assert "@last" in caught.value.hint
    assert open_student(f"{unfinished_run}@last").manifest.training.steps == 3


def test_the_names_that_a_run_has(finished_run, unfinished_run, tmp_path):
    assert checkpoint_names(finished_run) == ["step-2", "step-3", "step-6", "best", "last"]
    assert checkpoint_names(unfinished_run) == ["step-2", "step-3", "best", "last"]
    assert checkpoint_names(tmp_path) == []


def test_what_is_not_there_is_said_with_what_is(run):
    with pytest.raises(MissingError, match="no checkpoint `step-5`") as caught:
        open_student(f"{run}@step-5")
    assert "has step-2, step-3, step-6, best, last." in caught.value.hint
    with pytest.raises(MissingError) as caught:
        open_student(f"{run}@bets")
    assert "Did you mean" in caught.value.hint
    assert "@best" in caught.value.hint


def test_a_best_checkpoint_that_was_not_kept_is_said(run):
    shutil.rmtree(run / "checkpoints" / "step-2")
    with pytest.raises(MissingError, match="was 2, which was not kept") as caught:
        open_student(f"{run}@best")
    assert "has step-3, step-6, last." in caught.value.hint


def test_where_nothing_was_measured_none_is_the_best(tmp_path):
    distilled(tmp_path / "r", steps=1)
    with pytest.raises(MissingError, match="not known which step"):
        open_student(f"{tmp_path / 'r'}@best")


def test_a_damaged_checkpoint_is_no_student(run):
    path = run / "checkpoints" / "step-6" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(MissingError, match=r"ema\.safetensors has other bytes"):
        open_student(f"{run}@last")


def test_a_checkpoint_of_an_earlier_dimo_says_so(run):
    as_earlier(run)
    with pytest.raises(SpecError, match="earlier dimo"):
        open_student(f"{run}@last")


def test_a_folder_of_that_name_goes_before_a_checkpoint(run, finished_run):
    other = shutil.copytree(finished_run / "student", run.with_name("run@last"))
    assert open_student(str(other)).manifest.training.steps == 6
    assert open_student(f"{run}@step-3").manifest.training.steps == 3


def test_a_run_below_a_folder_is_no_hub_id(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    name = f"{run.parent.name}/run@best"
    assert hub_id(name) is None
    assert hub_id("owner/name@best")
    assert look_at_student(name).training.steps == 2


def test_the_rows_of_several_ranks_make_one_student(run):
    """As FSDP2 leaves them; the hash is that of the file that the final student would have."""
    from safetensors.torch import save_file

    from dimo_cli.run_folder.verifying import facts_of

    folder = run / "checkpoints" / "step-6"
    whole, final = load_file(folder / "ema.safetensors"), load_student(run)
    name = max(whole, key=lambda key: len(whole[key]) if whole[key].ndim > 1 else 0)
    rows = whole.pop(name)
    files = {"ema.safetensors": whole}
    for rank, part in enumerate(rows.split(len(rows) // 2 + 1)):
        files[f"ema-{rank:05d}-of-00002.safetensors"] = {name: part.contiguous()}
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    facts = {file: facts_of(folder / file).model_dump() for file in files}
    change_contents(run, 6, files={**contents_of(run, 6)["files"], **facts})
    student = open_student(f"{run}@last")
    assert same(weights(student), weights(final))
    assert student.manifest.weights_sha256 == final.manifest.weights_sha256


def test_a_checkpoint_is_pushed_as_a_student_of_its_step(finished_run, tmp_path):
    spec = PushSpec(target=f"{finished_run}@step-3", repository="me/digits")
    package = prepare(spec, tmp_path, LoadOptions())
    manifest = json.loads((tmp_path / "student" / "dimo.json").read_text())
    assert manifest["training"]["steps"] == 3
    assert package.student.manifest.weights_sha256 == manifest["weights_sha256"]


def test_python_takes_a_checkpoint_as_well(finished_run):
    from dimo_cli import OneStepPipeline

    pipeline = OneStepPipeline.from_pretrained(f"{finished_run}@step-3")
    assert pipeline.student.manifest.training.steps == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--student", "{}", "-n", 2),
        ("compare", "digits", "{}", "{}@teacher:1", "--class", 7, "-n", 1),
        ("eval", "fid", "{}", "-n", 100),
        ("export", "{}", "--out", "program.pt2"),
        ("eval", "fidelity", "{}", "-n", 2),
        ("push", "{}", "me/digits", "--dry-run"),
        ("refine", "{}", "--gan", "--dry-run"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_every_command_takes_a_checkpoint(dimo, unfinished_run, arguments):
    name = f"{unfinished_run}@step-3"
    done = dimo(*(str(word).format(name) for word in arguments), "--json")
    assert done.exit_code == 0, done.stderr
    json.loads(done.stdout)


def test_a_refinement_remembers_the_step_that_it_began_with(dimo, finished_run):
    done = dimo("refine", f"{finished_run}@best", "--gan", "--dry-run", "--json")
    spec = json.loads(done.stdout)["spec"]
    assert spec["start"] == f"{finished_run}@step-2"
