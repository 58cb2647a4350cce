"""Files of the embedded teachers' weights."""

import torch
from safetensors.torch import save_file
from torch import nn

from dimo_cli.teachers.small import fill_from
from dimo_cli.teachers.stored import in_bytes


class Both(nn.Module):
    """A matrix, a convolution, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.convolution = nn.Linear(8, 4), nn.Conv2d(3, 5, 3)


def test_weights_in_bytes_are_a_quarter_and_within_half_a_step_of_each_row(tmp_path):
    network = Both()
    stored = in_bytes(network.state_dict())
    assert stored["convolution.weight"].dtype == torch.int8
    save_file(stored, tmp_path / "weights.safetensors")
    read = fill_from(Both(), tmp_path / "weights.safetensors").state_dict()
    for name, tensor in network.state_dict().items():
        rows, found = tensor.flatten(0 if tensor.ndim == 1 else 1), read[name].view_as(tensor)
        step = rows.abs().amax(-1, keepdim=True) / 127
        off = (found - tensor).abs().view_as(rows)
        assert (off <= step / 2 + 1e-6 if tensor.ndim > 1 else off < 1e-3).all(), name


def test_weights_in_half_precision_are_read_as_ever(tmp_path):
    network = Both()
    half = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_file(half, tmp_path / "weights.safetensors")
    read = fill_from(Both(), tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(read[name], half[name].float()) for name in half)
