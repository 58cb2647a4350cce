"""The embedded text teacher `shapes`: plain English to 32x32 pictures of colored shapes.

Small enough for a laptop CPU, and with what large text teachers have: a tokenizer with a learned
codebook, a text encoder, a null text, and prompts that ask for counts, colors and positions.
Everything here is trained by `examples/train_shapes.py` on pictures that `world.py` draws.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

from safetensors.torch import load_file
from torch import nn

from dimo_cli.specs.tteo import SHAPES_WEIGHTS
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import SamplerDefaults, Teacher, TokenSpace, TteoDefaults
from dimo_cli.teachers.shapes.network import (
    LENGTH,
    MASK_ID,
    SUMMARY,
    WIDTH,
    ShapesBackbone,
    ShapesText,
    ShapesTextEncoder,
)
from dimo_cli.teachers.shapes.tokenizer import CODES, GRID, ShapesTokenizer
from dimo_cli.teachers.shapes.world import SIDE, caption, random_scene

SPACE = TokenSpace(
    length=LENGTH,
    groups=1,
    vocab=CODES,
    codes=CODES,
    mask_id=MASK_ID,
    image_size=SIDE,
    grid=(GRID, GRID),
)
N = TypeVar("N", bound=nn.Module)
STEPS, GUIDANCE = 16, 1.5
CAPTIONS = 4000
TTEO_RATE = 0.1  # of 0.01 to 1 what raises the rewards most


def fill_from(network: N, path: Path) -> N:
    """The network with the weights of a file, frozen."""
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    network.load_state_dict(weights)
    network.requires_grad_(False).eval()
    return network


def load_from(folder: Path) -> Teacher:
    """The teacher from the three files that the training script writes."""
    backbone, text, tokenizer = ShapesBackbone(), ShapesText(), ShapesTokenizer()
    fill_from(backbone, folder / "shapes_backbone.safetensors")
    fill_from(text, folder / "shapes_text.safetensors")
    fill_from(tokenizer, folder / "shapes_tokenizer.safetensors")
    conditioner = PromptConditioner(
        {"text": (SUMMARY, WIDTH)}, lambda: ShapesTextEncoder(text), key="shapes 4"
    )
    conditioner.dataset = Captions(CAPTIONS, seed=1)
    return Teacher(
        name="shapes",
        family="shapes",
        revision="6",
        license="Apache-2.0",
        space=SPACE,
        backbone=backbone,
        tokenizer=tokenizer,
        conditioner=conditioner,
        sampler=SamplerDefaults(steps=STEPS, guidance=GUIDANCE, plan=heuristic_plan("random")),
        takes_prompts=True,
        tteo=TteoDefaults(SHAPES_WEIGHTS, TTEO_RATE),
    )


class Captions(Sequence[str]):
    """Random captions of the world: what students train on when nobody says otherwise.

    They are made up when the first is read: an image of a prompt needs none.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    @cached_property
    def lines(self) -> list[str]:
        """All of them."""
        rng = random.Random(self.seed)
        return [caption(random_scene(rng), rng) for _ in range(self.size)]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.lines[index]


def load_teacher() -> Teacher:
    """The teacher with the weights that ship in the package."""
    return load_from(Path(builtin_path("")))
