"""What a run is held against: any metric of `dimo eval`, of generators in memory."""

import json

import numpy as np
import pytest
import torch

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.evaluation.yardstick import check_measurable
from dimo_cli.metrics.references import builtin_reference, real_digits
from dimo_cli.sampling.samplers import student_sampler, teacher_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.metrics import TITLES, falls, is_better, title_of
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.teachers.digits import training_tokens
from tests.conftest import small_spec
from tests.helpers.measuring import yardstick_for

HASH = 16  # digits of a hash that are shown


@pytest.fixture(scope="module")
def shapes():
    return load_student(BUILTIN["shapes"])


def two_steps(teacher):
    return teacher_sampler(teacher, SamplerSpec(teacher=True, steps=2))


def measured(teacher, images=300, **monitor):
    sampler, protocol = two_steps(teacher)
    return yardstick_for(teacher, **monitor).measure(sampler, images=images, protocol=protocol)


def test_a_measurement_carries_its_protocol_and_repeats_exactly(teacher):
    yardstick = yardstick_for(teacher)
    sampler, protocol = two_steps(teacher)
    first, second, other = (
        yardstick.measure(sampler, images=images, protocol=protocol) for images in (300, 300, 200)
    )
    assert first.value == second.value
    assert (first.metric, other.metric) == ("fid300", "fid200")
    row = first.as_dict()
    assert row["sampler"]["steps"] == 2
    assert row["reference"] == "digits-train-1797"
    assert len(row["features_sha256"]) == len(row["reference_sha256"]) == HASH


def in_turn(rows):
    """A sampler that draws nothing: these real digits come one after another."""
    images, order = real_digits().float() / 127.5 - 1, iter(rows)
    return lambda cond, generator: images[[next(order) for _ in range(len(cond))]]


def test_all_real_digits_are_at_the_reference(teacher):
    found = yardstick_for(teacher).measure(in_turn(range(1797)), images=1797, protocol={})
    assert found.value < 1e-3


