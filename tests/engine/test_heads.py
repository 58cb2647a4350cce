"""A gradient at the logits goes back through every family's head without the logits."""

import contextlib
from dataclasses import replace

import pytest
import torch

from dimo_cli.engine.heads import HeadRows, backward_through_linear
from dimo_cli.teachers.protocol import LastLinear
from tests.helpers.tiny import FAMILIES, tiny_teacher


def rows_of(teacher, count=9):
    """Hidden states before the head, where each is from, and a gradient at their logits."""
    space, seeded = teacher.space, torch.Generator().manual_seed(2)
    tokens = torch.randint(space.codes, (2, space.length, space.groups), generator=seeded)
    backbone = teacher.backbone.requires_grad_(True)
    with torch.no_grad():
        hidden = backbone.hidden(backbone.embed(tokens), teacher.conditioner.blank(2))
        positions = torch.randint(space.length, (count,), generator=seeded)
        rows = hidden[0][positions]
        gradient = torch.randn(backbone.head(rows, positions).shape, generator=seeded)
    return HeadRows(backbone, rows.requires_grad_(), positions), gradient


def gradients(head, gradient):
    """What a gradient at the logits is to the hidden states and to each weight."""
    leaves = {"hidden": head.hidden, **dict(head.backbone.named_parameters())}
    for leaf in leaves.values():
        leaf.grad = None
    head.backward(gradient)
    return {name: leaf.grad for name, leaf in leaves.items()}


def with_logits(head):
    """The same rows, whose logits have been formed."""
    found = replace(head)
    found.logits()
    return found


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_gradient_that_the_logits_would_give(name, half):
    head, gradient = rows_of(tiny_teacher(name))
    autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    with autocast:
        expected = gradients(with_logits(head), gradient)
        found = gradients(head, gradient)
    for key, tensor in expected.items():
        if tensor is None:
            assert found[key] is None
            continue
        scale = tensor.abs().max().item()
        tolerance = 2e-2 if half else 1e-5
        torch.testing.assert_close(found[key], tensor, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["shapes", "maskbit", "maskgen-l", "meissonic"])
def test_no_logits_are_formed_for_it(name, monkeypatch):
    head, gradient = rows_of(tiny_teacher(name))
    monkeypatch.setattr(type(head.backbone), "head", None)
    head.backward(gradient)
    assert head.hidden.grad.any()


def test_logits_that_were_asked_for_are_formed_once():
    head, gradient = rows_of(tiny_teacher("shapes"))
    formed = head.logits()
    assert head.logits() is formed
    head.backward(gradient)
    with pytest.raises(RuntimeError, match="second time"):
        formed.sum().backward()  # it was their graph that the gradient went through


def test_it_is_exact_in_double_precision(generator):
    features, weight, bias, gradient = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((5, 3), (7, 3), (7,), (5, 7))
    )
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    ((features @ weight.T + bias) * gradient).sum().backward()
    expected = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    backward_through_linear(LastLinear(*leaves), gradient)
    for leaf, wanted in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, wanted)


def test_what_is_frozen_gets_none(generator):
    features, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    backward_through_linear(LastLinear(features, weight), torch.ones(5, 7))
    assert features.grad is not None
    assert weight.grad is None
