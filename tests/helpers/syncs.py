"""A pretended card: tensors without content on a device, and a count of what would wait for it.

The device is `lazy`: without a driver torch sends no gradients through pretended `cuda` tensors.
The code of a step runs as on a card, whose tensors nobody can read. Each read is one that would
have waited: it is counted with the line that asked, and answered with something plausible.
"""

import copy
import traceback
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from dimo_cli.teachers.meissonic import ROTARY_TABLES

CARD = torch.device("lazy:0")
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default: lambda t: 1.0 if t.is_floating_point() else 1,
    aten.is_nonzero.default: lambda t: True,
    aten.equal.default: lambda a, b: True,
}


class CardGenerator(torch.Generator):
    """A generator that says that it is on the card."""

    device = CARD

    def clone_state(self):
        return CardGenerator("cpu")


class PretendedCard(FakeTensorMode):
    """Fake tensors; `syncs` are the places that asked the card for numbers.

    `sent` are those that sent it something, whether they waited or not: a recording sends nothing.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.syncs, self.sent = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        on_card = [a for a in args if isinstance(a, FakeTensor) and a.fake_device.type == CARD.type]
        if func in READS:
            if not on_card:  # a number on the host: drawn for real there, but not among fakes
                return READS[func](*args)
            self.waits(func)
            return READS[func](*args)
        if func == aten.nonzero.default:
            if on_card:
                self.waits(func)
            (mask,) = args
            with self:
                return torch.empty((mask.numel(), mask.ndim), dtype=torch.long, device=mask.device)
        if func == aten._fused_adam_.tensor_lr:  # writes, and torch has no stand-in for it
            return None
        if func == aten.exponential_.default:  # torch's own stand-in takes no generator
            return args[0]
        if on_card and has_boolean_index(func, args):
            self.waits(func)
        if func == aten._to_copy.default and (place := kwargs.get("device")) is not None:
            self.crosses(func, args[0], torch.device(place), kwargs.get("non_blocking"))
        if func == aten.copy_.default:
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
            self.crosses(func, args[1], device_of(args[0]), non_blocking)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def crosses(self, func, source, device, non_blocking):
        """Write down who copied something between host and card."""
        if device_of(source).type == device.type:
            return
        self.sent.append(place_in_code(func))
        if not non_blocking:
            self.waits(func)

    def waits(self, func):
        """Write down who asked; `moved` sends to a real card without waiting."""
        place = place_in_code(func)
        if "in moved" not in place:
            self.syncs.append(place)


def has_boolean_index(func, args):
    """Whether the shape of a result depends on numbers."""
    if func not in (aten.index.Tensor, aten.index_put_.default):
        return False
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])


def device_of(tensor):
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


def place_in_code(func):
    """The operation and the line of the program that asked for it."""
    frames = [f for f in traceback.extract_stack() if "dimo_cli" in f.filename]
    line = frames[-1] if frames else traceback.extract_stack()[-4]
    return f"{func} at {line.filename.split('dimo_cli')[-1]}:{line.lineno} in {line.name}"


def on_card(network):
    """A copy of a network in shapes alone, on the pretended card."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): card_like(tensor) for tensor in tensors})


def card_like(tensor):
    """A tensor or parameter of the same shape on the pretended card."""
    blank = torch.empty(tensor.shape, dtype=tensor.dtype, device=CARD)
    return nn.Parameter(blank, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank


@contextmanager
def pretended_card():
    """Everything made meanwhile on `CARD` is on a card that is not there."""

    def copied(tensor, memo):
        return card_like(tensor)

    mode = PretendedCard()
    ROTARY_TABLES.clear()  # a table of another pretended card is none of this one
    with (
        mode,
        patch.object(FakeTensor, "__deepcopy__", copied, create=True),
        patch.object(nn.Module, "to", lambda module, *places: on_card(module)),
        patch("torch.is_autocast_enabled", lambda *device: False),  # refuses to know this device
        patch("torch.optim.adam._device_dtype_check_for_fused", lambda *parameters: None),
        patch("torch.autocast", lambda *args, **settings: nullcontext()),
        # Checkpointing keeps the random state of a device, of which torch has no module here.
        patch("torch.utils.checkpoint._infer_device_type", lambda *tensors: "cpu"),
    ):
        yield mode
    ROTARY_TABLES.clear()
