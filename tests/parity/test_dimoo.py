"""Lumina-DiMOO against numbers of the official modules: network, prompts, image tokenizer."""

import copy
import json

import pytest
import torch
from tokenizers import Tokenizer
from torch.testing import assert_close

from dimo_cli.engine.many_steps import guided_head
from dimo_cli.errors import SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.dimoo import HEAD, PREFIX, blueprint
from dimo_cli.teachers.dimoo.architecture import Architecture
from dimo_cli.teachers.dimoo.network import DimooBackbone, rotary_table, rotated
from dimo_cli.teachers.dimoo.prompts import PADDING, UNCONDITION, IdsConditioner, PromptIds
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.vq_model import VQTokenizer, as_rows
from tests.helpers.gradients import assert_gradient_matches_differences
from tests.helpers.published import dimoo_architecture

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def config(golden):
    return golden("dimoo/config.json")


@pytest.fixture(scope="module")
def facts(config):
    return config["golden"]


@pytest.fixture(scope="module")
def io(golden):
    return golden("dimoo/io.safetensors")


@pytest.fixture(scope="module")
def weights(golden):
    """All shards, under their published names."""
    files = set(golden("dimoo/model.safetensors.index.json")["weight_map"].values())
    return {name: tensor for file in files for name, tensor in golden(f"dimoo/{file}").items()}


@pytest.fixture(scope="module")
def drawing(golden):
    """The golden networks' blueprint; the image is square, which theirs is not."""
    return blueprint("lumina-dimoo", dimoo_architecture(golden))


@pytest.fixture(scope="module")
def arch(drawing):
    return Architecture.model_validate(drawing.architecture)


@pytest.fixture(scope="module")
def backbone(drawing, arch, facts, weights):
    network = on_meta(lambda: DimooBackbone(arch, tuple(facts["grid"])))
    return fill(network, drawing.backbone.convert(weights), "the golden files")


@pytest.fixture(scope="module")
def vqvae(drawing, arch, facts, golden):
    found = golden("dimoo/vqvae/diffusion_pytorch_model.safetensors")
    network = on_meta(lambda: VQTokenizer(arch.vqvae, tuple(facts["grid"])))
    return fill(network, drawing.tokenizer.convert(found), "the golden file")


@pytest.fixture(scope="module")
def tokenizer(golden):
    return Tokenizer.from_str(json.dumps(golden("dimoo/tokenizer.json")))


def padded(*rows, length=None):
    """The condition of text ids, all padded on the left to one length."""
    length = length or max(map(len, rows))
    fronts = [row.new_full((length - len(row),), PADDING) for row in rows]
    text = torch.stack([torch.cat([front, row]) for front, row in zip(fronts, rows, strict=True)])
    return Cond({"text": text})


def texts_of(io):
    """The text ids of each prompt."""
    return [io[f"text_ids.{index}"] for index in range(len(io["image_ids"]))]


def local(ids, arch):
    """Image ids of the whole vocabulary [B, L] as tokens [B, L, 1] of the image's own."""
    return torch.where(ids == arch.mask_token_id, arch.codes, ids - arch.first_code)[..., None]


@pytest.fixture(scope="module")
def tokens(io, arch):
    return local(io["image_ids"], arch)


@pytest.fixture(scope="module")
def cond(io):
    return padded(*texts_of(io))


@pytest.fixture(scope="module")
def null(io, cond):
    return padded(*[io["null_ids"]] * len(cond), length=cond.tensors["text"].shape[1])


def flat(logits):
    """Golden logits [B, L, V] as those of groups of one."""
    return logits[..., None, :]


# ---------------------------------------------------------------- the network


@torch.inference_mode()
def test_each_prompt_alone_and_unpadded_has_the_official_logits(backbone, io, tokens):
    for index, text in enumerate(texts_of(io)):
        for which, ids in (("cond", text), ("null", io["null_ids"])):
            one = slice(index, index + 1)
            hidden = backbone.hidden(backbone.embed(tokens[one]), padded(ids))
            assert_close(hidden, io[f"hidden_{which}"][one], **TOLERANCE)
            assert_close(backbone.head(hidden), flat(io[f"logits_{which}"])[one], **TOLERANCE)


