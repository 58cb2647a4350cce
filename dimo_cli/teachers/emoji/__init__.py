"""The embedded text teacher `emoji`: plain English to 32x32 pictures that people like to look at.

Hundreds of things, from ants to zebras, in two styles on plain backgrounds. It is as small as
`shapes` and has all that large text teachers have, but its prompts ask for what is in the picture
and not for how many and where. Everything here is trained by `examples/train_emoji.py` on drawings
of Noto Emoji (Apache-2.0, Google) and Fluent Emoji (MIT, Microsoft), which do not ship.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

from dimo_cli.specs.tteo import EMOJI_WEIGHTS
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.emoji.network import (
    LENGTH,
    MASK_ID,
    SUMMARY,
    WIDTH,
    EmojiBackbone,
    EmojiText,
    EmojiTextEncoder,
    left_out,
)
from dimo_cli.teachers.emoji.tokenizer import CODES, GRID, EmojiTokenizer
from dimo_cli.teachers.emoji.world import SIDE, Look, caption, random_look, random_scene, trained_on
from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import SamplerDefaults, Step, Teacher, TokenSpace, TteoDefaults
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
STEPS, GUIDANCE, TTEO_RATE = 16, 2.0, 0.1
TEMPERATURE = 0.8  # sharper than what was learned: fewer stray patches, as many kinds of pictures
CAPTIONS, CAPTIONS_SEED = 6000, 1


def random_picture(rng: random.Random) -> tuple[Look, str]:
    """The looks of something that the networks were trained on, and a caption of it."""
    look = random_look(rng, trained_on())
    return look, caption(random_scene(look, rng), rng)


def plan(steps: int, slots: int, guidance: float, choice_noise: float) -> list[Step]:
    """Random tokens first, all of them drawn a little cooler."""
    shared = heuristic_plan("random")(steps, slots, guidance, choice_noise)
    return [replace(step, temperature=TEMPERATURE) for step in shared]


def random_caption(rng: random.Random) -> str:
    """A caption of something that the networks were trained on."""
    return random_picture(rng)[1]


def load_from(folder: Path) -> Teacher:
    """The teacher from the three files that the training script writes."""
    backbone = fill_from(EmojiBackbone(), folder / "emoji_backbone.safetensors")
    text = fill_from(EmojiText(), folder / "emoji_text.safetensors")
    tokenizer = fill_from(EmojiTokenizer(), folder / "emoji_tokenizer.safetensors")
    conditioner = PromptConditioner(
        {"text": (SUMMARY, WIDTH)},
        partial(EmojiTextEncoder, text),
        key="emoji 1",
        left_out=left_out,
    )
    conditioner.dataset = Captions(CAPTIONS, CAPTIONS_SEED, random_caption)
    return Teacher(
        name="emoji",
        family="emoji",
        revision="1",
        license="Apache-2.0",
        space=SPACE,
        backbone=backbone,
        tokenizer=tokenizer,
        conditioner=conditioner,
        sampler=SamplerDefaults(steps=STEPS, guidance=GUIDANCE, plan=plan),
        takes_prompts=True,
        tteo=TteoDefaults(EMOJI_WEIGHTS, TTEO_RATE),
    )


def load_teacher() -> Teacher:
    """The teacher with the weights that ship in the package."""
    return load_from(Path(builtin_path("")))
