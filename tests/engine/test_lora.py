"""Adapters over the teacher's own weights: roles that share everything and never meet."""

import contextlib
import copy

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.lora import (
    adapter_targets,
    begin_with,
    chosen_targets,
    kinds_of,
    merged,
    new_adapters,
    own_copy,
    trained_part,
)
from dimo_cli.errors import SpecError
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.teachers.linear_maps import owner_of, target_names
from tests.conftest import small_spec
from tests.helpers.tiny import FAMILIES, tiny_teacher

LORA = {"lora": {"rank": 2}}


def make(teacher, seed=0, checkpointing=False, **groups):
    student = {"optimizer": {"learning_rate": 1e-2, "warmup_steps": 0}, "lora": {"rank": 2}}
    train = {"batch_size": 2, "gradient_checkpointing": checkpointing}
    spec = small_spec(**{"student": student, "train": train, **groups})
    generator = torch.Generator().manual_seed(seed)
    return Distillation(teacher, spec, generator, contextlib.nullcontext)


def asked(teacher, generator, count=2):
    space = teacher.space
    tokens = torch.randint(space.codes, (count, space.length, space.groups), generator=generator)
    return tokens % space.vocab, teacher.conditioner.draw(count, generator)


def disturb(network, scale=0.1):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained_part(network).parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network


def is_used(parameter):
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


def bits(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_all_adapters_of_a_family_are_used_and_begin_as_nothing(name, generator):
    teacher = tiny_teacher(name)
    tokens, cond = asked(teacher, generator)
    network = new_adapters(teacher.backbone, LoraSpec(rank=2, targets=("all",)), 0)
    with torch.no_grad():
        assert torch.equal(network(tokens, cond), teacher.backbone(tokens, cond))
    whole = copy.deepcopy(teacher.backbone).requires_grad_(True)
    for trained in (network, whole):
        hidden = trained.hidden(trained.embed(tokens), cond)
        (hidden * torch.randn(hidden.shape, generator=generator)).sum().backward()
    part = dict(trained_part(network).named_parameters())
    for target in target_names(network):
        module, weight = owner_of(network, target)
        own, _ = owner_of(whole, target)
        assert is_used(module.lora_B.weight) == is_used(own._parameters[weight]), target
    assert {key for key, p in network.named_parameters() if p.requires_grad} == part.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_targets_of_a_family_are_attention_and_mlp_of_every_block(name):
    backbone = tiny_teacher(name).backbone
    attention = chosen_targets(backbone, ["attention"])
    mlp = chosen_targets(backbone, ["mlp"])
    everything = chosen_targets(backbone, ["all"])
    assert attention
    assert mlp
    assert not set(attention) & set(mlp)
    assert everything == target_names(backbone)
    left = kinds_of([name for name in everything if name not in {*attention, *mlp}])
    words = ("norm", "skip_linear", "channelwise", "mapper", "mlp.1")
    assert [name for name in left if not any(word in name for word in words)] == []


def test_heads_and_embeddings_never_get_an_adapter(teacher):
    assert not any(word in name for name in target_names(teacher.backbone) for word in ("logits",))


def test_targets_that_match_nothing_are_refused_with_what_there_is(teacher):
    with pytest.raises(SpecError, match=r"'to_q'.*names? of no linear map") as refused:
        chosen_targets(teacher.backbone, ["to_q"])
    assert "blocks.*.qkv, blocks.*.out, blocks.*.up, blocks.*.down" in refused.value.hint


def test_targets_may_be_expressions(teacher):
    assert chosen_targets(teacher.backbone, [r"blocks\.[01]\.up"]) == ["blocks.0.up", "blocks.1.up"]
    assert adapter_targets(
        new_adapters(teacher.backbone, LoraSpec(rank=1, targets=(r"blocks\.0\.qkv",)), 0)
    ) == ["blocks.0.qkv"]


@pytest.mark.parametrize("name", ["digits", "maskgit"])
def test_merged_networks_compute_the_same(name, generator):
    teacher = tiny_teacher(name)
    tokens, cond = asked(teacher, generator)
    before = bits(teacher.backbone)
    network = disturb(new_adapters(teacher.backbone, LoraSpec(rank=3, alpha=6), 0))
    plain = merged(network)
    with torch.no_grad():
        expected = network(tokens, cond)
        assert (expected - teacher.backbone(tokens, cond)).abs().max() > 1e-3
        torch.testing.assert_close(plain(tokens, cond), expected, atol=1e-5, rtol=1e-5)
    assert plain.state_dict().keys() == before.keys()
    assert type(plain.get_submodule("")) is type(teacher.backbone)
    assert [type(m) for m in plain.modules()] == [type(m) for m in teacher.backbone.modules()]
    assert_same_bits(bits(teacher.backbone), before)


def test_roles_share_every_frozen_weight_and_nothing_else(teacher):
    run = make(teacher)
    base = {id(parameter) for parameter in teacher.backbone.parameters()}
    student, auxiliary = (
        {id(parameter) for parameter in network.parameters()}
        for network in (run.student, run.auxiliary)
    )
    assert base < student
    assert base < auxiliary
    assert student & auxiliary == base
    average = {id(parameter) for parameter in own_copy(run.student).parameters()}
    assert average & student == base


def test_no_role_changes_what_another_one_computes(teacher, generator):
    tokens, cond = asked(teacher, generator)

    def logits(network):
        with torch.no_grad():
            return network(tokens, cond)

    run = make(teacher)
    base, before = bits(teacher.backbone), logits(teacher.backbone)
    assert torch.equal(logits(run.student), before)
    assert torch.equal(logits(run.auxiliary), before)
    disturb(run.auxiliary)
    auxiliary = logits(run.auxiliary)
    generation = run.generate(0)
    run.student_update.backward(generation, False)  # which teacher and auxiliary take part in
    run.student_optimizer.update(0)
    assert torch.equal(logits(run.auxiliary), auxiliary)
    student = logits(run.student)
    assert not torch.equal(student, before)
    run.auxiliary_update.update(5, 0, [generation], [None])
    assert torch.equal(logits(run.student), student)
    assert not torch.equal(logits(run.auxiliary), auxiliary)
    for step in range(3):
        run.step(step)
        assert torch.equal(logits(teacher.backbone), before)
    assert_same_bits(bits(teacher.backbone), base)


def gradients_of_a_step(teacher, checkpointing, compiled=False):
    run = make(teacher, checkpointing=checkpointing)
    if compiled:
        from dimo_cli.teachers.compiling import compile_blocks

        for backbone in run.backbones():
            compile_blocks(backbone)
    for network in (run.student, run.auxiliary):
        disturb(network)
    run.student_update.backward(run.generate(0), False)
    return {name: p.grad for name, p in trained_part(run.student).named_parameters()}


@pytest.mark.parametrize("name", ["digits", "maskbit", "meissonic"])
def test_gradients_are_the_same_with_activations_computed_again(name):
    teacher = tiny_teacher(name)
    expected = gradients_of_a_step(teacher, False)
    found = gradients_of_a_step(teacher, True)
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    assert_same_bits(found, expected)


@pytest.mark.slow
def test_gradients_are_the_same_compiled(teacher):
    expected = gradients_of_a_step(teacher, False)
    found = gradients_of_a_step(teacher, False, compiled=True)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6 * scale, rtol=1e-5)


