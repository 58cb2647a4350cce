"""The settings of a Lumina-DiMOO teacher, by the names of its config file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.teachers.vq_model import VQArchitecture


class Architecture(Spec):
    """Network, vocabulary and image tokenizer. What has one value only is what was trained."""

    vocab_size: Int = Field(gt=0, description="Words and image codes, if nothing else says so")
    embedding_size: Int | None = Field(
        None, gt=0, description="Rows of the tables of words and image codes; null: `vocab_size`"
    )
    d_model: Int = Field(gt=0, description="Width of the network")
    n_heads: Int = Field(gt=0, description="Attention heads")
    n_kv_heads: Int = Field(gt=0, description="Heads of keys and values: as many")
    n_layers: Int = Field(gt=0, description="Transformer blocks")
    mlp_hidden_size: Int = Field(gt=0, description="Inner width of a feed-forward part")
    rms_norm_eps: Real = Field(gt=0, description="Floor of the norms' variance")
    rope_theta: Real = Field(gt=0, description="Base of the rotary embedding")
    mask_token_id: Int = Field(ge=0, description="Row of the mask")
    newline_token_id: Int = Field(126_084, ge=0, description="What closes a row of image tokens")
    begin_image_token_id: Int = Field(126_349, ge=0, description="What stands before the image")
    end_image_token_id: Int = Field(126_350, ge=0, description="What stands behind the image")
    begin_answer_token_id: Int = Field(126_354, ge=0, description="What opens the answer")
    end_answer_token_id: Int = Field(126_355, ge=0, description="What closes the answer")
    text_length: Int = Field(
        256, gt=0, description="Positions for a prompt in its template; the rest is looked past"
    )
    activation_type: Literal["silu"] = Field("silu", description="Gate of the feed-forward parts")
    block_type: Literal["llama"] = Field("llama", description="Kind of transformer block")
    layer_norm_type: Literal["rms"] = Field("rms", description="Kind of normalization")
    rope: Literal[True] = Field(True, description="Rotary positions")
    rope_full_precision: Literal[True] = Field(True, description="Rotary positions in float32")
    include_bias: Literal[False] = Field(False, description="Biases of the linear layers")
    include_qkv_bias: Literal[False] = Field(False, description="Biases of queries and keys")
    attention_layer_norm: Literal[False] = Field(False, description="Norms of queries and keys")
    input_emb_norm: Literal[False] = Field(False, description="Scaled embeddings")
    scale_logits: Literal[False] = Field(False, description="Scaled logits")
    weight_tying: Literal[False] = Field(False, description="One table for input and output")
    vqvae: VQArchitecture = Field(description="Settings of the image tokenizer")
    image_size: Int = Field(gt=0, description="Side of the image in pixels")

    @field_validator("n_heads")
    @classmethod
    def _divides_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("d_model", 2 * heads)
        if width % (2 * heads):
            raise ValueError(f"must be an even part of d_model ({width})")
        return heads

    @field_validator("n_kv_heads")
    @classmethod
    def _is_not_grouped(cls, heads: int, info: ValidationInfo) -> int:
        if heads != info.data.get("n_heads", heads):
            raise ValueError("must be as `n_heads`: no model with grouped heads was published")
        return heads

    @field_validator("image_size")
    @classmethod
    def _is_whole_tokens(cls, size: int, info: ValidationInfo) -> int:
        factor = info.data["vqvae"].factor if "vqvae" in info.data else 1
        if size % factor:
            raise ValueError(f"must be a multiple of {factor}")
        return size

    @field_validator("vqvae")
    @classmethod
    def _leaves_room_for_words(cls, vqvae: VQArchitecture, info: ValidationInfo) -> VQArchitecture:
        if not {"vocab_size", "embedding_size"} <= info.data.keys():
            return vqvae
        words = (info.data["embedding_size"] or info.data["vocab_size"]) - vqvae.num_vq_embeddings
        for name, row in info.data.items():
            if name.endswith("_token_id") and row >= words:
                raise ValueError(
                    f"leaves {words} rows to words with its `num_vq_embeddings`, and `{name}` "
                    f"is {row}"
                )
        return vqvae

    @property
    def rows(self) -> int:
        """Rows of the table of words and image codes."""
        return self.embedding_size or self.vocab_size

    @property
    def codes(self) -> int:
        """Image codes, which are the last rows."""
        return self.vqvae.num_vq_embeddings

    @property
    def first_code(self) -> int:
        """The row of the first image code."""
        return self.rows - self.codes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        side = self.image_size // self.vqvae.factor
        return side, side
