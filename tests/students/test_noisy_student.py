"""A student that hears noise keeps its network for it in its folder, and says so."""

import json

import pytest
import torch

from dimo_cli.engine.input_noise import noise_of
from dimo_cli.engine.roles import starts_of
from dimo_cli.errors import SpecError
from dimo_cli.exporting.program import program_of
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.lowrank import ExtractSpec
from dimo_cli.students.folder import load_student, save_student
from dimo_cli.students.lowrank import extract_student
from tests.conftest import small_spec


@pytest.fixture
def saved(teacher, tmp_path):
    spec = small_spec(init={"noise": {"kind": "image", "dim": 8}, "mask_ratio": 1.0})
    backbone = starts_of(teacher, spec, ["student"])["student"]
    torch.manual_seed(0)
    torch.nn.init.normal_(noise_of(backbone).land.weight)
    return save_student(tmp_path / "student", spec, teacher, backbone), tmp_path / "student"


def test_it_draws_the_same_images_once_it_was_saved(saved, teacher):
    student, folder = saved
    again = load_student(folder)
    cond = teacher.conditioner.labels(torch.arange(10))

    def drawn(of, seed):
        return of.tokens(cond, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(student, 1), drawn(again, 1))
    assert not torch.equal(drawn(again, 1), drawn(again, 2))


def test_its_manifest_is_of_a_format_that_earlier_programs_refuse(saved):
    _, folder = saved
    manifest = json.loads((folder / "dimo.json").read_text())
    assert manifest["format"] == 3
    assert manifest["init"]["noise"] == {"kind": "image", "dim": 8, "law": "uniform"}
    assert "one noise vector of 8 numbers for each image" in (folder / "README.md").read_text()


def test_that_of_others_stays_as_it_was(teacher, tmp_path):
    spec = small_spec()
    save_student(
        tmp_path / "student", spec, teacher, starts_of(teacher, spec, ["student"])["student"]
    )
    manifest = json.loads((tmp_path / "student" / "dimo.json").read_text())
    assert manifest["format"] == 1
    assert "noise" not in manifest["init"]


def test_it_is_not_taken_apart_into_adapters(saved):
    with pytest.raises(SpecError, match=r"`init\.noise`.* adapters have no place"):
        extract_student(saved[0], ExtractSpec(student="-", rank=2))


def test_it_is_not_exported_yet(saved):
    with pytest.raises(SpecError, match=r"`init\.noise`"):
        program_of(saved[0], ExportSpec())
