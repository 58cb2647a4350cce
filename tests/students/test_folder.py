"""A student folder: the same run gives the same bytes, and damage is told in a sentence."""

import hashlib
import json

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.runs.distill import distill
from dimo_cli.students.folder import BUILTIN, find_student, load_student
from tests.conftest import small_spec


def run(folder, **groups):
    return distill(small_spec(**groups), folder, PlainView(lambda line: None))


def folder_bytes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def student_folder(finished, tmp_path):
    import shutil

    return shutil.copytree(finished.folder / "student", tmp_path / "student")


def test_a_student_folder_is_complete(finished):
    names = {path.name for path in (finished.folder / "student").iterdir()}
    assert names == {"dimo.json", "model.safetensors", "README.md", "preview.png"}


def test_the_same_seed_twice_gives_the_same_student_to_the_byte(finished, tmp_path):
    again = run(tmp_path / "again")
    assert folder_bytes(again.folder / "student") == folder_bytes(finished.folder / "student")


def test_an_interrupted_and_resumed_run_gives_the_same_student_to_the_byte(finished, tmp_path):
    run(tmp_path / "cut", train={"steps": 4})
    view = PlainView(lambda line: None)
    resumed = distill(small_spec(), tmp_path / "cut", view, resume=True)
    assert folder_bytes(resumed.folder / "student") == folder_bytes(finished.folder / "student")


def test_a_loaded_student_samples_what_the_saved_one_did(finished):
    loaded = load_student(finished.folder)
    cond = loaded.teacher.conditioner.labels(torch.arange(4))
    images = [
        student.sample(cond, torch.Generator().manual_seed(3))
        for student in (finished.student, loaded)
    ]
    assert torch.equal(*images)
    assert images[0].shape == (4, 3, 8, 8)


def test_run_folder_and_student_folder_mean_the_same(finished):
    assert find_student(finished.folder) == find_student(finished.folder / "student")


def test_the_manifest_says_how_the_student_was_made(finished):
    manifest = json.loads((finished.folder / "student" / "dimo.json").read_text())
    assert manifest["teacher"]["name"] == "digits"
    assert manifest["training"]["steps"] == 6
    assert manifest["training"]["samples"] == 48
    assert manifest["init"]["mask_ratio"] == {"kind": "fixed", "value": 0.6}


def test_truncated_weights_are_refused(student_folder):
    weights = student_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(MissingError, match="does not match the hash") as caught:
        load_student(student_folder)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 4}, "format"),
        ({"extra": 1}, "extra"),
        ({"weights_sha256": "short"}, "weights_sha256"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_its_field(student_folder, change, words):
    path = student_folder / "dimo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SpecError, match=words):
        load_student(student_folder)


def test_a_manifest_that_is_not_json_is_refused(student_folder):
    (student_folder / "dimo.json").write_text("{")
    with pytest.raises(SpecError, match="not a valid manifest"):
        load_student(student_folder)


def test_a_student_of_an_unknown_teacher_says_to_upgrade(student_folder):
    path = student_folder / "dimo.json"
    path.write_text(path.read_text().replace('"name": "digits"', '"name": "future"'))
    with pytest.raises(MissingError, match="future"):
        load_student(student_folder)


def test_weights_of_another_shape_are_refused(student_folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(student_folder / "model.safetensors")
    weights["to_logits.bias"] = torch.zeros(3)
    save_file(weights, student_folder / "model.safetensors")
    path = student_folder / "dimo.json"
    manifest = json.loads(path.read_text())
    data = (student_folder / "model.safetensors").read_bytes()
    path.write_text(json.dumps(manifest | {"weights_sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(MissingError, match=r"to_logits\.bias"):
        load_student(student_folder)


@pytest.mark.parametrize(("made", "words"), [(False, "does not exist"), (True, "holds no student")])
def test_a_folder_without_a_student_is_told_apart_from_none(tmp_path, made, words):
    folder = tmp_path / "x"
    if made:
        folder.mkdir()
    with pytest.raises(MissingError, match=words):
        find_student(folder)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    (tmp_path / "run.yaml").touch()
    with pytest.raises(MissingError) as caught:
        find_student(tmp_path)
    assert "--resume" in caught.value.hint


def test_the_built_in_student_loads():
    for name, folder in BUILTIN.items():
        assert load_student(folder).manifest.teacher.name == name
