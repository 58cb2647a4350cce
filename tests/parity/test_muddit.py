"""Muddit against golden numbers: the network of Meissonic, and the image tokenizer it borrows."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers import muddit
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.meissonic import MeissonicBackbone
from dimo_cli.teachers.muddit import TEXT_HEAD
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.vq_model import VQTokenizer, as_rows
from tests.helpers import amused_style as checks
from tests.helpers.amused_style import TOLERANCE, flat_probs, load_case, rows_of
from tests.helpers.gradients import assert_gradient_matches_differences


@pytest.fixture(scope="module")
def case(golden):
    return load_case(golden, muddit, MeissonicBackbone, "muddit", "muddit", tokenizer="muddit")


def on_grid(case, grid):
    """The same weights over another grid."""
    build = on_meta(lambda: MeissonicBackbone(case.arch, grid))
    return replace(case, backbone=fill(build, case.weights, "the golden file"))


@torch.inference_mode()
def test_logits_are_those_of_the_official_network_with_and_without_guidance(case):
    checks.check_guided_logits(case, case.cond("cond", "timestep"), case.cond("uncond", "timestep"))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["vec", "index"])
def test_any_time_may_be_told_and_each_sample_has_its_own(case, kind):
    logits = case.backbone(case.tokens, case.cond("cond", f"timestep_{kind}"))
    assert_close(logits, rows_of(case.io[f"logits_cond_timestep_{kind}"]), **TOLERANCE)


@torch.inference_mode()
def test_no_time_means_time_zero(case):
    expected = rows_of(case.io["logits_cond_timestep0"])
    assert_close(case.backbone(case.tokens, case.cond()), expected, **TOLERANCE)
    assert_close(case.backbone(case.tokens, case.cond().at(0.0)), expected, **TOLERANCE)


@torch.inference_mode()
def test_intermediate_activations_are_the_official_ones(case):
    checks.check_meissonic_activations(case)


@torch.inference_mode()
def test_text_rows_are_what_the_text_head_that_is_left_out_was_trained_on(case, golden):
    head = golden("muddit/transformer.safetensors")[TEXT_HEAD]
    last = f"single_transformer_blocks.{case.arch.num_single_layers - 1}"
    text, _ = checks.captured(case, [last], case.cond("cond", "timestep"))[last]
    words = torch.nn.functional.layer_norm(text, text.shape[-1:], eps=1e-6) @ head.T
    assert_close(words, case.io["text_logits_cond"], **TOLERANCE)


def test_positions_are_rows_and_columns_of_half_the_grid_at_every_size(case):
    for grid, name in ((case.grid, "img_ids"), (small_grid(case), "small.img_ids")):
        rows, columns = on_grid(case, grid).backbone.inner_grid
        places = [[0, row, column] for row in range(rows) for column in range(columns)]
        assert case.io[name].tolist() == places
        assert (2 * rows, 2 * columns) == grid
    assert not case.io["txt_ids"].any()


def small_grid(case):
    return tuple(case.io["small.input_ids"].shape[1:])


@torch.inference_mode()
def test_a_smaller_grid_has_the_same_weights(case):
    backbone = on_grid(case, small_grid(case)).backbone
    tokens = case.io["small.input_ids"].flatten(1)[..., None]
    logits = backbone(tokens, case.cond("cond", "timestep"))
    assert_close(logits, rows_of(case.io["small.logits_cond"]), **TOLERANCE)


@torch.inference_mode()
def test_soft_tokens_are_mixed_before_the_norm(case):
    checks.check_soft_logits(case)


def test_soft_tokens_have_the_official_gradient(case):
    probs, remask = flat_probs(case)
    probs.requires_grad_(True)
    logits = case.logits(case.backbone.embed_probs(probs, remask), case.cond())
    (gradient,) = torch.autograd.grad((logits * rows_of(case.io["soft_probe"])).sum(), probs)
    assert_close(gradient.view_as(case.io["grad_soft_probs"]), case.io["grad_soft_probs"],
                 atol=1e-3, rtol=1e-4)  # fmt: skip


@torch.inference_mode()
def test_embedding_noise_goes_behind_the_token_embedding(case):
    checks.check_embedding_noise(case)


@torch.inference_mode()
def test_one_hots_embed_like_tokens(case):
    checks.check_one_hots(case)


def test_soft_embeddings_have_the_gradient_of_their_slope(case, generator):
    checks.check_embedding_slopes(case, generator)


def test_gradient_checkpointing_changes_no_gradient(case):
    checks.check_gradient_checkpointing(case)


@torch.inference_mode()
def test_half_precision_stays_close(case):
    checks.check_half_precision(case)


def test_planning_runs_the_network_without_memory(case):
    checks.check_planning(case)


def test_the_recipe_freezes_token_embedding_and_head(case):
    frozen = {id(parameter) for parameter in case.backbone.embedding_parameters()}
    names = {name for name, p in case.backbone.named_parameters() if id(p) in frozen}
    assert names == {n for n in case.weights if n.startswith(("embed.", "mlm_layer."))}


# ---------------------------------------------------------------- the image tokenizer


@pytest.fixture(scope="module")
def vqvae(case, golden):
    grid = tuple(case.io["tok.indices"].shape[1:])
    weights = case.blueprint.tokenizer.convert(golden("muddit/vqvae.safetensors"))
    network = on_meta(lambda: VQTokenizer(case.arch.vqvae, grid))
    return fill(network, weights, "the golden file").eval()


def tokens_of(case, name):
    return case.io[name].flatten(1)[..., None]


def unit(images):
    """Protocol images in the decoder's own range, [0, 1]."""
    return (images + 1) / 2


