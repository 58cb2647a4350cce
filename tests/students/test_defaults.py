"""Which student of the package draws where nobody names one."""

import pytest

from dimo_cli.students.defaults import default_student


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
