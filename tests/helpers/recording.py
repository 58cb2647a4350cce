"""A CUDA graph on a CPU: every operation of a step is written down, and done again on replay.

It is as strict as a card's: numbers that Python took from the step's own decisions stay what they
were, tensors stay where they are, and whoever asks for a number while recording is refused.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.syncs import READS, has_boolean_index

aten = torch.ops.aten
SHAPED_BY_NUMBERS = (aten.nonzero.default, aten.masked_select.default)


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def place_of(tensor):
    return tensor.untyped_storage().data_ptr()


def written_by(func, args, kwargs):
    """The tensors among arguments that an operation writes to."""
    found = []
    for index, argument in enumerate(func._schema.arguments):
        given = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_of(given)
    return found


class HostGraph:
    """What of `torch.cuda.CUDAGraph` a captured step uses."""

    def __init__(self):
        self.done = []
        self.generators = [torch.default_generator]
        self.replays = 0

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def pool(self):
        return (0, id(self))

    def replay(self):
        self.replays += 1
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, found in self.done:
                sources = {place_of(tensor) for tensor in tensors_of((args, kwargs))}
                again = func(*args, **kwargs)
                for kept, new in zip(tensors_of(found), tensors_of(again), strict=True):
                    if place_of(kept) not in sources:  # else it is a view, or was written in place
                        kept.copy_(new)


class Recorder(TorchDispatchMode):
    """Writes operations down, and remembers what was in tensors that they overwrite."""

    def __init__(self, graph):
        super().__init__()
        self.graph, self.own, self.before = graph, set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READS or func in SHAPED_BY_NUMBERS or has_boolean_index(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for tensor in written_by(func, args, kwargs):
            place = place_of(tensor)
            if place not in self.own and place not in self.before:
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before[place] = (whole, whole.clone())
        sources = {place_of(tensor) for tensor in tensors_of((args, kwargs))}
        found = func(*args, **kwargs)
        self.own |= {place_of(tensor) for tensor in tensors_of(found)} - sources
        self.graph.done.append((func, args, kwargs, found))
        return found

    def undo(self):
        """A recording computes nothing: what it wrote is as it was."""
        for whole, before in self.before.values():
            whole.copy_(before)


@contextmanager
def recorded(graph, pool=None):
    """As `torch.cuda.graph`."""
    states = [generator.get_state() for generator in graph.generators]
    recorder = Recorder(graph)
    with recorder:
        yield
    recorder.undo()
    for generator, state in zip(graph.generators, states, strict=True):
        generator.set_state(state)


def record_on_host(monkeypatch):
    """Let a captured step record here; returns the graphs that it makes."""
    graphs = []

    class Kept(HostGraph):
        def __init__(self):
            super().__init__()
            graphs.append(self)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Kept)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    return graphs
