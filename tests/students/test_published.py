"""Students of others: whole as they were pushed, and without a say in what is trusted."""

import json

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.errors import MissingError
from dimo_cli.hub.access import dimo_cache
from dimo_cli.hub.hashes import ACCEPTED
from dimo_cli.runs.refine import starting_student
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students import published
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.teachers.maskgit import VQGAN_WEIGHTS
from dimo_cli.teachers.registry import load_teacher, store_for
from tests.helpers.fake_hub import COMMIT
from tests.helpers.published import publish_maskgit
from tests.helpers.students import golden_student

ANOTHER = r"VQGAN/last\.ckpt.*is not the file that dimo knows"


@pytest.fixture
def stranger(fake_hub, golden, tmp_path):
    """The student of a teacher whose files are others than dimo knows."""
    folder = golden_student("maskgit", fake_hub, golden, tmp_path / "student")
    (dimo_cache() / ACCEPTED).unlink()  # it was made elsewhere
    return folder


def test_a_manifest_does_not_make_another_teacher_pass(stranger):
    facts = json.loads((stranger / "dimo.json").read_text())["teacher"]
    assert facts["revision"] == COMMIT
    assert facts["architecture"]
    with pytest.raises(MissingError, match=ANOTHER) as caught:
        load_student(stranger)
    assert "`dimo sample --preset PRESET --teacher`" in caught.value.hint


def test_nor_does_it_in_a_folder_that_the_user_names(stranger, fake_hub, tmp_path):
    for (repo, path), content in fake_hub.files.items():
        (tmp_path / "files" / repo / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / repo / path).write_bytes(content)
    place = str(tmp_path / "files")
    with pytest.raises(MissingError, match=ANOTHER) as caught:
        load_student(stranger, LoadOptions(local_dir=place))
    assert "teacher.revision=local" in caught.value.hint
    architecture = json.loads((stranger / "dimo.json").read_text())["teacher"]["architecture"]
    words = {"local_dir": place, "architecture": architecture}
    load_teacher(TeacherSource(name="maskgit", **words), with_backbone=False)
    load_student(stranger, LoadOptions(local_dir=place))


def test_a_refinement_takes_the_users_word_for_the_teacher_and_not_the_students(stranger):
    architecture = json.loads((stranger / "dimo.json").read_text())["teacher"]["architecture"]

    def start_of(**words):
        teacher = {"name": "maskgit", "architecture": architecture, **words}
        gan = {"enabled": True, "data": "tokens"}
        spec = RefineSpec.model_validate({"teacher": teacher, "start": str(stranger), "gan": gan})
        return starting_student(spec, PlainView(lambda line: None), torch.device("cpu"))

    with pytest.raises(MissingError, match="is not the file that dimo knows"):
        start_of()
    assert start_of(revision=COMMIT).manifest.teacher.revision == COMMIT
    start_of()  # it was accepted once


def test_a_user_may_take_any_file_of_a_folder_or_of_a_commit(tmp_path):
    for words in ({"local_dir": str(tmp_path), "revision": "local"}, {"revision": COMMIT}):
        source = TeacherSource(name="maskgit", **words)
        assert not store_for(source).knows(VQGAN_WEIGHTS)
    assert store_for(TeacherSource(name="maskgit", local_dir=str(tmp_path))).knows(VQGAN_WEIGHTS)


@pytest.fixture
def pushed(fake_hub):
    """A student on the Hub."""
    for path in BUILTIN["digits"].iterdir():
        fake_hub.add("some/body", path.name, path.read_bytes())
    return fake_hub


def test_manifest_and_weights_are_of_one_commit_also_while_the_student_is_pushed_again(pushed):
    weights = (BUILTIN["shapes"] / "model.safetensors").read_bytes()
    pushed.afterwards["dimo.json"] = lambda: pushed.push(
        "some/body", {"model.safetensors": weights}
    )
    student = published.open_student("some/body")
    assert student.manifest == load_student(BUILTIN["digits"]).manifest
    assert pushed.heads


def test_a_student_of_others_names_the_commit_that_its_teacher_was_read_at(
    fake_hub, golden, monkeypatch
):
    source = TeacherSource(name="maskgit", architecture=publish_maskgit(fake_hub, golden))
    load_teacher(source, with_backbone=False)
    monkeypatch.setattr(published, "foreign_source", lambda name: source)
    student = published.open_student("Yuanzhi/DiMO/maskgit")
    assert student.manifest.teacher.revision == student.teacher.revision == COMMIT