@torch.inference_mode()
def test_prompts_of_any_length_and_null_go_in_one_batch(backbone, io, tokens, cond, null):
    count = len(cond)
    longer = cond.tensors["text"].shape[1] + 3
    both = padded(*texts_of(io), *[io["null_ids"]] * count, length=longer)
    logits = backbone(torch.cat([tokens, tokens]), both)
    expected = torch.cat([io["logits_cond"], io["logits_null"]])
    assert_close(logits, flat(expected), **TOLERANCE)


@torch.inference_mode()
def test_guidance_is_one_more_than_the_authors_count(backbone, io, facts, tokens, cond, null):
    project = guided_head(backbone, tokens, cond, null, 1 + facts["cfg_scale"])
    guided = project(torch.arange(tokens.numel())).view(*tokens.shape, -1)
    assert io["cfg_scale"].item() == facts["cfg_scale"]
    assert_close(guided, flat(io["logits_guided"]), atol=1e-3, rtol=1e-4)


@torch.inference_mode()
def test_the_sequence_has_a_newline_behind_each_row_and_marks_around_the_image(
    backbone, io, tokens, cond, null
):
    for which, texts in (("cond", texts_of(io)), ("null", [io["null_ids"]] * len(cond))):
        for index, ids in enumerate(texts):
            embeds = backbone.embed(tokens[index : index + 1])
            sequence, keys = backbone.assembled(embeds, ids[None])
            expected = backbone.wte(io[f"sequence.{which}.{index}"])
            assert torch.equal(sequence[0], expected)
            assert keys.all()


