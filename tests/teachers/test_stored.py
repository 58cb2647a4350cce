"""Frozen weights in fewer bits: a network whose numbers are rounded and whose gradients are not."""

import copy

import pytest
import torch

from dimo_cli.engine.lora import fingerprint, merged, new_adapters
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.linear_maps import owner_of, target_names
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.stored import Product, is_stored, plain_copy, rounded, store
from tests.engine.test_lora import asked, disturb
from tests.helpers.tiny import FAMILIES, tiny_teacher

KINDS = ["bf16", "int8"]
EXACT = {"atol": 2e-5, "rtol": 1e-4}


def stored(name, kind):
    teacher = tiny_teacher(name)
    store(teacher.backbone, kind)
    return teacher


def kept_for_the_way_back(work):
    """Bytes that a forward keeps for its backward."""
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(kept.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_computes_with_its_rounded_weights(name, kind, generator):
    before = tiny_teacher(name)
    tokens, cond = asked(before, generator)
    teacher = stored(name, kind)
    rounded_network = plain_copy(teacher.backbone)
    with torch.no_grad():
        found = teacher.backbone(tokens, cond)
        torch.testing.assert_close(found, rounded_network(tokens, cond), **EXACT)
        ships_like_that = (name, kind) == ("emoji", "int8")  # nothing is left to round
        assert torch.equal(found, before.backbone(tokens, cond)) == ships_like_that
    targets = target_names(teacher.backbone)
    assert targets == target_names(before.backbone)
    small = torch.bfloat16 if kind == "bf16" else torch.int8
    for target in targets:
        module, weight = owner_of(teacher.backbone, target)
        assert module._parameters[weight].dtype == small, target


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_inputs_are_those_of_the_rounded_weights(kind, generator):
    weight, x, up = (torch.randn(*s, generator=generator) for s in ((6, 5), (3, 5), (3, 6)))
    values, scale = rounded(weight, kind)
    numbers = values.float() if scale is None else values * scale
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad((Product.apply(x, values, scale) * up).sum(), x)
    torch.testing.assert_close(gradient, up @ numbers)


@pytest.mark.parametrize("name", ["digits", "maskgit", "meissonic", "lumina-dimoo"])
def test_adapters_train_over_int8_as_over_its_numbers(name, generator):
    base = stored(name, "int8")
    tokens, cond = asked(base, generator)
    plain = plain_copy(base.backbone)
    gradients = []
    for network in (base.backbone, plain):
        role = disturb(new_adapters(network, LoraSpec(rank=2), 0))
        hidden = role.hidden(role.embed(tokens), cond)
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        gradients.append({n: p.grad for n, p in role.named_parameters() if p.requires_grad})
    for key, expected in gradients[1].items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients[0][key], expected, atol=1e-4 * scale, rtol=1e-3)


def test_a_merged_student_of_int8_is_plain_and_computes_the_same(generator):
    teacher = stored("digits", "int8")
    tokens, cond = asked(teacher, generator)
    network = disturb(new_adapters(teacher.backbone, LoraSpec(rank=2), 0), 0.02)
    plain = merged(network)
    assert not is_stored(plain)
    assert is_stored(network)
    kinds = [type(module) for module in load_teacher("digits").backbone.modules()]
    assert [type(module) for module in plain.modules()] == kinds
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens, cond), network(tokens, cond), **EXACT)


def test_a_backward_needs_no_copy_of_the_weights_in_full_precision():
    teacher = stored("digits", "int8")
    layer, x = teacher.backbone.blocks[0].up, torch.randn(1, 64, requires_grad=True)
    assert kept_for_the_way_back(lambda: layer(x)) <= layer.weight.numel() + 4 * 256 + 4 * 64


def test_int8_takes_a_quarter_of_the_blocks_and_leaves_the_rest(teacher):
    whole = {key: tensor.clone() for key, tensor in teacher.backbone.state_dict().items()}
    store(teacher.backbone, "int8")
    state = teacher.backbone.state_dict()
    for key in ("token_embedding.weight", "position", "to_logits.weight", "blocks.0.qkv.bias"):
        assert torch.equal(state[key], whole[key])
    assert state["blocks.0.qkv.weight"].nbytes * 4 == whole["blocks.0.qkv.weight"].nbytes
    assert state["blocks.0.qkv.weight_scale"].shape == (192, 1)


def test_a_network_is_known_again_however_it_is_stored(teacher):
    known = fingerprint(teacher.backbone)
    for kind in ("bf16", "int8"):
        network = copy.deepcopy(teacher.backbone)
        store(network, kind)
        assert fingerprint(network) == known


def test_a_row_of_zeros_stays_one():
    values, scale = rounded(torch.zeros(2, 3), "int8")
    assert (values * scale == 0).all()


def test_a_teacher_is_loaded_as_it_is_asked_for():
    found = load_teacher(TeacherSource(name="digits", weights="int8")).backbone
    assert found.blocks[0].qkv.weight.dtype == torch.int8
    assert not is_stored(load_teacher("digits").backbone)


def test_under_autocast_products_are_in_bf16(generator):
    teacher = stored("digits", "int8")
    x = torch.randn(2, 64, generator=generator, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher.backbone.blocks[0].up(x)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert x.grad.dtype == torch.float32