def test_real_digits_are_taken_for_what_they_are(teacher):
    _, labels = training_tokens()
    by_class = [(labels == digit).nonzero().flatten().tolist() for digit in range(10)]
    rows = [by_class[number % 10][number // 10] for number in range(1000)]
    found = yardstick_for(teacher).measure(in_turn(rows), images=1000, protocol={})
    assert found.accuracy > 0.99


def test_noise_is_far_from_the_reference(teacher):
    def noise(cond, generator):
        return torch.rand(len(cond), 3, 8, 8, generator=generator) * 2 - 1

    assert yardstick_for(teacher).measure(noise, images=1000, protocol={}).value > 20


@pytest.mark.parametrize("metric", ["kid", "is", "precision", "coverage"])
def test_every_number_of_the_features_can_be_asked_for_by_its_name(teacher, metric):
    assert measured(teacher, 100, metric=metric).metric.startswith(metric)


def test_a_file_of_statistics_gives_the_value_of_the_images_it_is_of(teacher, tmp_path):
    gaussian = builtin_reference("digits").gaussian
    file = tmp_path / "mine.npz"
    np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
    mine = measured(teacher, reference=str(file))
    assert mine.facts["reference"] == "mine"
    assert mine.value == pytest.approx(measured(teacher).value, rel=1e-12)


def test_a_text_teacher_has_a_fid_and_says_of_which_prompts(shapes):
    sampler, protocol = student_sampler(shapes)
    found = yardstick_for(shapes.teacher).measure(sampler, images=100, protocol=protocol)
    assert found.metric == "fid100"
    assert found.accuracy is None
    assert found.facts["reference"] == "shapes-train-10000"
    assert found.facts["prompts"] == "captions of shapes"


def test_geneval_takes_all_its_prompts_and_keeps_its_tasks(shapes):
    sampler, protocol = student_sampler(shapes)
    yardstick = yardstick_for(shapes.teacher, metric="geneval")
    found = yardstick.measure(sampler, images=100, protocol=protocol)
    assert found.images == yardstick.count(100) == 300
    assert found.metric == "geneval_shapes"
    assert found.value > 0.5
    assert found.value == pytest.approx(np.mean(list(found.details["tasks"].values())))


def test_prompts_of_a_file_are_measured_on_in_turn(shapes, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a red circle\ntwo blue squares\n")
    yardstick = yardstick_for(shapes.teacher, prompts=str(file))
    assert yardstick.wanted(3) == ["a red circle", "two blue squares", "a red circle"]


def test_prompts_that_a_benchmark_would_not_read_are_refused(shapes, tmp_path):
    (tmp_path / "mine.txt").write_text("a red circle\n")
    with pytest.raises(SpecError, match=r"`monitor.prompts` is `mine`, and nothing would read it"):
        yardstick_for(shapes.teacher, metric="geneval", prompts=str(tmp_path / "mine.txt"))


def test_a_network_that_looks_at_other_sizes_is_refused_before_training(shapes):
    with pytest.raises(SpecError, match="8x8 images; these are 32x32"):
        yardstick_for(shapes.teacher, reference="digits")


REFUSED = [
    ("maskgit", {}, "FID has no built-in reference for `maskgit`", "monitor.reference=FILE"),
    ("maskgit", {"metric": "coverage"}, "coverage has no built-in", "monitor.fid_every=0"),
    ("maskgit", {"reference": "no.npz"}, "`no.npz`, which does not exist", "dimo eval ref build"),
    ("digits", {"metric": "fdd"}, "FD-DINOv2 has no built-in reference", "monitor.reference"),
    ("digits", {"metric": "geneval"}, "`digits` takes classes", "Choose one of fid"),
    ("digits", {"prompts": "a.txt"}, "`digits` takes classes", "Leave it out"),
    ("digits", {"metric": "emoji"}, "`digits` takes classes", "Choose one of fid"),
    ("shapes", {"metric": "emoji"}, "pictures of the teacher `emoji`", "Choose another of fid"),
    ("meissonic", {"metric": "geneval"}, "no prompts of its own", "monitor.prompts=geneval=FILE"),
]


@pytest.mark.parametrize(("teacher", "monitor", "problem", "hint"), REFUSED)
def test_what_cannot_be_measured_is_refused_with_what_to_set(teacher, monitor, problem, hint):
    spec = DistillSpec.model_validate({"teacher": {"name": teacher}, "monitor": monitor})
    with pytest.raises((SpecError, MissingError)) as refused:
        check_measurable(spec)
    assert problem in refused.value.message
    assert hint in refused.value.hint


def test_who_measures_nothing_needs_no_reference():
    nothing = {"fid_every": 0, "table_samples": 0}
    check_measurable(
        DistillSpec.model_validate({"teacher": {"name": "maskgit"}, "monitor": nothing})
    )


def test_distances_fall_and_everything_else_rises():
    assert [name for name in TITLES if falls(name)] == ["fid", "kid", "fdd"]
    assert is_better("fid5k", 1, 2)
    assert is_better("geneval_shapes", 2, 1)
    assert not is_better("fid", float("nan"), 1)
    assert title_of("geneval_shapes_counting") == "GenEval"
    assert title_of("my_own") == "my_own"


def test_a_run_of_a_text_teacher_closes_with_its_table(dimo):
    sets = ("train.steps=2", "train.batch_size=4", "monitor.metric=coverage",
            "monitor.fid_every=1", "monitor.fid_samples=100", "monitor.table_samples=100",
            "monitor.teacher_steps=[1,2]", "monitor.preview_images=2")  # fmt: skip
    options = [part for value in sets for part in ("--set", value)]
    result = dimo("distill", "--preset", "shapes", *options, "--out", "run", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    student, best = summary["coverage_student"], summary["coverage_teacher_best"]
    assert best == max(row["value"] for row in summary["table"][:-1])
    assert summary["coverage_over_teacher_best"] == student / best
    with open("run/log.jsonl") as log:
        assert [json.loads(line)["coverage"] for line in log][-1] == student
    page = dimo("report", "run")
    assert page.exit_code == 0, page.stderr
    with open("run/report.html") as file:
        text = file.read()
    assert "coverage of the student" in text
    assert "times the coverage of its teacher" in text


def test_a_spec_refuses_a_metric_that_it_does_not_know_and_a_reference_without_use():
    with pytest.raises(ValueError, match="metric"):
        small_spec(monitor={"metric": "pr"})
    with pytest.raises(ValueError, match="geneval compares with no real images"):
        small_spec(monitor={"metric": "geneval", "reference": "digits"})
