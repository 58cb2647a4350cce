"""What of a MaskGen-VQ model can vary, under the names of its published config files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Int, Real, Spec
from dimo_cli.teachers.maskgen.vit import NamedSize


class Architecture(Spec):
    """Sizes of the generator, of the tokenizer and of the text encoder between them."""

    decoder_embed_dim: Int = Field(gt=0, description="Width of the generator")
    decoder_depth: Int = Field(gt=0, description="Blocks of the generator")
    decoder_num_heads: Int = Field(gt=0, description="Heads of the generator's attention")
    micro_condition_embed_dim: Int = Field(
        gt=0, multiple_of=2, description="Numbers that tell the aesthetic score"
    )
    condition_num_classes: Int = Field(
        ge=0, description="Rows of the embedding kept for classes, which nothing reads"
    )
    sample_aesthetic_score: Real = Field(description="Aesthetic score of every condition")

    crop_size: Int = Field(gt=0, description="Side of the images")
    codebook_size: Int = Field(gt=0, description="Image codes")
    token_size: Int = Field(gt=0, description="Size of a code's vector")
    num_latent_tokens: Int = Field(gt=0, description="Tokens of an image")
    vit_enc_model_size: NamedSize = Field(description="Transformer of the tokenizer's encoder")
    vit_dec_model_size: NamedSize = Field(description="Transformer of the tokenizer's decoder")
    vit_enc_patch_size: Int = Field(gt=0, description="Side of the encoder's patches")
    vit_dec_patch_size: Int = Field(gt=0, description="Side of the decoder's patches")

    text_embed_dim: Int = Field(gt=0, description="Width of the text encoder")
    text_context_length: Int = Field(gt=2, description="Tokens of a prompt")
    text_layers: Int = Field(ge=2, description="Layers of the text encoder")
    text_heads: Int = Field(gt=0, description="Heads of the text encoder's attention")

    @property
    def embedding_rows(self) -> int:
        """Codes, mask, and the unused rows of classes and of no class."""
        return self.codebook_size + self.condition_num_classes + 2

    @model_validator(mode="after")
    def _divisible(self) -> Architecture:
        for part, whole in (
            ("decoder_num_heads", "decoder_embed_dim"),
            ("text_heads", "text_embed_dim"),
            ("vit_enc_patch_size", "crop_size"),
            ("vit_dec_patch_size", "crop_size"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole} must be a multiple of {part}")
        return self


SHARED: dict[str, Any] = {
    "micro_condition_embed_dim": 256,
    "condition_num_classes": 1000,
    "sample_aesthetic_score": 6.5,
    "crop_size": 256,
    "codebook_size": 8192,
    "token_size": 64,
    "num_latent_tokens": 128,
    "vit_enc_model_size": "base",
    "vit_dec_model_size": "large",
    "vit_enc_patch_size": 16,
    "vit_dec_patch_size": 16,
    "text_embed_dim": 768,
    "text_context_length": 77,
    "text_layers": 12,
    "text_heads": 12,
}

# Other kinds of model share the config format; these entries say that it is one of this kind.
# `clustering_vq` is not among them: it is about how the codebook was trained.
KIND: dict[str, dict[str, Any]] = {
    "vq_model": {
        "quantize_mode": "vq",
        "use_l2_norm": False,
        "is_legacy": False,
        "finetune_decoder": False,
    },
    "maskgen": {"micro_condition": True, "weight_tying": True},
}


def settings_of(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The architecture within a published config file."""
    model = config.get("model", {})
    for group, entries in KIND.items():
        for name, needed in entries.items():
            value = model.get(group, {}).get(name, needed)
            if value != needed:
                raise SpecError(
                    f"`{source}` has `model.{group}.{name}` = {value!r}; "
                    f"dimo reads MaskGen models with {needed!r} only."
                )
    groups = (
        model.get("vq_model", {}),
        model.get("maskgen", {}),
        config.get("dataset", {}).get("preprocessing", {}),
    )
    return {
        name: value
        for group in groups
        for name, value in group.items()
        if name in Architecture.model_fields
    }
