"""Conditions on their way to a card, and the attention that networks use there."""

import pytest
import torch

from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers.protocol import Cond
from dimo_cli.training.accelerator import make_accelerator


def pin(tensor):
    """As torch pins: into new memory of the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride()).copy_(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(1, 3, 4).expand(5, -1, -1),
        torch.randn(5, 6)[:, ::2],
        torch.zeros((), dtype=torch.long).expand(5),
        torch.randn(5, 3),
    ],
    ids=["expanded", "every_second", "one_number", "plain"],
)
def test_a_condition_of_any_strides_is_pinned_on_its_way_to_a_card(monkeypatch, tensor):
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *place, **settings: self)
    assert torch.equal(Cond({"text": tensor}).to("cuda").tensors["text"], tensor)


def test_networks_use_every_attention_but_that_of_cudnn():
    allowed = torch.backends.cuda
    assert not allowed.cudnn_sdp_enabled()
    assert allowed.flash_sdp_enabled()
    assert allowed.mem_efficient_sdp_enabled()
    assert allowed.math_sdp_enabled()


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_may_allow_the_attention_of_cudnn(asked):
    try:
        make_accelerator(TrainSpec(device="cpu", cudnn_attention=asked))
        assert torch.backends.cuda.cudnn_sdp_enabled() is asked
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)
