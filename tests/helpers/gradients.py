"""Gradients against what they are the limit of."""

import torch


def assert_gradient_matches_differences(function, probs, generator, step=1e-5):
    """The derivative of a random probe of `function` along random directions, in float64."""
    probs = probs.double().requires_grad_()
    output = function(probs)
    probe = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((output * probe).sum(), probs)
    for _ in range(3):
        direction = torch.randn(probs.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            ends = [(function(probs + sign * step * direction) * probe).sum() for sign in (1, -1)]
        slope = (gradient * direction).sum()
        difference = (ends[0] - ends[1]) / (2 * step)
        tolerance = 1e-6 * gradient.norm().item()
        torch.testing.assert_close(slope, difference, atol=tolerance, rtol=0)
