"""The step of Algorithm 1, held against a plain implementation that keeps every tensor."""

import contextlib
import copy

import pytest
import torch

from dimo_cli.engine import masking
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.divergence import build_divergence
from dimo_cli.engine.heads import backward_through_head
from tests.conftest import small_spec

# With a large `eps`: what has no gradient but for rounding (the bias of attention keys) stays.
SMOOTH = {"learning_rate": 1e-3, "warmup_steps": 0, "eps": 1e-3}


def make(teacher, /, seed=0, **groups):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(seed)
    return Distillation(teacher, small_spec(**groups), generator, contextlib.nullcontext)


def gradients(network):
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_same(found, expected, atol=2e-6):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=1e-4, msg=name)


def disturb(network):
    """Move the auxiliary away from the teacher: equal networks have no gradient."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


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
    total = backward_through_head(
        backbone, hidden, rows, 7, lambda head, part: (head.logits() * weights[part]).sum()
    )
    assert_same(gradients(backbone), expected, atol=1e-4)
    plain = (backbone(tokens, cond).flatten(0, 1)[rows] * weights).sum()
    torch.testing.assert_close(total, plain.detach(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("reduction", ["sum", "mean", "masked_mean"])
@pytest.mark.parametrize("divergence", [{"kind": "fkl"}, {"kind": "jeffreys", "beta": 0.3}])
@pytest.mark.parametrize("guidance", [1.0, 2.0, {"kind": "linear", "scale": 3.0}])
def test_student_receives_the_gradient_of_equation_7(teacher, reduction, divergence, guidance):
    di = make(
        teacher,
        loss={"divergence": divergence, "reduction": reduction, "chunk_tokens": 37},
        teacher={"guidance": guidance},
        init={"embed_noise": 0.0},
    )
    disturb(di.auxiliary)
    generation = di.generate(0)
    before = di.run_generator.get_state()
    x_init = recorded_x_init(di, generation)
    di.backward_student(generation, measure=False)
    found = gradients(di.student)

    di.run_generator.set_state(before)
    di.student.zero_grad()
    ratio = masking.draw_ratio("arccos", 8, di.generator)
    x_tilde, mask = di.mask_again(generation.tokens, ratio)
    null = teacher.conditioner.null(8)
    with torch.no_grad():
        conditional = teacher.backbone(x_tilde, generation.cond)
        unconditional = teacher.backbone(x_tilde, null)
        scale = ratio * 0 + guidance if isinstance(guidance, float) else 1 + 2 * ratio
        guided = unconditional + scale[:, None, None, None] * (conditional - unconditional)
        log_p = guided.log_softmax(-1)
        log_q = di.auxiliary(x_tilde, generation.cond).log_softmax(-1)
        field = build_divergence(di.spec.loss.divergence).logit_gradient(log_p, log_q)
        field = field * mask.slots[..., None]
    divisor = {
        "sum": torch.tensor(8.0),
        "mean": torch.tensor(8.0 * 64 * 17),
        "masked_mean": 8 * mask.slots.sum((1, 2)).float()[:, None, None, None],
    }[reduction]
    student_logits = di.student(x_init, generation.cond)
    (student_logits * (field / divisor)).sum().backward()
    assert_same(found, gradients(di.student))


def recorded_x_init(di, generation):
    """Draw the same x_init again: the generator is rewound to the start of the run."""
    replay = torch.Generator().manual_seed(0)
    cond = di.teacher.conditioner.draw(8, replay)
    assert torch.equal(cond.tensors["label"], generation.cond.tensors["label"])
    return masking.initial_tokens(di.teacher.space, 8, 0.6, replay)[0]


def test_auxiliary_receives_the_cross_entropy_of_equation_1(teacher):
    di = make(teacher, auxiliary={"label_smoothing": 0.1})
    disturb(di.auxiliary)
    generation = di.generate(0)
    x_tilde, mask = di.mask_again(generation.tokens, torch.full((8,), 0.5))
    hidden = di.hidden(di.auxiliary, di.auxiliary.embed(x_tilde), generation.cond)
    loss, masked = di.backward_auxiliary(generation, mask, hidden)
    found = {name: gradient / masked for name, gradient in gradients(di.auxiliary).items()}
    di.auxiliary.zero_grad()
    logits = di.auxiliary(x_tilde, generation.cond)[mask.slots]
    expected = torch.nn.functional.cross_entropy(
        logits, generation.tokens[mask.slots], label_smoothing=0.1
    )
    expected.backward()
    torch.testing.assert_close(loss / masked, expected.detach(), rtol=1e-4, atol=1e-5)
    assert_same(found, gradients(di.auxiliary))


def test_adaptive_weight_is_one_over_the_probability_gap(teacher):
    di = make(teacher, loss={"weight": {"kind": "adaptive"}}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_init = recorded_x_init(di, generation)
    x_tilde, mask = di.mask_again(generation.tokens, torch.full((8,), 0.5))
    project = di.teacher_logits(
        teacher.backbone.embed(x_tilde), generation.cond, torch.full((8,), 0.5)
    )
    weight = di.sample_weights(generation, generation.hidden, project, mask.slots)
    with torch.no_grad():
        student = di.student(x_init, generation.cond).softmax(-1)
        gap = (student - teacher.backbone(x_tilde, generation.cond).softmax(-1)).abs()
    torch.testing.assert_close(weight, 1 / (8 * gap.mean((1, 2, 3))), rtol=1e-4, atol=1e-6)


def test_entropy_bonus_adds_the_gradient_of_the_entropy(teacher):
    plain, bonus = (
        make(teacher, loss={"entropy_bonus": weight}, init={"embed_noise": 0.0})
        for weight in (0.0, 0.5)
    )
    found = []
    for di in (plain, bonus):
        disturb(di.auxiliary)
        generation = di.generate(0)
        di.backward_student(generation, measure=False)
        found.append(gradients(di.student))
    x_init = recorded_x_init(bonus, generation)
    bonus.student.zero_grad()
    log_p = bonus.student(x_init, generation.cond).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum() / 8
    (-0.5 * entropy).backward()
    expected = {n: found[0][n] + g for n, g in gradients(bonus.student).items()}
    assert_same(found[1], expected, atol=1e-5)


@pytest.mark.parametrize("student_input", ["x_init", "x_tilde", "x_tilde_init"])
def test_the_three_approximations_feed_the_student_what_they_say(teacher, student_input):
    di = make(teacher, loss={"student_input": student_input}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_tilde, _ = di.mask_again(generation.tokens, torch.full((8,), 0.5))
    hidden = di.hidden_at_x_tilde(generation, x_tilde)
    tokens = {
        "x_init": recorded_x_init(di, generation),
        "x_tilde": x_tilde,
        "x_tilde_init": generation.tokens.masked_fill(generation.init_mask, 17),
    }[student_input]
    expected = di.hidden(di.student, di.student.embed(tokens), generation.cond)
    torch.testing.assert_close(hidden, expected)
    assert hidden.requires_grad


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
        di.backward_student(di.generate(0), measure=False)
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


def test_soft_targets_use_the_students_distribution(teacher):
    di = make(teacher, auxiliary={"soft_weight": 1.0}, init={"embed_noise": 0.0})
    generation = di.generate(0)
    x_init = recorded_x_init(di, generation)
    x_tilde, mask = di.mask_again(generation.tokens, torch.full((8,), 0.5))
    hidden = di.hidden(di.auxiliary, di.auxiliary.embed(x_tilde), generation.cond)
    loss, masked = di.backward_auxiliary(generation, mask, hidden)
    with torch.no_grad():
        p = di.student(x_init, generation.cond)[mask.slots].log_softmax(-1)
        q = di.auxiliary(x_tilde, generation.cond)[mask.slots].log_softmax(-1)
    expected = (p.exp() * (p - q)).mean()
    torch.testing.assert_close(loss / masked, expected, rtol=1e-3, atol=1e-5)


def test_soft_content_equals_tokens_where_the_student_is_certain(teacher):
    """With one-hot probabilities the soft variant of Di[M]O (I.15) sees the very same x_tilde."""
    run = make(teacher, masking={"content": "soft"})
    generation = run.generate(0)
    certain = torch.nn.functional.one_hot(generation.tokens, 17).float() * 200
    rows = certain.flatten(0, 1)
    run.student.head = lambda hidden, positions=None: rows
    x_tilde, mask = run.mask_again(generation.tokens, torch.full((8,), 0.5))
    soft = run.embeds(teacher.backbone, generation, x_tilde, mask.slots)
    torch.testing.assert_close(soft, teacher.backbone.embed(x_tilde))


def test_the_soft_variant_trains(teacher):
    run = make(teacher, masking={"content": "soft"}, loss={"chunk_tokens": 100})
    for step in range(3):
        report = run.step(step, measure=True)
    assert report.skipped is None
    assert report.values["divergence"] > 0


@pytest.mark.parametrize(
    "groups",
    [
        {"masking": {"content": "soft"}},
        {"auxiliary": {"soft_weight": 1.0}},
        {"masking": {"content": "soft"}, "auxiliary": {"updates": 2, "share_x_tilde": True}},
    ],
)
def test_the_auxiliary_learns_the_probabilities_of_before_the_heads_update(teacher, groups):
    run = make(teacher, **groups, student={"optimizer": {"learning_rate": 0.1, "warmup_steps": 0}})
    generation = run.generate(0)
    rows = torch.arange(generation.tokens.shape[0] * generation.tokens.shape[1])
    before = run.student_logits(generation, rows)
    run.backward_student(generation, False)
    run.keep_logits(generation)
    run.student_optimizer.update(0)
    assert torch.equal(run.student_logits(generation, rows), before)


def test_no_logits_are_kept_where_nothing_asks_for_them_later(teacher):
    for groups in ({}, {"masking": {"content": "soft"}, "auxiliary": {"fresh_samples": True}}):
        run = make(teacher, **groups)
        generation = run.generate(0)
        run.keep_logits(generation)
        assert generation.logits is None