@torch.inference_mode()
def test_images_encode_to_the_recorded_tokens_and_back(case, vqvae):
    io = case.io
    assert_close(vqvae.quant_conv(vqvae.encoder(io["tok.image"])), io["tok.latents"], **TOLERANCE)
    tokens = vqvae.encode(2 * io["tok.image"] - 1)
    assert torch.equal(tokens, tokens_of(case, "tok.indices"))
    codes = vqvae.quantize.embedding(tokens.squeeze(-1))
    assert_close(codes, as_rows(io["tok.quantized"]), **TOLERANCE)
    assert_close(unit(vqvae.decode(tokens)), io["tok.decoded"], **TOLERANCE)


@torch.inference_mode()
def test_any_tokens_decode_to_the_recorded_image(case, vqvae):
    images = unit(vqvae.decode(tokens_of(case, "tok.random_indices")))
    assert_close(images, case.io["tok.random_decoded"], **TOLERANCE)
    assert_close(images.clamp(0, 1), case.io["tok.random_decoded_clipped"], **TOLERANCE)


def test_probabilities_decode_to_the_recorded_image_and_gradient(case, vqvae):
    io, probs = case.io, case.io["tok.soft_probs"].flatten(1, 2)[..., None, :].requires_grad_(True)
    latents = probs.squeeze(-2) @ vqvae.quantize.embedding.weight
    assert_close(latents, as_rows(io["tok.soft_latents"]), **TOLERANCE)
    images = unit(vqvae.decode_probs(probs))
    assert_close(images, io["tok.soft_decoded"], **TOLERANCE)
    (gradient,) = torch.autograd.grad(images.square().mean(), probs)
    expected = io["tok.grad_mean_sq_soft_probs"]
    assert_close(gradient.view_as(expected), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_one_hots_decode_like_tokens(case, vqvae):
    tokens = tokens_of(case, "tok.random_indices")
    one_hots = torch.nn.functional.one_hot(tokens, case.blueprint.space.codes).float()
    assert_close(vqvae.decode_probs(one_hots), vqvae.decode(tokens), atol=1e-5, rtol=1e-5)


def test_soft_images_have_the_gradient_of_their_slope(case, vqvae, generator):
    probs = case.io["tok.soft_probs"][:1].flatten(1, 2)[..., None, :]
    assert_gradient_matches_differences(
        copy.deepcopy(vqvae).double().decode_probs, probs, generator
    )


# ---------------------------------------------------------------- planning at full size


def test_full_size_planning_knows_the_smaller_grid_inside():
    teacher = skeleton(muddit.blueprint("muddit", {"num_layers": 1, "num_single_layers": 1}))
    cond = Cond({k: t.to("meta") for k, t in teacher.conditioner.blank(1).tensors.items()})
    tokens = torch.zeros(1, teacher.space.length, 1, dtype=torch.long, device="meta")
    hidden, (tap,) = teacher.backbone.hidden(teacher.backbone.embed(tokens), cond, taps=(1,))
    assert hidden.shape == (1, 1024, 1024)
    assert tap.shape == (1, 256, 1024)
