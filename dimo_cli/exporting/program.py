"""The program itself: its inputs, the pass, and the trace of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dimo_cli.engine.one_step import filter_logits, student_input, token_noise
from dimo_cli.engine.schedules import add_noise
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Cond, Teacher

TRACED_BATCH, MOST_IMAGES = 2, 4096
TOKENS, NOISE, EMBED_NOISE = DRAWN = ("x_init", "gumbel", "embed_noise")
Inputs = dict[str, Tensor]


def constants(teacher: Teacher) -> Mapping[str, Tensor]:
    """What the condition of every prompt has in common: it goes into the program."""
    conditioner = teacher.conditioner
    return conditioner.constants if isinstance(conditioner, PromptConditioner) else {}


def draw_inputs(student: Student, cond: Cond, spec: ExportSpec, seed: int) -> Inputs:
    """The inputs with which the program draws what the student draws by itself."""
    space, init, count = student.teacher.space, student.manifest.init, len(cond)
    generator = torch.Generator().manual_seed(seed)
    tokens = student_input(space, student.teacher.tokenizer, init, count, generator)
    inputs = {TOKENS: tokens}
    fixed = constants(student.teacher)
    inputs |= {name: value for name, value in cond.tensors.items() if name not in fixed}
    if init.embed_noise.sigma:
        with torch.no_grad():
            shape = student.backbone.embed(tokens).shape
        inputs[EMBED_NOISE] = torch.randn(shape, generator=generator)
    if not spec.greedy:
        inputs[NOISE] = token_noise(space, count, generator)
    return {name: value.contiguous() for name, value in inputs.items()}


class Program(nn.Module):
    """The whole pass of a student: its inputs by name to images in [-1, 1]."""

    def __init__(self, student: Student, spec: ExportSpec) -> None:
        super().__init__()
        self.backbone, self.tokenizer = student.backbone, student.teacher.tokenizer
        self.codes = student.teacher.space.codes
        self.sigma = student.manifest.init.embed_noise.sigma
        self.sampling = (spec.temperature or student.manifest.temperature, spec.top_k, spec.top_p)
        self.constants = tuple(constants(student.teacher))
        for name, value in constants(student.teacher).items():
            self.register_buffer(f"constant_{name}", value)

    def forward(self, inputs: Inputs) -> Tensor:
        """Images [B, 3, H, W] of inputs whose first dimension is the batch."""
        tokens = inputs[TOKENS]
        cond = Cond({name: value for name, value in inputs.items() if name not in DRAWN})
        for name in self.constants:
            value = self.get_buffer(f"constant_{name}")
            cond.tensors[name] = value.expand(tokens.shape[0], *value.shape)  # type: ignore[index]
        embeds = self.backbone.embed(tokens)
        if EMBED_NOISE in inputs:
            embeds = add_noise(embeds, self.sigma, inputs[EMBED_NOISE])
        hidden = self.backbone.hidden(embeds, cond)
        assert isinstance(hidden, Tensor)
        logits = self.backbone.head(hidden).float()
        if NOISE in inputs:
            logits = filter_logits(logits, *self.sampling) + inputs[NOISE]
        return self.tokenizer.decode(logits.argmax(-1).clamp(max=self.codes - 1), cond)


class SeenTensors(TorchFunctionMode):
    """Remembers every tensor that any function of torch is given."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        self.ids |= {id(value) for value in tree_leaves((args, kwargs))}
        return func(*args, **(kwargs or {}))


def trace(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The program for any number of images, with the weights that it uses alone."""
    with SeenTensors() as seen:
        module(inputs)
    batch = Dim.AUTO(min=1, max=MOST_IMAGES)  # networks may limit the batch, but not fix it
    shapes = ({name: {0: batch} for name in inputs},)
    program = torch.export.export(only(module, seen.ids), (inputs,), dynamic_shapes=shapes)
    if most_images(program) is None:
        raise ValueError(f"they fix the number of images, to {TRACED_BATCH} in this trace")
    return program


def most_images(program: ExportedProgram) -> int | None:
    """How many images go through a program at once; None where the number is fixed."""
    uppers = [int(bounds.upper) for bounds in program.range_constraints.values()]
    return min(uppers) if uppers else None


def only(module: nn.Module, kept: set[int]) -> nn.Module:
    """The same module, sharing its weights, without those that are not among the kept ones."""
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    module = copy.deepcopy(module, {id(tensor): tensor for tensor in weights.values()})
    for name, tensor in weights.items():
        if id(tensor) not in kept:
            place, _, last = name.rpartition(".")
            setattr(module.get_submodule(place), last, None)
    return module
