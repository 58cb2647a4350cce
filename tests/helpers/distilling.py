"""One distillation of the tiny teacher, and what its step leaves behind."""

import contextlib

import torch

from dimo_cli.engine import masking
from dimo_cli.engine.distill import Distillation
from tests.conftest import small_spec


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


def recorded_x_init(di, generation):
    """Draw the same x_init again: the generator is rewound to the start of the run."""
    replay = torch.Generator().manual_seed(0)
    cond = di.teacher.conditioner.draw(8, replay)
    assert torch.equal(cond.tensors["label"], generation.cond.tensors["label"])
    return masking.initial_tokens(di.teacher.space, 8, 0.6, replay)[0]
