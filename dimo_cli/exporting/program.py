"""The program itself: what it draws, the pass, and the trace of it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dimo_cli.engine.masking import masked_count
from dimo_cli.engine.one_step import filter_logits, student_input, token_noise
from dimo_cli.engine.schedules import add_noise, middle_mask_ratio
from dimo_cli.errors import SpecError
from dimo_cli.exporting import noise
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.conditioning import PromptConditioner, TextTower, halved, widened
from dimo_cli.teachers.protocol import Cond, Teacher

TRACED_BATCH, MOST_IMAGES = 2, 4096
Inputs = tuple[Tensor, Tensor]
"""Seeds [B], and classes [B] or token ids [B, T]."""


class Draws(NamedTuple):
    """All that is random about images."""

    x_init: Tensor
    """Initial tokens [B, L, G]."""
    embed_noise: Tensor | None
    """Normal noise [B, L, D] for their embeddings; None: there is none."""
    gumbel: Tensor | None
    """Noise [B, L, G, V] that draws the tokens; None: the likeliest ones are taken."""


class Program(nn.Module):
    """The whole way of a student, from seeds and what is wanted to pictures."""

    wanted: str
    """What the second input is called."""

    def __init__(self, student: Student, spec: ExportSpec) -> None:
        super().__init__()
        self.backbone, self.tokenizer = student.backbone, student.teacher.tokenizer
        self.space, init = student.teacher.space, student.manifest.init
        ratio = torch.tensor(middle_mask_ratio(init.mask_ratio))
        self.masked = int(masked_count(ratio, self.space.length * self.space.groups))
        self.sigma, self.greedy = init.embed_noise.sigma, spec.greedy
        self.sampling = (spec.temperature or student.manifest.temperature, spec.top_k, spec.top_p)

    @abstractmethod
    def cond(self, wanted: Tensor) -> Cond:
        """The condition of classes or token ids."""

    def picture(self, seed: Tensor, wanted: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] from 0 to 1."""
        return as_picture(self.paint(self.draw(seed), self.cond(wanted)))

    def draw(self, seed: Tensor) -> Draws:
        """What seeds [B] stand for."""
        length, groups, vocab = self.space.length, self.space.groups, self.space.vocab
        slots = length * groups
        tokens = noise.random_integers(seed, noise.CODES, self.space.codes, slots)
        masks = noise.random_subset(seed, noise.ORDER, self.masked, slots)
        x_init = tokens.masked_fill(masks, self.space.mask_id).view(-1, length, groups)
        embeds = gumbel = None
        if self.sigma:
            width = self.backbone.embed(x_init).shape[-1]
            embeds = noise.random_normal(seed, noise.EMBEDS, length * width).view(-1, length, width)
        if not self.greedy:
            flat = noise.random_gumbel(seed, noise.GUMBEL, slots * vocab)
            gumbel = flat.view(-1, length, groups, vocab)
        return Draws(x_init, embeds, gumbel)

    def paint(self, draws: Draws, cond: Cond) -> Tensor:
        """What the student makes of these draws: images [B, 3, H, W] in [-1, 1]."""
        embeds = self.backbone.embed(draws.x_init)
        if draws.embed_noise is not None:
            embeds = add_noise(embeds, self.sigma, draws.embed_noise)
        hidden = self.backbone.hidden(embeds, cond)
        assert isinstance(hidden, Tensor)
        logits = self.backbone.head(hidden).float()
        if draws.gumbel is not None:
            logits = filter_logits(logits, *self.sampling) + draws.gumbel
        return self.tokenizer.decode(logits.argmax(-1).clamp(max=self.space.codes - 1), cond)


