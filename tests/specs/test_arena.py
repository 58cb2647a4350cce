"""What an arena is asked for: its budget, its methods, and what is refused."""

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.specs.arena import METHODS, ArenaSpec, Budget, read_budget
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.resolve import preset_names


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("70400", Budget(forwards=70_400)),
        ("7e4", Budget(forwards=70_000)),
        ("90s", Budget(seconds=90)),
        ("5m", Budget(seconds=300)),
        ("1.5h", Budget(seconds=5400)),
    ],
)
def test_a_budget_is_forwards_or_a_time(text, budget):
    assert read_budget(text) == budget


@pytest.mark.parametrize("text", ["0", "-3", "5 days", "0m", "", "1.5"])
def test_a_budget_that_is_neither_is_refused_with_both(text):
    with pytest.raises(SpecError, match=r"such as 70400, or a time"):
        spec_from_flags(ArenaSpec, {"budget": text}, {"budget": "--budget"})


def test_methods_and_steps_are_lists_with_commas():
    spec = ArenaSpec(methods="dimo, redi,dimo", steps="4,1,4")
    assert (spec.methods, spec.steps) == (("dimo", "redi"), (1, 4))
    assert ArenaSpec(methods="all").methods == tuple(METHODS)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("methods", "redy", "Did you mean `redi`"),
        ("steps", "0,1", "greater than or equal to 1"),
        ("steps", "9", "less than or equal to 8"),
        ("seeds", 0, "at least|greater than"),
    ],
)
def test_what_cannot_be_meant_is_refused(field, value, words):
    with pytest.raises(SpecError, match=words):
        spec_from_flags(ArenaSpec, {field: value}, {field: f"--{field}"})


def test_a_method_takes_its_preset_of_the_teacher_where_there_is_one():
    names = preset_names()
    for method in METHODS:
        start, overrides = ArenaSpec(teacher="digits").start_of(method)
        own = f"digits-{method}"
        assert (start, bool(overrides)) == (
            (own, False) if own in names else ("digits", method != "dimo")
        )
        assert ArenaSpec(teacher="maskgit").start_of(method) == (
            "maskgit",
            METHODS[method].overrides,
        )


def test_a_second_budget_is_of_the_other_kind():
    second = ArenaSpec(budget="70400", also="5m", tune=True).second
    assert (second.budget, second.also, second.tune) == ("5m", None, False)
    assert ArenaSpec(budget="70400").second is None
    with pytest.raises(SpecError, match="of the same kind as budget 5m"):
        spec_from_flags(ArenaSpec, {"budget": "5m", "also": "90s"}, {"also": "--also"})
    with pytest.raises(SpecError, match="such as 70400, or a time"):
        spec_from_flags(ArenaSpec, {"also": "soon"}, {"also": "--also"})
