"""What of a Show-o model can vary, under the names of its config files and of phi-1.5's.

Its own config file says how many ids there are. Widths are those of phi-1.5; the length of a prompt
and the sizes of the image tokenizer stand in no file that is published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Int, Real, Spec

Factors = tuple[Annotated[Int, Field(gt=0)], ...]

# The ids behind those of text, in the order in which they were added. Then follow codes and mask.
SPECIAL = ("[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>", "<|t2i|>", "<|mmu|>", "<|t2v|>",
           "<|v2v|>", "<|lvg|>")  # fmt: skip


class Convolutions(Spec):
    """One half of the image tokenizer; levels are counted from the highest resolution."""

    ch: Int = Field(128, gt=0, multiple_of=32, description="Channels at the highest resolution")
    ch_mult: Factors = Field(
        min_length=1, description="Channels of each level in units of `ch`; one halving between two"
    )
    num_res_blocks: Factors = Field(min_length=1, description="Residual blocks of each level")

    @field_validator("num_res_blocks")
    @classmethod
    def _each_level_has_blocks(cls, blocks: tuple[int, ...], info: ValidationInfo) -> Factors:
        levels = len(info.data.get("ch_mult", blocks))
        if len(blocks) != levels:
            raise ValueError(f"must have a number for each of the {levels} levels of `ch_mult`")
        return blocks

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.ch * factor for factor in self.ch_mult]


class MagvitArchitecture(Spec):
    """Sizes of the image tokenizer."""

    encoder: Convolutions = Field(
        Convolutions(ch_mult=(1, 2, 2, 4, 4), num_res_blocks=(4, 3, 4, 3, 4)),
        description="Images to bits",
    )
    decoder: Convolutions = Field(
        Convolutions(ch_mult=(1, 1, 2, 2, 4), num_res_blocks=(4, 4, 3, 4, 3)),
        description="Bits to images",
    )

    @model_validator(mode="after")
    def _paints_what_it_sees(self) -> MagvitArchitecture:
        if len(self.encoder.ch_mult) != len(self.decoder.ch_mult):
            raise ValueError("encoder and decoder must have as many levels")
        return self


class Architecture(Spec):
    """Ids, transformer and image tokenizer; the defaults are what all published models share."""

    num_vq_tokens: Int = Field(gt=0, description="Tokens of an image: the square of a whole number")
    codebook_size: Int = Field(8192, gt=1, description="Image codes: a power of two")
    llm_vocab_size: Int = Field(50295, gt=0, description="Ids of text, before the added ones")
    max_seq_length: Int = Field(128, ge=4, description="Ids of a prompt, without the task's")
    hidden_size: Int = Field(2048, gt=0, description="Width of the transformer")
    num_hidden_layers: Int = Field(24, gt=0, description="Transformer layers")
    num_attention_heads: Int = Field(32, gt=0, description="Attention heads")
    intermediate_size: Int = Field(8192, gt=0, description="Inner width of the MLPs")
    partial_rotary_factor: Real = Field(
        0.5, gt=0, le=1, description="Share of a head that positions rotate"
    )
    rope_theta: Real = Field(10000.0, gt=1, description="Base of the rotary frequencies")
    layer_norm_eps: Real = Field(1e-5, gt=0, description="Epsilon of all layer norms")
    magvitv2: MagvitArchitecture = Field(
        MagvitArchitecture(), description="Sizes of the image tokenizer"
    )

    @field_validator("num_vq_tokens")
    @classmethod
    def _is_a_square(cls, tokens: int) -> int:
        if math.isqrt(tokens) ** 2 != tokens:
            raise ValueError("must be the square of a whole number")
        return tokens

    @field_validator("codebook_size")
    @classmethod
    def _is_a_power_of_two(cls, codes: int) -> int:
        if codes & (codes - 1):
            raise ValueError("must be a power of two: the bits of a code are what images become")
        return codes

    @field_validator("num_attention_heads")
    @classmethod
    def _divides_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("hidden_size", heads)
        if width % heads:
            raise ValueError(f"must divide hidden_size ({width})")
        return heads

    @field_validator("partial_rotary_factor")
    @classmethod
    def _rotates_pairs(cls, share: float, info: ValidationInfo) -> float:
        heads, width = info.data.get("num_attention_heads"), info.data.get("hidden_size")
        if heads and width and (int(width // heads * share) % 2 or not int(width // heads * share)):
            raise ValueError(f"must leave an even number of the {width // heads} of a head")
        return share

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.codebook_size.bit_length() - 1

    @property
    def side(self) -> int:
        """Tokens on each side of the image."""
        return math.isqrt(self.num_vq_tokens)

    @property
    def image_size(self) -> int:
        """Side of the image in pixels."""
        return self.side * 2 ** (len(self.magvitv2.encoder.ch_mult) - 1)

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """How much of a head's width positions rotate."""
        return int(self.head_width * self.partial_rotary_factor)

    @property
    def text_length(self) -> int:
        """Places of a prompt: the task's id stands before it."""
        return self.max_seq_length + 1

    def special(self, name: str) -> int:
        """The id of an added token."""
        return self.llm_vocab_size + SPECIAL.index(name)

    @property
    def first_code(self) -> int:
        """The id of image code 0."""
        return self.llm_vocab_size + len(SPECIAL)

    @property
    def vocab_size(self) -> int:
        """All ids: of text, added ones, image codes, and the mask, which is the last."""
        return self.first_code + self.codebook_size + 1


def settings_of(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The architecture within a published config file, of Show-o or of phi."""
    if config.get("w_clip_vit"):
        raise SpecError(
            f"`{source}` has `w_clip_vit` = true; dimo reads Show-o models that see no images "
            "through CLIP.",
        )
    settings = {name: config[name] for name in OWN if name in config}
    counts = {"codebook_size", "llm_vocab_size", "vocab_size"}
    if counts <= config.keys():
        ids = config["llm_vocab_size"] + len(SPECIAL) + config["codebook_size"] + 1
        mask = config.get("mask_token_id", ids - 1)
        if (config["vocab_size"], mask) != (ids, ids - 1):
            raise SpecError(
                f"`{source}` has `vocab_size` {config['vocab_size']!r} and `mask_token_id` "
                f"{mask!r}; from its other sizes follow {ids} and {ids - 1}.",
            )
    return settings


OWN = ("num_vq_tokens", "codebook_size", "llm_vocab_size")
OF_PHI = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "partial_rotary_factor",
    "rope_theta",
    "layer_norm_eps",
)
