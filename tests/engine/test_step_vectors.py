"""An auxiliary that is told which step of the student an image is from."""

import pytest
import torch

from dimo_cli.engine.step_vectors import STEP_VECTORS, told_step, vectors_of, with_own_vectors
from tests.helpers.distilling import make
from tests.helpers.tiny import tiny_teacher

FEW = {"steps": [1, 2, 4]}
LORA = {"steps": [1, 2, 4], "lora": {"rank": 2}}


def test_it_has_a_vector_for_each_step_that_is_trained(teacher):
    run = make(teacher, student=FEW)
    vectors = vectors_of(run.auxiliary)
    assert vectors.steps == [(), (42,), (53,), (53, 42), (53, 42, 29)]
    assert vectors.vectors.shape == (5, 64)
    assert vectors_of(run.student) is None


def test_before_it_has_learned_it_says_what_the_teacher_says(teacher):
    run = make(teacher, student=FEW)
    tokens = torch.full((2, 64, 1), teacher.space.mask_id)
    embeds = run.auxiliary.embed(tokens)
    assert torch.equal(told_step(run.auxiliary, embeds, (53, 42)), embeds)


def test_a_step_teaches_its_own_vector_and_no_other(teacher):
    run = make(teacher, student=FEW, auxiliary={"optimizer": {"warmup_steps": 0}})
    path = run.look(0).path
    run.step(0)
    vectors = vectors_of(run.auxiliary)
    moved = vectors.vectors.any(-1)
    assert [step for step, is_moved in zip(vectors.steps, moved, strict=True) if is_moved] == [path]


@pytest.mark.parametrize("content", ["tokens", "soft"])
def test_what_it_sees_is_moved_by_the_vector_of_the_step(teacher, content):
    run = make(teacher, student={"steps": [2]}, masking={"content": content})
    generation = run.generate(0)
    _, x_tilde, mask = run.draw_x_tilde(generation.tokens, 0)
    generation.path = (42,)
    plain = run.embeds(run.auxiliary, generation, x_tilde, mask.slots)
    with torch.no_grad():
        vectors_of(run.auxiliary).vectors[1] += 0.5
    told = run.embeds(run.auxiliary, generation, x_tilde, mask.slots)
    torch.testing.assert_close(told, plain + 0.5)
    others = run.embeds(teacher.backbone, generation, x_tilde, mask.slots)
    torch.testing.assert_close(others, plain)


@pytest.mark.parametrize(
    "groups", [{}, {"student": {"steps": [2]}, "auxiliary": {"knows_step": False}}]
)
def test_in_one_step_or_where_it_is_not_wanted_there_are_none(teacher, groups):
    assert vectors_of(make(teacher, **groups).auxiliary) is None


@pytest.mark.parametrize("name", ["maskbit", "titok-s128", "halton-tiny"])
def test_every_family_can_be_told(name):
    groups = {"student": {"steps": [2]}, "train": {"batch_size": 2}}
    run = make(tiny_teacher(name), auxiliary={"optimizer": {"warmup_steps": 0}}, **groups)
    run.step(0)
    assert vectors_of(run.auxiliary).vectors.any()


@pytest.mark.parametrize("student", [FEW, LORA], ids=["weights", "adapters"])
def test_checkpoints_have_them(teacher, student):
    kept = make(teacher, student=student).networks()["auxiliary"].state_dict()
    assert kept[f"{STEP_VECTORS}.vectors"].shape == (5, 64)


def test_an_auxiliary_goes_on_from_another_that_was_told_the_same_steps_or_not():
    def network(steps):
        found = torch.nn.Linear(2, 2)
        if steps:
            found.add_module(STEP_VECTORS, torch.nn.Module())
            weight = torch.full((steps, 3), float(steps))
            found.step_vectors.vectors = torch.nn.Parameter(weight)
        return found

    for had, wanted, value in ((2, 2, 2), (3, 2, 2), (0, 2, 2), (3, 0, None)):
        weights = network(had).state_dict()
        mine = network(wanted)
        if had == wanted:
            weights[f"{STEP_VECTORS}.vectors"] += 5
        mine.load_state_dict(with_own_vectors(mine, weights))
        assert torch.equal(mine.weight, weights["weight"])
        if value is not None:
            assert mine.step_vectors.vectors.unique().item() == value + 5 * (had == wanted)
