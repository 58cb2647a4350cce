"""The drifting field against the numbers of its authors' code, and where it vanishes."""

import pytest
import torch

from dimo_cli.engine.drift import drifting_field, drifting_loss

CASES = {
    "plain": {},
    "neg": {"negative": True},
    "weighted": {"negative": True, "weighted": True},
    "single": {"bandwidths": (0.2,)},
    "far": {"far": 20.0},
    "same": {"same": True},
}


def inputs(io, case):
    options = dict(CASES[case])
    positive = io["gen"] if options.pop("same", False) else io["pos"] + options.pop("far", 0.0)
    negative = io["neg"] if options.pop("negative", False) else None
    weights = None
    if options.pop("weighted", False):
        weights = torch.cat([io[f"weight_{name}"] for name in ("gen", "neg", "pos")], 1)
    return {"positive": positive, "negative": negative, "weights": weights, **options}


@pytest.mark.parametrize("case", CASES)
def test_field_loss_and_gradient_are_those_of_the_authors_code(golden, case):
    io = golden("objectives/drift.safetensors")
    generated = io["gen"].clone().requires_grad_()
    field, scale = drifting_field(generated, **inputs(io, case))
    close = {"atol": 1e-2 if case == "same" else 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(field, io[f"{case}.field"], **close)
    torch.testing.assert_close(scale, io[f"{case}.scale"] / 4**0.5, atol=1e-5, rtol=1e-5)
    loss = drifting_loss(generated, field, scale)
    torch.testing.assert_close(loss, io[f"{case}.loss"], **close)
    loss.sum().backward()
    torch.testing.assert_close(generated.grad, io[f"{case}.grad"], **close)


def test_equal_sets_have_no_field_but_for_each_point_leaving_itself_out(golden):
    points = golden("objectives/closed.safetensors")["drift.set"][None]
    still, _ = drifting_field(points, points, mask_self=False)
    assert still.abs().max() < 1e-10
    moved, _ = drifting_field(points, points)
    assert moved.square().mean() > 0.1


def test_it_moves_points_towards_the_positive_ones():
    torch.manual_seed(0)
    generated, positive = torch.randn(1, 16, 3), torch.randn(1, 16, 3) + 4
    field, scale = drifting_field(generated, positive)
    assert (field.mean((0, 1)) > 0).all()
    after = drifting_field(generated + 0.5 * field * scale, positive)[1]
    assert after < scale  # the sets are closer: the mean distance is smaller
