"""MAGVIT-v2 as Show-o has it against the numbers of the released code."""

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.teachers.showo.tokenizer import signs_of
from tests.parity.test_showo import assert_near, config, drawing, io, teacher, weights

__all__ = ["config", "drawing", "io", "teacher", "weights"]  # fixtures


@pytest.fixture
def tokenizer(teacher, io):
    """The tokenizer over the grid of its recorded images, which need not be the transformer's."""
    teacher.tokenizer.side = io["tok.z"].shape[-1]
    return teacher.tokenizer


def watched(tokenizer):
    """What the parts of a tokenizer give in their next pass, by the recorded names."""
    seen, parts = {}, {
        "enc.down0": tokenizer.encoder.down[0],
        "enc.mid": tokenizer.encoder.mid,
        "dec.post_quant": tokenizer.decoder.post_quant_conv,
        "dec.mid_attn": tokenizer.decoder.mid.attn_1,
        "dec.mid": tokenizer.decoder.mid,
        "dec.up_last": tokenizer.decoder.up[-1],
    }  # fmt: skip
    for name, part in parts.items():
        part.register_forward_hook(
            lambda _, given, got, name=name: seen.update({f"tok.mid.{name}": got})
        )
    return seen


def planes(signs, side):
    """Signs [B, L, bits] as [B, bits, h, w]."""
    return signs.transpose(1, 2).unflatten(-1, (side, side)).float()


@torch.no_grad()
def test_images_are_encoded_and_decoded_as_published(tokenizer, io):
    seen = watched(tokenizer)
    tokens = tokenizer.encode(io["tok.image"])
    assert_near(tokenizer.encoder(io["tok.image"]), io["tok.z"])
    assert torch.equal(tokens.squeeze(-1), io["tok.indices"])
    signs = signs_of(tokens.squeeze(-1), tokenizer.bits)
    assert torch.equal(planes(signs, tokenizer.side), io["tok.quantized"])
    assert_near(tokenizer.decode(tokens), io["tok.decoded"])
    assert seen.keys() == {name for name in io if name.startswith("tok.mid.")}
    for name, value in seen.items():
        assert_near(value, io[name])


@torch.no_grad()
def test_any_tokens_are_decoded_as_published(tokenizer, io):
    assert_near(tokenizer.decode(io["tok.random_indices"][..., None]), io["tok.random_decoded"])


@torch.no_grad()
def test_vectors_are_signs_with_the_highest_bit_first(tokenizer, io, weights):
    codes = torch.arange(len(io["tok.embedding"]))
    signs = signs_of(codes, tokenizer.bits)
    assert torch.equal(signs.float(), io["tok.embedding"])
    assert torch.equal(signs.float(), weights[1]["quantize.embedding"])
    assert torch.equal((signs > 0).long() @ weights[1]["quantize.power_vals"], codes)


def test_soft_decoding_expects_each_sign(tokenizer, io, monkeypatch):
    painted, paint = [], tokenizer.paint
    monkeypatch.setattr(tokenizer, "paint", lambda signs: painted.append(signs) or paint(signs))
    probs = io["tok.soft_probs"].clone().requires_grad_()
    decoded = tokenizer.decode_probs(probs[:, :, None])
    assert_near(planes(painted[0], tokenizer.side), io["tok.soft_z"], 1e-5)
    assert_near(decoded, io["tok.soft_decoded"])
    decoded.square().mean().backward()
    assert_near(probs.grad, io["tok.grad_mean_sq_soft_probs"], 1e-5)


@torch.no_grad()
def test_soft_decoding_equals_decoding_on_one_hots(tokenizer, io):
    tokens = io["tok.random_indices"][..., None]
    one_hots = F.one_hot(tokens, len(io["tok.embedding"])).float()
    assert_near(tokenizer.decode_probs(one_hots), tokenizer.decode(tokens), 1e-5)