class ClassProgram(Program):
    """Seeds and classes to pictures."""

    wanted = "label"

    def __init__(self, student: Student, spec: ExportSpec) -> None:
        super().__init__(student, spec)
        self.conditioner = student.teacher.conditioner

    def cond(self, wanted: Tensor) -> Cond:
        """The condition of classes [B]."""
        return self.conditioner.labels(wanted)

    def forward(self, seed: Tensor, label: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] from 0 to 1."""
        return self.picture(seed, label)


class PromptProgram(Program):
    """Seeds and token ids of prompts to pictures."""

    wanted = "tokens"

    def __init__(self, student: Student, spec: ExportSpec) -> None:
        super().__init__(student, spec)
        self.tower = text_tower(student.teacher)
        self.text = self.tower.network  # a part of the program like the other networks
        conditioner = student.teacher.conditioner
        assert isinstance(conditioner, PromptConditioner)
        self.constants = tuple(conditioner.constants)
        for name, value in conditioner.constants.items():
            self.register_buffer(f"constant_{name}", value)

    def cond(self, wanted: Tensor) -> Cond:
        """The condition of token ids [B, T]; in half precision on the way, as students know it."""
        states = self.tower.states(wanted)
        tensors = {name: widened(halved(value)) for name, value in states.items()}
        for name in self.constants:
            value = self.get_buffer(f"constant_{name}")
            tensors[name] = value.expand(wanted.shape[0], *value.shape)
        return Cond(tensors)

    def forward(self, seed: Tensor, tokens: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] from 0 to 1."""
        return self.picture(seed, tokens)


def program_of(student: Student, spec: ExportSpec) -> Program:
    """The program of a student."""
    student.check_no_noise(
        "programs cannot draw it yet",
        "Use it with dimo: `dimo sample`, or `OneStepPipeline` in Python.",
    )
    make = PromptProgram if student.teacher.takes_prompts else ClassProgram
    return make(student, spec).eval()


def text_tower(teacher: Teacher) -> TextTower:
    """The text encoder of a teacher; refused where it is not one network behind token ids."""
    conditioner = teacher.conditioner
    encoder = conditioner.encoder() if isinstance(conditioner, PromptConditioner) else None
    if not isinstance(encoder, TextTower):
        raise SpecError(
            f"The text encoder of `{teacher.name}` cannot be exported: it is no network behind "
            "token ids (`TextTower`).",
            "Use its students with dimo: `dimo sample`, or `OneStepPipeline` in Python.",
        )
    return encoder


def as_picture(images: Tensor) -> Tensor:
    """Images in [-1, 1], which some decoders overshoot, as pictures from 0 to 1."""
    return (images.float() * 0.5 + 0.5).clamp(0, 1)


def student_draws(student: Student, spec: ExportSpec, count: int, seed: int) -> Draws:
    """What the student draws by itself, with a generator of torch."""
    space, init = student.teacher.space, student.manifest.init
    generator = torch.Generator().manual_seed(seed)
    x_init = student_input(space, student.teacher.tokenizer, init, count, generator)
    embeds = None
    if init.embed_noise.sigma:
        embeds = torch.randn(student.backbone.embed(x_init).shape, generator=generator)
    return Draws(x_init, embeds, None if spec.greedy else token_noise(space, count, generator))


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
        module(*inputs)
    batch = Dim.AUTO(min=1, max=MOST_IMAGES)  # networks may limit the batch, but not fix it
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(only(module, seen.ids), inputs, dynamic_shapes=shapes)
    if most_images(program) is None:
        raise ValueError(f"they fix the number of images, to {TRACED_BATCH} in this trace")
    return program


def most_images(program: ExportedProgram) -> int | None:
    """How many images go through a program at once; None where the number is fixed."""
    uppers = [int(bounds.upper) for bounds in program.range_constraints.values()]
    return min(uppers) if uppers else None


def only(module: nn.Module, kept: set[int]) -> nn.Module:
    """The same module, without the weights that are not among the kept ones, and frozen.

    The weights are shared with the module; that of a program ask for no gradients.
    """
    weights: Mapping[str, Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    frozen = {id(tensor): without_gradient(tensor) for tensor in weights.values()}
    module = copy.deepcopy(module, dict(frozen))
    for name, tensor in weights.items():
        if id(tensor) not in kept:
            place, _, last = name.rpartition(".")
            setattr(module.get_submodule(place), last, None)
    return module


def without_gradient(tensor: Tensor) -> Tensor:
    """The same numbers as a weight that nobody trains."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor
