"""Networks of every family in a few thousand weights, random ones, without any download."""

from benchmarks.networks import random_teacher
from dimo_cli.teachers.registry import load_teacher

CODES = {"vocab_size": 40, "codebook_size": 32}
VQVAE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "num_vq_embeddings": 32,
    "norm_num_groups": 4,
}
PIXELS = {"num_embeddings": 32, "z_channels": 8, "hidden_channels": 32, "num_res_blocks": 1}
VIT = {"width": 32, "layers": 2, "heads": 2}
TITOK = {
    "crop_size": 32,
    "codebook_size": 32,
    "token_size": 4,
    "num_latent_tokens": 8,
    "vit_enc_model_size": VIT,
    "vit_dec_model_size": VIT,
    "pixel_decoder": PIXELS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "condition_num_classes": 5,
}
ARCHITECTURES = {
    "maskgit": {
        "grid": 4,
        "codebook_size": 32,
        "nclass": 5,
        "hidden_dim": 32,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 64,
        "embed_dim": 8,
        "z_channels": 8,
        "ch": 32,
        "ch_mult": (1, 1),
        "num_res_blocks": 1,
        "resolution": 8,
        "attn_resolutions": (4,),
    },
    "halton-tiny": {
        "input_size": 4,
        "codebook_size": 32,
        "nclass": 5,
        "hidden_dim": 32,
        "depth": 2,
        "heads": 3,
        "mlp_dim": 64,
        "codebook_embed_dim": 4,
        "z_channels": 8,
        "ch": 32,
        "ch_mult": (1, 1),
        "num_res_blocks": 1,
    },
    "maskbit": {
        "bits": 4,
        "img_size": 8,
        "hidden_dim": 32,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 64,
        "nclass": 5,
        "hidden_channels": 32,
        "channel_mult": (1, 1),
        "num_res_blocks": 1,
    },
    "titok-l32": TITOK,
    "titok-s128": TITOK,
    "maskgen-l": {
        "decoder_embed_dim": 32,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
        "micro_condition_embed_dim": 8,
        "crop_size": 32,
        "codebook_size": 32,
        "token_size": 4,
        "num_latent_tokens": 8,
        "vit_enc_model_size": VIT,
        "vit_dec_model_size": VIT,
        "text_embed_dim": 32,
        "text_context_length": 6,
        "text_layers": 2,
        "text_heads": 2,
    },
    "meissonic": {
        **CODES,
        "image_size": 8,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
        "vqvae": VQVAE,
    },
    "lumina-dimoo": {
        "vocab_size": 64,
        "d_model": 32,
        "n_heads": 2,
        "n_kv_heads": 2,
        "n_layers": 2,
        "mlp_hidden_size": 48,
        "mask_token_id": 20,
        "newline_token_id": 21,
        "begin_image_token_id": 22,
        "end_image_token_id": 23,
        "begin_answer_token_id": 24,
        "end_answer_token_id": 25,
        "text_length": 6,
        "image_size": 8,
        "vqvae": VQVAE,
    },
    "amused-512": {
        **CODES,
        "image_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "in_channels": 16,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "block_num_heads": 2,
        "encoder_hidden_size": 16,
        "cond_embed_dim": 16,
        "micro_cond_encode_dim": 8,
        "micro_cond_embed_dim": 40,
        "vqvae": VQVAE,
    },
}
FAMILIES = ["digits", "shapes", *ARCHITECTURES]


def tiny_teacher(name):
    """A teacher of a family; the built-in ones as they are."""
    if name not in ARCHITECTURES:
        return load_teacher(name)
    return random_teacher(name, ARCHITECTURES[name])
