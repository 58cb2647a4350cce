"""A student with a latent is saved, loaded and refined with it, and refused where it has none."""

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.engine.refine import check_same_latent
from dimo_cli.engine.sharding import check_shardable
from dimo_cli.errors import SpecError
from dimo_cli.exporting.write import check_exportable
from dimo_cli.planning.memory import estimate_memory
from dimo_cli.runs.distill import distill
from dimo_cli.runs.plans import begin_refinement
from dimo_cli.students.folder import load_student
from tests.conftest import small_spec
from tests.helpers.tiny import tiny_teacher


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    spec = small_spec(student={"latent": True}, train={"steps": 2})
    return distill(spec, tmp_path_factory.mktemp("run"), PlainView(lambda line: None))


def test_a_loaded_student_draws_what_the_saved_one_did(finished):
    loaded = load_student(finished.folder)
    assert loaded.manifest.latent
    assert loaded.backbone.has_latent
    cond = loaded.teacher.conditioner.labels(torch.arange(4))
    images = [
        student.sample(cond, torch.Generator().manual_seed(3))
        for student in (finished.student, loaded)
    ]
    assert torch.equal(*images)


def test_a_refinement_of_it_has_a_latent_and_no_other_has(finished, teacher):
    begun = begin_refinement(str(finished.folder), "digits-gan", False, gan=True, reward=False)
    assert begun.brought["student"]["latent"] is True
    with pytest.raises(SpecError, match=r"`student\.latent` is false, and the student"):
        check_same_latent(teacher.backbone, finished.student.backbone)


def test_it_is_refused_where_a_latent_has_no_place(finished):
    with pytest.raises(SpecError, match=r"a latent .* and an exported program does not"):
        check_exportable(finished.student)
    with pytest.raises(SpecError, match=r"`student\.latent` cannot be combined with sharding"):
        check_shardable(small_spec(student={"latent": True}))


def test_a_student_without_one_says_nothing_of_it(teacher):
    from dimo_cli.students.folder import describe_run

    manifest = describe_run(small_spec(), teacher, "0" * 64)
    assert "latent" not in manifest.model_dump_json()


def test_its_memory_is_worked_out_with_the_latent():
    maskgit = tiny_teacher("maskgit")
    plain, more = (
        estimate_memory(maskgit, small_spec(student={"latent": latent}), on_gpu=False)
        for latent in (False, True)
    )
    assert more.weights > plain.weights
