"""A gradient at the logits goes back through every family's head without the logits."""

import contextlib

import pytest
import torch
from torch.autograd import gradcheck

from dimo_cli.engine.divergence import surrogate_loss, surrogate_loss_through
from dimo_cli.engine.heads import HeadRows
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


def gradients(head, loss):
    """What a loss asks of the hidden states and of each weight."""
    weights = dict(head.backbone.named_parameters())
    found = torch.autograd.grad(loss, [head.hidden, *weights.values()], allow_unused=True)
    return dict(zip(["hidden", *weights], found, strict=True))


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_gradient_that_the_logits_would_give(name, half):
    head, gradient = rows_of(tiny_teacher(name))
    autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    with autocast:
        expected = gradients(head, surrogate_loss(head.logits(), gradient))
        found = gradients(head, head.surrogate_loss(gradient))
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
    head.surrogate_loss(gradient).backward()
    assert head.hidden.grad.any()


def test_it_is_exact_in_double_precision(generator):
    features, weight, bias, gradient = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((5, 3), (7, 3), (7,), (5, 7))
    )
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    loss = surrogate_loss_through(LastLinear(*leaves), gradient)
    found = torch.autograd.grad(2 * loss, leaves)

    def asked_for(f, w, b):
        return 2 * ((f @ w.T + b) * gradient).sum()

    assert gradcheck(asked_for, leaves)
    for mine, expected in zip(found, torch.autograd.grad(asked_for(*leaves), leaves), strict=True):
        torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(loss.detach(), 0.5 * gradient.square().sum())
