"""Which student of the package draws where nobody names one."""

import pytest

from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.shipped import SHIPPED
from dimo_cli.students.defaults import default_student
from dimo_cli.students.names import builtin_students


def test_every_student_that_ships_is_named_where_a_target_is_asked_for():
    assert sorted(SHIPPED) == builtin_students()
    told = EvalSpec.model_fields["target"].description
    assert all(f"`{name}`" in told for name in SHIPPED)


@pytest.mark.parametrize(
    ("prompts", "name"),
    [
        ([], "digits"),
        (["a red apple"], "emoji"),
        (["a red fox in the snow"], "emoji"),
        (["two red circles above a blue square"], "shapes"),
        (["a green triangle", "a red circle"], "shapes"),
        (["two red cirles above a blue square"], "shapes"),
        (["the meaning of life"], "emoji"),
        (["a 🍎 on white"], "emoji"),
        (["🙂"], "emoji"),
        (["a sofa and a couch"], "emoji"),
        (["a red fox", "a sofa"], "emoji"),
    ],
)
def test_prompts_go_to_the_world_that_they_are_of(prompts, name):
    assert default_student(prompts) == name
