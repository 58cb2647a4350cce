"""The bars of the digits preset, measured in full: minutes each, so run by `make slow`."""

import statistics

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from dimo_cli.sampling.samplers import student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import BUILTIN, load_student
from tests.helpers.measuring import yardstick_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher_fid():
    teacher = load_student(BUILTIN["digits"]).teacher
    yardstick = yardstick_for(teacher)

    def fid(steps):
        sampler, protocol = teacher_sampler(teacher, SamplerSpec(teacher=True, steps=steps))
        return yardstick.measure(sampler, images=5000, protocol=protocol).value

    return {steps: fid(steps) for steps in (1, 2, 4, 8, 16)}


def student_fid(folder, *sets):
    torch.set_num_threads(2)
    sets = [*sets, "monitor.table_samples=0", "monitor.fid_every=0"]
    spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
    student = distill(spec, folder, PlainView(lambda line: None)).student
    sampler, protocol = student_sampler(student)
    return yardstick_for(student.teacher).measure(sampler, images=5000, protocol=protocol).value


def test_the_teacher_shows_the_problem(teacher_fid):
    assert teacher_fid[1] >= 3 * min(teacher_fid.values())
    assert teacher_fid[2] >= 2 * teacher_fid[8]


def test_the_preset_matches_its_teacher_over_three_seeds(teacher_fid, tmp_path):
    fids = [student_fid(tmp_path / str(seed), f"train.seed={seed}") for seed in range(3)]
    assert statistics.mean(fids) <= 1.15 * min(teacher_fid.values())
    assert statistics.mean(fids) <= 0.35 * teacher_fid[1]


def test_all_masks_as_input_collapse_the_student(tmp_path):
    steps = "train.steps=500"
    preset = student_fid(tmp_path / "preset", steps)
    all_masks = student_fid(tmp_path / "masks", steps, "init.mask_ratio=1.0")
    assert all_masks >= 3 * preset


def test_the_built_in_student_is_better_than_its_teacher(teacher_fid):
    student = load_student(BUILTIN["digits"])
    sampler, protocol = student_sampler(student)
    score = yardstick_for(student.teacher).measure(sampler, images=5000, protocol=protocol)
    assert score.value <= min(teacher_fid.values())
