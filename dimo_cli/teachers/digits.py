"""The embedded teacher `digits`: 8x8 handwritten digits, each pixel a token of 17 gray levels.

Small enough for a laptop CPU, and real enough to show what the papers are about. The images are
the UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin and Kaynak, CC BY 4.0).
Everything here is trained by `examples/train_digits.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_cli.teachers.blocks import Block, EmbeddedBackbone
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.classes import DIGITS as CLASS_NAMES
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.expectation import expected
from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import Cond, SamplerDefaults, Teacher, Tokenizer, TokenSpace

SIDE, LEVELS, CLASSES = 8, 17, 10
MASK_ID = LEVELS
FIRST_CLASS_ID = MASK_ID + 1

SPACE = TokenSpace(
    length=SIDE * SIDE,
    groups=1,
    vocab=LEVELS,
    codes=LEVELS,
    mask_id=MASK_ID,
    image_size=SIDE,
    grid=(SIDE, SIDE),
    class_ids=range(FIRST_CLASS_ID, FIRST_CLASS_ID + CLASSES),
)


class DigitsBackbone(EmbeddedBackbone):
    """A MaskGit-style transformer: one embedding table for gray levels, mask, classes and null.

    The class token is appended last; its output is not used.
    """

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(FIRST_CLASS_ID + CLASSES + 1, width)
        self.position = nn.Parameter(0.02 * torch.randn(SPACE.length + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, LEVELS)

    def hidden(
        self, embeds: Tensor, cond: Cond, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        class_token = self.token_embedding(FIRST_CLASS_ID + cond.tensors["label"])
        x = torch.cat([embeds, class_token[:, None]], dim=1) + self.position
        return self.through_blocks(self.with_latent(x, cond), SPACE.length, taps)


class DigitsTokenizer(Tokenizer):
    """Gray level k of 0..16 is the token k: the tokenizer has no weights and loses nothing."""

    def encode(self, images: Tensor) -> Tensor:
        levels = (images.mean(1) + 1) * (LEVELS - 1) / 2
        return levels.round().long().clamp(0, LEVELS - 1).flatten(1)[..., None]

    def decode(self, tokens: Tensor, cond: Cond | None = None) -> Tensor:
        return self._paint(tokens.squeeze(-1).clamp(0, LEVELS - 1).float())

    def decode_probs(self, probs: Tensor, cond: Cond | None = None) -> Tensor:
        levels = torch.arange(LEVELS, dtype=probs.dtype, device=probs.device)
        return self._paint(expected(probs.squeeze(-2), levels))

    def _paint(self, levels: Tensor) -> Tensor:
        grey = levels.view(-1, 1, SIDE, SIDE) * (2 / (LEVELS - 1)) - 1
        return grey.expand(-1, 3, -1, -1)


def training_tokens() -> tuple[Tensor, Tensor]:
    """The 1,797 training images as tokens [N, 64, 1] with their labels [N]."""
    data = load_file(builtin_path("digits_data.safetensors"))
    return data["tokens"].long()[..., None], data["labels"].long()


def build_backbone() -> DigitsBackbone:
    """The backbone with fresh weights: what a student folder's weights are loaded into."""
    return DigitsBackbone()


def load_teacher() -> Teacher:
    """The teacher with the weights that ship in the package."""
    backbone = build_backbone()
    weights = load_file(builtin_path("digits.safetensors"))
    backbone.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    backbone.requires_grad_(False).eval()
    return Teacher(
        name="digits",
        family="digits",
        revision="1",
        license="CC-BY-4.0",
        space=SPACE,
        backbone=backbone,
        tokenizer=DigitsTokenizer(),
        conditioner=ClassConditioner(CLASSES),
        sampler=SamplerDefaults(steps=16, guidance=1.0, plan=heuristic_plan("random")),
        class_names=CLASS_NAMES,
    )
