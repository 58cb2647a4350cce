"""Whatever is thrown at it: a sentence, no traceback, no hang, nothing outside its folder."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.torture import (
    targets_commands,
    targets_doors,
    targets_files,
    targets_models,
    targets_pictures,
    targets_runs,
    targets_text,
)
from tests.torture.guards import in_a_folder_of_its_own, in_little_memory, in_sentences, in_time

TARGETS = {
    **targets_text.TARGETS,
    **targets_commands.TARGETS,
    **targets_files.TARGETS,
    **targets_pictures.TARGETS,
    **targets_runs.TARGETS,
    **targets_models.TARGETS,
    **targets_doors.TARGETS,
}
FEW, MANY = 6, 640
# Of the inputs of a target so many are taken, and so many refused: others would test nothing.
SHARE = 0.005


def fuzz(target, examples, seed=None):
    """Throw so many inputs at a target; says how many it were and how many were taken."""
    count = taken = 0

    @settings(
        max_examples=examples,
        derandomize=seed is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def attack(data):
        nonlocal count, taken
        count += 1
        with in_a_folder_of_its_own() as folder, in_time(), in_sentences():
            target(data, folder)
            taken += 1

    with in_little_memory():
        attack()
    return count, taken


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_broken_inputs_of_every_kind(name):
    fuzz(TARGETS[name], FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_hundreds_of_broken_inputs_of_every_kind(name, capsys):
    count, taken = fuzz(TARGETS[name], MANY, seed="random")
    with capsys.disabled():
        print(f"{name}: {count:,} inputs, {taken:,} of them taken")  # noqa: T201
    assert count >= MANY
    assert SHARE * count <= taken <= (1 - SHARE) * count


def test_the_slow_test_throws_twenty_thousand_inputs():
    assert len(TARGETS) * MANY >= 20_000