@torch.inference_mode()
def test_intermediate_activations_are_the_official_ones(backbone, io, tokens):
    found, text = {}, io["text_ids.0"]
    x, keys = backbone.assembled(backbone.embed(tokens[:1]), text[None])
    first, heads = backbone.blocks[0], backbone.blocks[0].by_head
    found["embed"] = x[0]
    rotary = rotary_table(x.shape[1], backbone.head_width, backbone.theta, x.device)
    found["rope_cos"], found["rope_sin"] = rotary
    normed = first.attn_norm(x)
    found["block.0.attn_norm"] = normed[0]
    found["block.0.q_rotated"] = rotated(heads(first.q_proj(normed)), rotary)[0]
    found["block.0.k_rotated"] = rotated(heads(first.k_proj(normed)), rotary)[0]
    attended = first.attention(normed, rotary, keys)
    found["block.0.attention"] = attended[0]
    found["block.0.mlp"] = first.mlp(first.ff_norm(x + attended))[0]
    last, tapped = backbone.through_blocks(x, keys, range(len(backbone.blocks)))
    found |= {f"block.{index}": tap[0] for index, tap in enumerate(tapped)}
    found["final_norm"] = backbone.ln_f(last)[0]
    recorded = {key.removeprefix("mid."): io[key] for key in io if key.startswith("mid.")}
    assert found.keys() == recorded.keys()
    for name, expected in recorded.items():
        assert_close(found[name], expected, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


@torch.inference_mode()
def test_the_rows_of_words_that_are_left_out_complete_the_official_logits(
    backbone, io, tokens, weights
):
    sequence, keys = backbone.assembled(backbone.embed(tokens[:1]), io["text_ids.0"][None])
    last, _ = backbone.through_blocks(sequence, keys)
    logits = backbone.ln_f(last)[0] @ weights[PREFIX + HEAD].T
    assert_close(logits, io["full_logits_cond.0"], **TOLERANCE)
    labels = io["train_labels.0"]
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    assert_close(loss, io["train_loss.0"][0], **TOLERANCE)


@torch.inference_mode()
def test_taps_are_image_tokens_behind_blocks(backbone, io, tokens):
    one, text, ends = slice(0, 1), io["text_ids.0"], (0, len(backbone.blocks) - 1)
    hidden, taps = backbone.hidden(backbone.embed(tokens[one]), padded(text), taps=ends)
    for index, tap in zip(ends, taps, strict=True):
        expected = backbone.image_of(io[f"mid.block.{index}"][None])
        assert_close(tap, expected, **TOLERANCE)
    assert torch.equal(hidden, backbone.hidden(backbone.embed(tokens[one]), padded(text)))


def test_soft_tokens_have_the_official_logits_and_gradient(backbone, io, cond):
    probs = flat(io["soft_probs"]).requires_grad_(True)
    embeds = backbone.embed_probs(probs)
    assert_close(embeds, io["soft_embeds"], **TOLERANCE)
    logits = backbone.head(backbone.hidden(embeds, cond))
    assert_close(logits, flat(io["logits_soft"]), **TOLERANCE)
    (gradient,) = torch.autograd.grad(logits.square().mean(), probs)
    assert_close(gradient, flat(io["grad_soft_probs"]), atol=1e-5, rtol=1e-3)


@torch.inference_mode()
def test_masked_slots_among_soft_tokens_are_the_mask(backbone, io, cond):
    embeds = backbone.embed_probs(flat(io["soft_probs"]), io["soft_remask"][..., None])
    logits = backbone.head(backbone.hidden(embeds, cond))
    assert_close(logits, flat(io["logits_soft_remasked"]), **TOLERANCE)


@torch.inference_mode()
def test_embedding_noise_is_mixed_into_image_positions_alone(backbone, io, tokens, cond):
    sigma = io["embed_noise_sigma"].item()
    noisy = (1 - sigma**2) ** 0.5 * backbone.embed(tokens) + sigma * io["embed_noise"]
    logits = backbone.head(backbone.hidden(noisy, cond))
    assert_close(logits, flat(io["logits_embed_noise"]), **TOLERANCE)


@torch.inference_mode()
def test_one_hots_embed_like_tokens(backbone, drawing, tokens):
    masked = tokens == drawing.space.mask_id
    assert masked.any()
    one_hots = torch.nn.functional.one_hot(tokens.masked_fill(masked, 0), drawing.space.vocab)
    embedded = backbone.embed_probs(one_hots.float(), masked)
    assert_close(embedded, backbone.embed(tokens), atol=1e-6, rtol=1e-5)


def test_soft_embeddings_have_the_gradient_of_their_slope(backbone, io, cond, generator):
    exact = copy.deepcopy(backbone).double()
    remask, one = io["soft_remask"][:1, :, None], flat(io["soft_probs"])[:1]
    assert_gradient_matches_differences(lambda p: exact.embed_probs(p, remask), one, generator)


def test_gradient_checkpointing_changes_no_gradient(backbone, tokens, cond):
    found = []
    for checkpointing in (False, True):
        network = copy.deepcopy(backbone).requires_grad_(True)
        network.gradient_checkpointing = checkpointing
        network(tokens, cond).square().mean().backward()
        found.append({name: p.grad for name, p in network.named_parameters()})
    assert all(gradient.isfinite().all() for gradient in found[0].values())
    assert_close(*found)


@torch.inference_mode()
def test_half_precision_stays_close(backbone, tokens, cond):
    expected = backbone(tokens, cond)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = backbone(tokens, cond)
    stored = copy.deepcopy(backbone).bfloat16()(tokens, cond)
    for logits in (autocast, stored):
        assert logits.dtype == torch.bfloat16
        assert (logits.float() - expected).std() < 0.1 * expected.std()


def test_the_recipe_freezes_the_table_and_the_head(backbone):
    frozen = {id(parameter) for parameter in backbone.embedding_parameters()}
    names = {name for name, p in backbone.named_parameters() if id(p) in frozen}
    assert names == {"wte.weight", "ff_out.weight"}


# ---------------------------------------------------------------- prompts


def test_prompts_are_cut_into_the_official_ids(tokenizer, facts, io, arch):
    encoder = PromptIds(tokenizer, arch.text_length)
    found = encoder.encode(facts["prompts"])["text"]
    for row, expected in zip(found, texts_of(io), strict=True):
        assert torch.equal(row[row != PADDING], expected)
        assert (row[: len(row) - len(expected)] == PADDING).all()
    (null,) = encoder.encode(["<uncondition>"])["text"]
    assert torch.equal(null[null != PADDING], io["null_ids"])


def test_null_is_the_word_for_no_prompt_unless_another_is_asked_for(tokenizer, arch):
    encoder, shapes = PromptIds(tokenizer, arch.text_length), {"text": (arch.text_length,)}
    for negative, wanted in ((UNCONDITION, UNCONDITION), ("", ""), ("blurry", "blurry")):
        conditioner = IdsConditioner(shapes, lambda: encoder, "ids", negative_prompt=negative)
        null = conditioner.null(2).tensors["text"]
        assert null.dtype == conditioner.blank(1).tensors["text"].dtype == torch.long
        assert torch.equal(null, encoder.encode([wanted])["text"].expand(2, -1))


@pytest.mark.parametrize("mark", ["<|mdm_mask|>", "<uncondition>", "</user>", "<IMAGE>"])
def test_a_prompt_with_a_mark_of_the_model_is_refused(tokenizer, mark):
    with pytest.raises(SpecError, match="which is no text to this teacher"):
        PromptIds(tokenizer, 256).encode([f"a fox {mark} in the snow"])


def test_a_prompt_that_is_too_long_is_refused_with_what_to_set(tokenizer):
    with pytest.raises(SpecError, match=r"`teacher\.architecture\.text_length` is 60"):
        PromptIds(tokenizer, 60).encode(["a fox " * 40])


# ---------------------------------------------------------------- the image tokenizer


def unit(images):
    """Protocol images in the decoder's own range, [0, 1]."""
    return (images + 1) / 2


@torch.inference_mode()
def test_images_encode_to_the_recorded_tokens(vqvae, io):
    assert_close(vqvae.quant_conv(vqvae.encoder(io["vq.pixels"])), io["vq.latents"], **TOLERANCE)
    tokens = vqvae.encode(2 * io["vq.pixels"] - 1)
    assert torch.equal(tokens.squeeze(-1), io["vq.indices"])


@torch.inference_mode()
def test_tokens_decode_to_the_recorded_image_and_its_bytes(vqvae, io):
    images = unit(vqvae.decode(io["vq.codes"][..., None]))
    assert_close(images, io["vq.image"], **TOLERANCE)
    assert_close(images.clamp(0, 1), io["vq.image_clipped"], **TOLERANCE)
    pixels = (images[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(pixels, io["vq.uint8"])
    again = vqvae.encode(2 * (pixels.permute(2, 0, 1)[None] / 255) - 1)
    assert torch.equal(again.flatten(), io["vq.uint8_reencoded"])


def test_probabilities_decode_to_the_recorded_image_and_gradient(vqvae, io):
    probs = flat(io["vq.soft_probs"]).requires_grad_(True)
    latents = probs.squeeze(-2) @ vqvae.quantize.embedding.weight
    assert_close(latents, as_rows(io["vq.soft_latents"]), **TOLERANCE)
    images = unit(vqvae.decode_probs(probs))
    assert_close(images, io["vq.soft_image"], **TOLERANCE)
    (gradient,) = torch.autograd.grad(images.square().mean(), probs)
    assert_close(gradient, flat(io["vq.grad_soft_probs"]), atol=1e-5, rtol=1e-3)


@torch.inference_mode()
def test_one_hots_decode_like_tokens(vqvae, io, drawing):
    tokens = io["vq.codes"][..., None]
    one_hots = torch.nn.functional.one_hot(tokens, drawing.space.codes).float()
    assert_close(vqvae.decode_probs(one_hots), vqvae.decode(tokens), atol=1e-5, rtol=1e-5)


def test_soft_images_have_the_gradient_of_their_slope(vqvae, io, generator):
    exact = copy.deepcopy(vqvae).double()
    one = flat(io["vq.soft_probs"])[:1]
    assert_gradient_matches_differences(exact.decode_probs, one, generator)
