"""A run has one teacher, one student to start from and one set of prompts, in every process and
whenever it goes on."""

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.errors import SpecError
from dimo_cli.runs import distill as distilling
from dimo_cli.runs import refine as refining
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students import published
from dimo_cli.students.folder import BUILTIN
from dimo_cli.students.student import LoadOptions
from dimo_cli.teachers.maskgit import VQGAN_WEIGHTS
from dimo_cli.teachers.registry import load_teacher, store_for
from tests.conftest import small_spec
from tests.helpers.fake_hub import COMMIT
from tests.helpers.published import pickled, publish_halton, publish_maskgit
from tests.helpers.runs import change_contents, contents_of, copied, distilled

SILENT = PlainView(lambda line: None)


class Loaded(Exception):
    """As far as a test needs to go."""


def stop(*_):
    raise Loaded


@pytest.fixture
def run(finished_run, tmp_path):
    return copied(finished_run, tmp_path / "run")


def name_revision(run, revision):
    change_contents(run, 6, teacher={**contents_of(run, 6)["teacher"], "revision": revision})


def test_a_teacher_is_the_one_of_a_commit_wherever_main_is_by_now(fake_hub, golden, monkeypatch):
    source = TeacherSource(name="halton-tiny", architecture=publish_halton(fake_hub, golden))
    before = load_teacher(source).backbone.state_dict()
    weights = golden("halton/transformer.safetensors")
    changed = {name: tensor * 0.5 for name, tensor in weights.items()}
    changed = pickled({"model_state_dict": changed})
    head = fake_hub.push("llvictorll/Halton-MaskGIT", {"ImageNet_256_tiny.pth": changed})
    assert load_teacher(source).revision == head
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = load_teacher(source, commit=COMMIT)
    assert again.revision == COMMIT
    assert all(map(torch.equal, before.values(), again.backbone.state_dict().values()))


def test_a_commit_that_a_run_began_with_makes_no_file_pass():
    assert store_for(TeacherSource(name="maskgit"), commit=COMMIT).knows(VQGAN_WEIGHTS)


def test_a_run_goes_on_at_the_commit_of_its_teacher(run, monkeypatch):
    asked = []
    monkeypatch.setattr(distilling, "load_whole", lambda *asking: stop(asked.append(asking[-1])))
    name_revision(run, COMMIT)
    for folder, resume in ((run, True), (run.with_name("new"), False)):
        with pytest.raises(Loaded):
            distilled(folder, resume=resume)
    assert asked == [COMMIT, None]


def test_another_revision_of_the_teacher_is_refused(run):
    name_revision(run, "0")
    with pytest.raises(SpecError, match=r"begun with revision 0 of `digits`.* revision 1\."):
        distilled(run, steps=7, resume=True)


def start_of(monkeypatch, folder, start, resume=False):
    """Which student a refinement starts from."""
    found = []
    monkeypatch.setattr(refining, "starting_networks", lambda spec, *_: stop(found.append(spec)))
    spec = RefineSpec.model_validate({"start": start, "gan": {"enabled": True}})
    with pytest.raises(Loaded):
        refining.refine(spec, folder, SILENT, resume)
    return found[0].start


def test_a_refinement_names_the_commit_of_the_student_that_it_starts_from(
    fake_hub, monkeypatch, tmp_path
):
    for path in BUILTIN["digits"].iterdir():
        fake_hub.add("some/body", path.name, path.read_bytes())
    pinned = start_of(monkeypatch, tmp_path, "some/body")
    assert pinned == f"some/body@{COMMIT}"
    fake_hub.push("some/body", {"dimo.json": b"another"})
    assert published.look_at_student(pinned).teacher.name == "digits"
    for name in (pinned, "digits", "teacher"):
        assert start_of(monkeypatch, tmp_path, name) == name
    assert start_of(monkeypatch, tmp_path, "some/body", resume=True) == "some/body", "as it began"


def test_a_student_of_others_is_named_by_its_commit_too(fake_hub, golden):
    publish_maskgit(fake_hub, golden)
    name = "Yuanzhi/DiMO/maskgit"
    assert published.with_commit(name, LoadOptions()) == f"{name}@{COMMIT}"


def test_a_refinement_goes_on_at_the_commit_of_its_teacher(fake_hub, golden, monkeypatch):
    source = TeacherSource(name="maskgit", architecture=publish_maskgit(fake_hub, golden))
    load_teacher(source, with_backbone=False)
    monkeypatch.setattr(published, "foreign_source", lambda name: source)
    fake_hub.push("llvictorll/Maskgit-pytorch", {"README.md": b"other words"})
    student = published.open_student("Yuanzhi/DiMO/maskgit", LoadOptions(commit=COMMIT))
    assert student.teacher.revision == student.manifest.teacher.revision == COMMIT


def test_every_process_trains_on_what_the_first_one_found(monkeypatch, tmp_path):
    agreed, seen = small_spec(teacher={"name": "shapes"}, condition={"prompts": "agreed"}), []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distilling, "with_commits", stop)
    monkeypatch.setattr(distilling, "as_first_says", lambda said: agreed if said else said)
    monkeypatch.setattr(
        distilling, "attach_prompts", lambda teacher, spec, say: stop(seen.append(spec))
    )
    spec = small_spec(teacher={"name": "shapes"}, condition={"prompts": "hub:owner/words"})
    with pytest.raises(Loaded):
        distilling.distill(spec, tmp_path, SILENT)
    assert seen == [agreed]
