"""The step of Algorithm 1, held against a plain implementation that keeps every tensor."""

import copy

import pytest
import torch

from dimo_cli.engine.heads import backward_through_head
from tests.helpers.distilling import assert_same, disturb, gradients, make

# With a large `eps`: what has no gradient but for rounding (the bias of attention keys) stays.
SMOOTH = {"learning_rate": 1e-3, "warmup_steps": 0, "eps": 1e-3}


def test_chunked_backward_equals_plain_backward(teacher, generator):
    backbone = copy.deepcopy(teacher.backbone).requires_grad_(True)
    tokens = torch.randint(17, (3, 64, 1), generator=generator)
    cond = teacher.conditioner.labels(torch.arange(3))
    rows = torch.randperm(192, generator=generator)[:50]
    weights = torch.randn(50, 1, 17, generator=generator)
    (backbone(tokens, cond).flatten(0, 1)[rows] * weights).sum().backward()
    expected = gradients(backbone)
    backbone.zero_grad()
    hidden = backbone.hidden(backbone.embed(tokens), cond)
    backward_through_head(backbone, hidden, rows, 7, lambda head, part: weights[part])
    assert_same(gradients(backbone), expected, atol=1e-4)


def test_only_x_init_reuses_the_forward_that_generated(teacher):
    calls = count_forwards(make(teacher))
    assert calls == {"student": 1, "teacher": 1, "auxiliary": 2}
    calls = count_forwards(make(teacher, loss={"student_input": "x_tilde"}))
    assert calls["student"] == 2


def test_sharing_x_tilde_saves_a_forward_of_the_auxiliary(teacher):
    assert count_forwards(make(teacher, auxiliary={"share_x_tilde": True}))["auxiliary"] == 1


def test_several_auxiliary_updates_and_fresh_samples_cost_what_the_plan_says(teacher):
    calls = count_forwards(make(teacher, auxiliary={"updates": 3, "fresh_samples": True}))
    assert calls == {"student": 4, "teacher": 1, "auxiliary": 4}


def count_forwards(di):
    calls = {}
    networks = {
        "student": di.student,
        "teacher": di.teacher.backbone,
        "auxiliary": di.auxiliary,
    }
    for name, backbone in networks.items():
        original = backbone.hidden

        def counting(*args, name=name, original=original):
            calls[name] = calls.get(name, 0) + 1
            return original(*args)

        backbone.hidden = counting
    di.step(1)
    for backbone in networks.values():
        del backbone.hidden
    return calls


@pytest.mark.parametrize("auxiliary", [{}, {"share_x_tilde": True}, {"fresh_samples": True}])
def test_a_step_in_several_passes_is_the_step_in_one(teacher, auxiliary):
    groups = {
        "init": {"mask_ratio": {"kind": "random"}},
        "loss": {"chunk_tokens": 100, "reduction": "masked_mean"},
        "auxiliary": {"optimizer": SMOOTH, "updates": 2, **auxiliary},
        "student": {"optimizer": SMOOTH},
    }
    whole = make(teacher, train={"batch_size": 8}, **groups)
    cut = make(teacher, train={"batch_size": 2, "accumulate": 4}, **groups)
    for step in range(3):
        first, second = whole.step(step, measure=True), cut.step(step, measure=True)
    for name in ("student_gradient", "auxiliary_loss", "auxiliary_gradient"):
        assert first.values[name] == pytest.approx(second.values[name], rel=1e-4)
    for name, network in whole.networks().items():
        assert_same(dict(network.named_parameters()), dict(cut.networks()[name].named_parameters()))
    assert whole.run_generator.get_state().equal(cut.run_generator.get_state())


def test_frozen_embeddings_never_move_and_everything_else_does(teacher):
    di = make(teacher)
    for step in range(4):
        di.step(step)
    for network in (di.student, di.auxiliary):
        before = dict(teacher.backbone.named_parameters())
        for name, parameter in network.named_parameters():
            moved = not torch.equal(parameter, before[name])
            assert moved == (name != "token_embedding.weight"), name


def test_embeddings_move_if_the_spec_says_so(teacher):
    di = make(teacher, student={"freeze_embeddings": False})
    disturb(di.auxiliary)
    for step in range(3):
        di.step(step)
    assert not torch.equal(
        di.student.token_embedding.weight, teacher.backbone.token_embedding.weight
    )


def test_gradient_checkpointing_changes_memory_and_not_the_gradient(teacher):
    found = []
    for checkpointing in (False, True):
        di = make(teacher, train={"gradient_checkpointing": checkpointing})
        disturb(di.auxiliary)
        di.student_update.backward(di.generate(0), measure=False)
        found.append(gradients(di.student))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("network", ["student", "auxiliary"])
def test_a_network_that_breaks_is_named_and_nothing_is_updated_with_its_numbers(teacher, network):
    di = make(teacher)
    broken = getattr(di, network)
    with torch.no_grad():
        broken.norm.weight[0] = torch.nan
    report = di.step(5)
    assert report.skipped == "student"  # a broken auxiliary shows in the student's gradient first
    before = teacher.backbone.state_dict()
    assert all(
        torch.equal(value, before[name])
        for name, value in di.student.state_dict().items()
        if name != "norm.weight"
    )


def test_the_report_measures_what_it_names(teacher):
    values = make(teacher).step(3, measure=True).values
    assert values["divergence"] == pytest.approx(0, abs=1e-6)  # auxiliary = teacher at the start
    assert values["auxiliary_gap"] == pytest.approx(values["auxiliary_loss"] - values["entropy"])
    assert 0 < values["top1"] < 1


def test_soft_content_equals_tokens_where_the_student_is_certain(teacher):
    """With one-hot probabilities the soft variant of Di[M]O (I.15) sees the very same x_tilde."""
    run = make(teacher, masking={"content": "soft"})
    generation = run.generate(0)
    certain = torch.nn.functional.one_hot(generation.tokens, 17).float() * 200
    rows = certain.flatten(0, 1)
    run.student.head = lambda hidden, positions=None: rows
    x_tilde, mask = run.remasking.at(generation.tokens, torch.full((8,), 0.5), run.generator)
    soft = run.embeds(teacher.backbone, generation, x_tilde, mask.slots)
    torch.testing.assert_close(soft, teacher.backbone.embed(x_tilde))


def test_the_soft_variant_trains(teacher):
    run = make(teacher, masking={"content": "soft"}, loss={"chunk_tokens": 100})
    for step in range(3):
        report = run.step(step, measure=True)
    assert report.skipped is None
    assert report.values["divergence"] > 0
