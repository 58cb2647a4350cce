"""CLIP's text tower against recorded numbers, under both naming schemes it is published with."""

import subprocess
import sys

import pytest
import torch

from dimo_cli.errors import MissingError
from dimo_cli.teachers.clip_text import (
    build_clip_text,
    clip_text_weights,
    features,
    fill_clip_text,
    open_clip_tokens,
)

ATOL = 1e-4
FEATURES = {"penultimate": "penultimate", "pooled": "pooled", "final": "final_ln"}


@pytest.fixture(scope="module")
def settings(golden):
    clip = golden("maskgen/config.json")["golden"]["clip_text"]
    return {
        "vocab_size": clip["vocab_size"],
        "hidden_size": clip["width"],
        "intermediate_size": 4 * clip["width"],
        "projection_dim": clip["embed_dim"],
        "num_hidden_layers": clip["layers"],
        "num_attention_heads": clip["heads"],
        "max_position_embeddings": clip["context_length"],
        "hidden_act": "quick_gelu" if clip["quick_gelu"] else "gelu",
        "eos_token_id": clip["eot_id"],
    }


@pytest.fixture(scope="module")
def weights(golden):
    return golden("maskgen/clip_text.safetensors")


@pytest.fixture(scope="module")
def tower(settings, weights):
    return fill_clip_text(build_clip_text(settings), clip_text_weights(weights), "golden")


@pytest.fixture(scope="module")
def io(golden):
    return golden("maskgen/io.safetensors")


@torch.inference_mode()
def test_features_of_prompts_are_those_of_open_clip(tower, io):
    found = features(tower, io["clip.token_ids"])
    for ours, recorded in FEATURES.items():
        expected = io[f"clip.{recorded}"]
        torch.testing.assert_close(found[ours].view_as(expected), expected, atol=ATOL, rtol=0)


@torch.inference_mode()
def test_features_of_the_empty_prompt_are_those_of_open_clip(tower, io):
    found = features(tower, io["clip.null_token_ids"])
    for ours, recorded in FEATURES.items():
        expected = io[f"clip.null_{recorded}"]
        torch.testing.assert_close(found[ours].view_as(expected), expected, atol=ATOL, rtol=0)


@torch.inference_mode()
def test_legacy_end_token_setting_pools_at_the_same_place(settings, weights, io):
    legacy = build_clip_text({**settings, "eos_token_id": 2})
    fill_clip_text(legacy, clip_text_weights(weights), "golden")
    pooled = features(legacy, io["clip.token_ids"])["pooled"]
    torch.testing.assert_close(
        pooled.view_as(io["clip.pooled"]), io["clip.pooled"], atol=ATOL, rtol=0
    )


def test_a_whole_clip_under_transformers_names_loses_its_image_half(settings, weights):
    text = clip_text_weights(weights)
    whole = {
        **text,
        "logit_scale": torch.zeros(()),
        "visual_projection.weight": torch.zeros(4, 4),
        "vision_model.embeddings.class_embedding": torch.zeros(4),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    assert clip_text_weights(whole).keys() == text.keys()


def test_a_whole_clip_under_open_clip_names_loses_its_image_half(weights):
    whole = {**weights, "visual.proj": torch.zeros(4, 4), "visual.conv1.weight": torch.zeros(4)}
    assert clip_text_weights(whole).keys() == clip_text_weights(weights).keys()


@pytest.mark.parametrize("change", ["missing", "unknown", "unknown layer part"])
def test_weights_that_do_not_fit_are_refused(settings, weights, change):
    text = clip_text_weights(
        {
            "missing": {k: v for k, v in weights.items() if k != "ln_final.bias"},
            "unknown": {**weights, "attn_pool.query": torch.zeros(2)},
            "unknown layer part": {
                **weights,
                "transformer.resblocks.0.ls_1.weight": torch.zeros(2),
            },
        }[change]
    )
    with pytest.raises(MissingError, match="does not fit"):
        fill_clip_text(build_clip_text(settings), text, "golden")


def test_notes_of_a_config_file_are_not_settings(settings):
    notes = {"architectures": ["CLIPTextModel"], "torch_dtype": "float16", "model_type": "clip"}
    assert build_clip_text({**settings, **notes}).dtype == torch.float32


def test_prompts_are_padded_with_zeros():
    ids = open_clip_tokens(["a photo of a cat", "  A  Photo of a CAT &amp; ", ""])
    assert ids.shape == (3, 77)
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert ids[1, :9].tolist() == [49406, 320, 1125, 539, 320, 2368, 261, 49407, 0]
    assert ids[2, :3].tolist() == [49406, 49407, 0]
    assert not ids[:, 9:].any()


def test_a_long_prompt_is_cut_behind_an_end_token():
    (ids,) = open_clip_tokens(["cat " * 200])
    assert ids[-1] == 49407
    assert (ids[1:-1] == 2368).all()


def test_importing_the_module_does_not_import_transformers():
    code = "import sys, dimo_cli.teachers.clip_text; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
