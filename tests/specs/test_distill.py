"""What a run may be: a student's steps, and what goes with more than one of them."""

import pytest
from pydantic import ValidationError

from dimo_cli.specs.distill import DistillSpec
from tests.conftest import small_spec


@pytest.mark.parametrize(
    ("given", "steps"), [(4, (4,)), ("2", (2,)), ([4, 1, 2, 1], (1, 2, 4)), ([1], (1,))]
)
def test_a_students_steps_are_one_number_or_several(given, steps):
    assert DistillSpec.model_validate({"student": {"steps": given}}).student.steps == steps


@pytest.mark.parametrize(
    ("steps", "passes"), [((1,), 0), ((2,), 0.5), ((1, 2, 4), 7 / 5), ((8,), 3.5)]
)
def test_passes_before_the_trained_one_are_counted(steps, passes):
    assert small_spec(student={"steps": steps}).student.passes_before == pytest.approx(passes)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"loss": {"student_input": "x_tilde"}}, "needs loss.student_input x_init, not x_tilde"),
        ({"loss": {"weight": "adaptive"}}, "needs loss.weight constant or calibrated, not adap"),
        ({"init": {"control": "encoded_noise"}}, "needs init.control none, not encoded_noise"),
    ],
)
def test_what_belongs_to_one_step_alone_is_refused_with_more(groups, told):
    assert small_spec(**groups, student={"steps": [1]})
    with pytest.raises(ValidationError, match=f"student.steps 1 and 2 {told}"):
        small_spec(**groups, student={"steps": [1, 2]})


@pytest.mark.parametrize("kind", ["fpd", "catdrift"])
def test_losses_of_whole_images_are_about_what_is_drawn_at_x_init(kind):
    for kinds in ([kind], ["dimo", kind]):
        DistillSpec.model_validate({"objectives": kinds})
        with pytest.raises(ValidationError, match=f"student_input is x_tilde, .* names {kind}"):
            DistillSpec.model_validate({"objectives": kinds, "loss": {"student_input": "x_tilde"}})


def test_an_objective_is_named_once():
    twice = [{"kind": "sdtt", "rounds": 2}, "dimo", {"kind": "sdtt", "rounds": 3}]
    with pytest.raises(ValidationError, match="sdtt is named more than once"):
        DistillSpec.model_validate({"objectives": twice})
