"""A measured number is held against the published one of the same training, or against none."""

import pytest

from dimo_cli.metrics.expected import expected_value
from dimo_cli.metrics.protocol import Result
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.tteo import RENO_WEIGHTS

SCORE = Result("geneval_mask2former", 0.5, {"images": 2212})


def seen(metric, resize="legacy_tensorflow", network="inception-2015-12-05", images=50_000):
    """A number of features, whatever its value."""
    return Result(metric, 1.0, {"images": images, "network": {"name": network, "resize": resize}})


FID = seen("fid50k")


def published(preset, *sets, result=FID):
    spec = resolve_spec(RefineSpec, preset=preset, sets=sets, environment={}).spec
    found = expected_value(result, {"teacher": f"{spec.teacher.name}@x", "method": spec.method})
    return found and found.value


@pytest.mark.parametrize(
    ("preset", "value"), [("maskgit-gan", 6.40), ("maskbit-gan", 1.96), ("maskbit-gan-long", 1.56)]
)
def test_each_stage_of_a_gan_run_has_its_own_published_number(preset, value):
    assert published(preset) == value


def test_rewards_are_held_against_rewards_and_a_gan_is_not():
    assert published("maskgen-l-reward", result=SCORE) == 0.51
    assert published("meissonic-reward", result=SCORE) == 0.53
    assert published("maskgen-l-gan", result=SCORE) is None


def test_test_time_optimization_has_a_row_of_its_own_at_the_papers_budget_and_rewards():
    about = {"teacher": "maskgen-l@x", "method": "Soft-Di[M]O (Di[M]O, reward hps_v2.1)"}

    def told(budget, rewards):
        tteo = {"budget": budget, "rewards": rewards}
        found = expected_value(SCORE, {**about, "tteo": tteo})
        return found and found.value

    assert expected_value(SCORE, about).value == 0.51
    assert told("4x4", RENO_WEIGHTS) == 0.63
    assert told("8x4", RENO_WEIGHTS) is None
    assert told("4x4", {"hps_v2.1": 1.0}) is None


def test_a_training_that_nobody_published_has_no_number():
    assert published("maskgen-l-reward", "distill_weight=0", result=SCORE) is None
    assert published("meissonic-reward", "distill_weight=1", result=SCORE) is None
    assert published("maskbit-gan", "distill_weight=0") is None


def test_a_student_of_four_steps_is_not_held_against_its_teacher_at_four():
    at_four = {"teacher": "maskgit@x", "steps": 4}
    assert expected_value(FID, {**at_four, "target": "teacher"}) is not None
    assert expected_value(FID, {**at_four, "target": "student"}) is None


ALIKE = [
    ("maskgit", 16, FID, 6.60),
    ("maskgit", 16, seen("fid50k", "clean"), None),
    ("maskgit", 16, seen("fid50k", "pil_bicubic_224", "dinov2-large"), None),
    ("maskgit", 16, seen("fid5k", images=5000), None),
    ("maskgit", 16, seen("is50k"), 224.1),
    ("maskgit", 16, seen("precision_k3"), 0.83),
    ("maskgit", 16, seen("precision_k10"), None),
    ("halton-base", 32, seen("fid50k", "clean"), 4.17),
    ("maskgen-l", 16, seen("fid30k", "clean", images=30_000), 22.64),
    ("maskgen-l", 16, Result("clip_score_g14", 0.3, {"images": 30_000}), 0.312),
    ("maskgen-l", 16, SCORE, 0.48),
    ("maskgen-l", 16, Result("geneval_mask2former_counting", 0.2, {"images": 2212}), None),
    ("maskgen-l", 16, Result("hps_v2.1", 27.0, {"images": 3200}), 27.60),
    ("maskgen-l", 16, Result("hps_v2.1_photo", 27.0, {"images": 3200}), None),
]


@pytest.mark.parametrize(("teacher", "steps", "result", "value"), ALIKE)
def test_only_the_very_number_that_was_published_is_held_against_it(teacher, steps, result, value):
    found = expected_value(result, {"teacher": f"{teacher}@x", "target": "teacher", "steps": steps})
    assert (found and found.value) == value