def test_a_student_has_adapters_beside_an_auxiliary_of_its_own_weights(teacher):
    run = make(teacher, auxiliary={"lora": {"rank": 0}})
    assert trained_part(run.auxiliary) is run.auxiliary
    before = bits(teacher.backbone)
    run.step(0)
    assert_same_bits(bits(teacher.backbone), before)


def test_an_auxiliary_has_adapters_beside_a_student_of_its_own_weights(teacher):
    run = make(teacher, student={"lora": {"rank": 0}}, auxiliary={"lora": {"rank": 4}})
    assert trained_part(run.student) is run.student
    assert next(trained_part(run.auxiliary).parameters()).shape[0] == 4
    run.step(0)


def test_full_and_adapted_runs_draw_the_same(teacher):
    """Adapters draw from a generator of their own."""
    plain = make(teacher, student={"lora": {"rank": 0}})
    adapted = make(teacher)
    assert torch.equal(plain.generate(0).tokens, adapted.generate(0).tokens)


def test_weights_of_ones_own_begin_with_what_adapters_do(teacher, generator):
    tokens, cond = asked(teacher, generator)
    start = disturb(new_adapters(teacher.backbone, LoraSpec(rank=2), 0), 0.02)
    plain = copy.deepcopy(teacher.backbone)
    begin_with(plain, start)
    scaled = new_adapters(teacher.backbone, LoraSpec(rank=2, alpha=8), 1)
    begin_with(scaled, start)
    with torch.no_grad():
        expected = start(tokens, cond)
        for network in (plain, scaled):
            torch.testing.assert_close(network(tokens, cond), expected, atol=1e-5, rtol=1e-5)


def test_adapters_go_on_from_adapters_alone(teacher):
    network = new_adapters(teacher.backbone, LoraSpec(rank=2), 0)
    with pytest.raises(SpecError, match="weights of its own"):
        begin_with(network, copy.deepcopy(teacher.backbone))
    with pytest.raises(SpecError, match=r"rank 4 at 16 places.*rank 2 at 16"):
        begin_with(network, new_adapters(teacher.backbone, LoraSpec(rank=4), 0))
    begin_with(network, teacher.backbone)  # new ones do
