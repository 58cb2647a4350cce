"""The embedded text teacher `shapes`: plain English to 32x32 pictures of colored shapes.

Small enough for a laptop CPU, and with what large text teachers have: a tokenizer with a learned
codebook, a text encoder, a null text, and prompts that ask for counts, colors and positions.
Everything here is trained by `examples/train_shapes.py` on pictures that `world.py` draws.
"""

from __future__ import annotations

import random
from pathlib import Path

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
from dimo_cli.teachers.small import Captions, fill_from

SPACE = TokenSpace(
    length=LENGTH,
    groups=1,
    vocab=CODES,
    codes=CODES,
    mask_id=MASK_ID,
    image_size=SIDE,
    grid=(GRID, GRID),
)
STEPS, GUIDANCE = 16, 1.5
CAPTIONS = 4000
TTEO_RATE = 0.1  # of 0.01 to 1 what raises the rewards most


def random_caption(rng: random.Random) -> str:
    """A caption of any scene."""
    return caption(random_scene(rng), rng)


def load_from(folder: Path) -> Teacher:
    """The teacher from the three files that the training script writes."""
    backbone, text, tokenizer = ShapesBackbone(), ShapesText(), ShapesTokenizer()
    fill_from(backbone, folder / "shapes_backbone.safetensors")
    fill_from(text, folder / "shapes_text.safetensors")
    fill_from(tokenizer, folder / "shapes_tokenizer.safetensors")
    conditioner = PromptConditioner(
        {"text": (SUMMARY, WIDTH)}, lambda: ShapesTextEncoder(text), key="shapes 4"
    )
    conditioner.dataset = Captions(CAPTIONS, 1, random_caption)
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


def load_teacher() -> Teacher:
    """The teacher with the weights that ship in the package."""
    return load_from(Path(builtin_path("")))
