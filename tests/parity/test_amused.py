"""aMUSEd, its tokenizer and its text encoder against golden numbers and published files."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from dimo_cli.engine.many_steps import sample_by_plan
from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.hub.store import HubStore
from dimo_cli.teachers import amused
from dimo_cli.teachers.amused import AmusedBackbone
from dimo_cli.teachers.amused_parts import settings
from dimo_cli.teachers.blueprint import assemble, skeleton
from dimo_cli.teachers.clip_text import build_clip_text, features, fill_clip_text
from dimo_cli.teachers.hub_text import load_text_encoder
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.vq_model import (
    UNUSED_SETTINGS,
    VQArchitecture,
    VQTokenizer,
    as_pixels,
    as_rows,
)
from tests.helpers import amused_style as checks
from tests.helpers.amused_style import TOLERANCE, load_case
from tests.helpers.golden import manifest

MANIFEST = manifest("amused")
LAYOUTS = {"amused-256": "", "amused-512": "_512"}


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request, golden):
    return load_case(
        golden, amused, AmusedBackbone, request.param, "amused", LAYOUTS[request.param]
    )


@pytest.fixture(scope="module")
def schedules(golden):
    return golden("amused/schedules.json")


@torch.inference_mode()
def test_logits_are_those_of_diffusers_with_and_without_guidance(case):
    checks.check_guided_logits(case, case.cond("cond"), case.cond("uncond"))


@torch.inference_mode()
def test_intermediate_activations_are_those_of_diffusers(case):
    plain = {
        "cond_embed": "cond_embed",
        "context": "encoder_proj_layer_norm",
        "down_block": "down_block",
        "down_res0": "down_block.res_blocks.0",
        "down_attn0": "down_block.attention_blocks.0",
        "project_to_hidden": "project_to_hidden",
        "layer_first": "transformer_layers.0",
        "layer_last": f"transformer_layers.{case.arch.num_hidden_layers - 1}",
        "project_from_hidden": "project_from_hidden",
        "up_block": "up_block",
    }
    seen = checks.captured(case, [*plain.values(), "embed"], case.cond())
    found = {name: seen[module] for name, module in plain.items()}
    found["embed"] = as_pixels(seen["embed"], case.grid)
    recorded = {
        name.removeprefix("mid."): value
        for name, value in case.io.items()
        if name.startswith("mid.")
    }
    assert found.keys() == recorded.keys()
    for name, expected in recorded.items():
        assert_close(found[name], expected, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


@torch.inference_mode()
def test_soft_tokens_are_mixed_before_the_norm(case):
    checks.check_soft_logits(case)


@torch.inference_mode()
def test_one_hots_embed_like_tokens(case):
    checks.check_one_hots(case)


def test_soft_embeddings_have_the_gradient_of_their_slope(case, generator):
    checks.check_embedding_slopes(case, generator)


@torch.inference_mode()
def test_the_head_of_some_rows_is_the_head_at_their_positions(case, generator):
    checks.check_single_rows(case, generator)


def test_gradient_checkpointing_changes_no_gradient(case):
    checks.check_gradient_checkpointing(case)


@torch.inference_mode()
def test_half_precision_stays_close(case):
    checks.check_half_precision(case)


def test_planning_runs_the_network_without_memory(case):
    checks.check_planning(case)


@torch.inference_mode()
def test_the_network_is_told_no_time(case):
    plain = case.backbone(case.tokens, case.cond())
    assert torch.equal(case.backbone(case.tokens, case.cond().at(5.0)), plain)


@torch.inference_mode()
def test_taps_are_the_transformer_layers(case):
    names = {0: "first", case.arch.num_hidden_layers - 1: "last"}
    embeds = case.backbone.embed(case.tokens)
    hidden, tapped = case.backbone.hidden(embeds, case.cond(), taps=tuple(names))
    for name, output in zip(names.values(), tapped, strict=True):
        assert_close(output, case.io[f"mid.layer_{name}"], **TOLERANCE)
    assert torch.equal(hidden, case.backbone.hidden(embeds, case.cond()))


def test_the_recipe_freezes_token_embedding_and_head(case):
    frozen = {id(parameter) for parameter in case.backbone.embedding_parameters()}
    names = {name for name, p in case.backbone.named_parameters() if id(p) in frozen}
    assert names == {n for n in case.weights if n.startswith(("embed.", "mlm_layer."))}


def test_loading_refuses_missing_and_unknown_keys(case):
    name = next(iter(case.weights))
    lacking = {key: value for key, value in case.weights.items() if key != name}
    with pytest.raises(MissingError, match="lacks"):
        fill(case.build(), lacking, "the file")
    with pytest.raises(MissingError, match="unknown"):
        fill(case.build(), case.weights | {"time_embed.weight": torch.zeros(1)}, "the file")


def test_the_plan_is_the_published_scheduler(case, schedules):
    checks.check_plan(case.blueprint.sampler.plan, schedules)


def test_the_plan_leaves_as_many_masked_as_diffusers(case, generator):
    checks.check_counts_of_diffusers(case.blueprint.sampler.plan, generator)


def test_a_recorded_step_reveals_the_recorded_tokens(case, schedules, golden):
    step_io = golden("amused/scheduler_step.safetensors")
    checks.check_recorded_step(case.blueprint.sampler.plan, schedules, step_io)


# The image tokenizer, which Meissonic has as well.


@pytest.fixture(scope="module")
def vq_io(golden):
    return golden("amused/io_vqvae.safetensors")


@pytest.fixture(scope="module")
def vqvae(golden, vq_io):
    arch = VQArchitecture.model_validate(
        settings(golden("amused/config_vqvae.json"), UNUSED_SETTINGS)
    )
    grid = tuple(vq_io["indices"].shape[1:])
    weights = amused.blueprint("amused-256", {}).tokenizer.convert(
        golden("amused/vqvae.safetensors")
    )
    return fill(on_meta(lambda: VQTokenizer(arch, grid)), weights, "the golden file")


def unit(images):
    """Protocol images in the decoder's own range, [0, 1]."""
    return (images + 1) / 2


@torch.inference_mode()
def test_tokens_decode_to_the_recorded_image(vqvae, vq_io):
    images = unit(vqvae.decode(vq_io["indices"].flatten(1)[..., None]))
    assert_close(images, vq_io["image_from_indices"], **TOLERANCE)
    assert_close(images.clamp(0, 1), vq_io["image_from_indices_clipped"], **TOLERANCE)
    codes = vqvae.quantize.embedding(vq_io["indices"].flatten(1))
    assert_close(codes, as_rows(vq_io["codebook_latents"]), **TOLERANCE)


@torch.inference_mode()
def test_images_encode_to_the_recorded_tokens(vqvae, vq_io):
    latents = vqvae.quant_conv(vqvae.encoder(vq_io["pixels"]))
    assert_close(latents, vq_io["encoded_latents"], **TOLERANCE)
    vqvae = copy.copy(vqvae)
    vqvae.grid = tuple(vq_io["encoded_indices"].shape[1:])
    tokens = vqvae.encode(2 * vq_io["pixels"] - 1)
    assert torch.equal(tokens, vq_io["encoded_indices"].flatten(1)[..., None])
    codes = vqvae.quantize.embedding(tokens.squeeze(-1))
    assert_close(codes, as_rows(vq_io["quantized_latents"]), **TOLERANCE)
    assert_close(unit(vqvae.decode(tokens)), vq_io["reconstruction"], **TOLERANCE)


def test_probabilities_decode_to_the_recorded_image_and_gradient(vqvae, vq_io):
    probs = vq_io["soft_probs"].flatten(1, 2)[..., None, :].requires_grad_(True)
    latents = probs.squeeze(-2) @ vqvae.quantize.embedding.weight
    assert_close(latents, as_rows(vq_io["soft_latents"]), **TOLERANCE)
    images = unit(vqvae.decode_probs(probs))
    assert_close(images, vq_io["image_from_soft_latents"], **TOLERANCE)
    (gradient,) = torch.autograd.grad(images.square().mean(), probs)
    expected = vq_io["grad_mean_sq_image_wrt_soft_probs"]
    assert_close(gradient.view_as(expected), expected, atol=1e-6, rtol=1e-3)


@torch.inference_mode()
def test_one_hots_decode_like_tokens(vqvae, vq_io):
    tokens = vq_io["indices"].flatten(1)[..., None]
    one_hots = torch.nn.functional.one_hot(tokens, vq_io["soft_probs"].shape[-1]).float()
    assert_close(vqvae.decode_probs(one_hots), vqvae.decode(tokens), atol=1e-5, rtol=1e-5)


def test_soft_images_have_the_gradient_of_their_slope(vqvae, vq_io, generator):
    exact = copy.deepcopy(vqvae).double()
    probs = vq_io["soft_probs"][:1].flatten(1, 2)[..., None, :].double()
    probe = torch.randn(exact.decode_probs(probs).shape, generator=generator, dtype=torch.float64)

    def probed(p):
        return (exact.decode_probs(p) * probe).sum()

    directions = checks.unit_directions(probs, generator)
    measured = checks.measured_slopes(probed, probs, directions)
    assert_close(checks.slopes(probed, probs, directions), measured, rtol=1e-5, atol=1e-6)


def test_large_images_are_painted_one_by_one_and_look_the_same(vqvae, vq_io, monkeypatch):
    probs = vq_io["soft_probs"].flatten(1, 2)[..., None, :].requires_grad_(True)
    images = vqvae.decode_probs(probs)
    (gradient,) = torch.autograd.grad(images.square().mean(), probs)
    monkeypatch.setattr("dimo_cli.teachers.vq_model.TOKENS_AT_ONCE", 1)
    painted = []
    hook = vqvae.decoder.register_forward_pre_hook(lambda m, inputs: painted.append(len(inputs[0])))
    again = vqvae.decode_probs(probs)
    (same,) = torch.autograd.grad(again.square().mean(), probs)
    hook.remove()
    assert_close(again, images, atol=1e-5, rtol=1e-5)
    assert_close(same, gradient, atol=1e-6, rtol=1e-3)
    assert painted == [1] * (2 * len(probs))  # once forward, and once more on the way back


@torch.inference_mode()
def test_what_is_trained_through_computes_in_float32_even_under_autocast(vqvae, vq_io):
    tokens, probs = vq_io["indices"].flatten(1)[..., None], vq_io["soft_probs"].flatten(1, 2)
    images = 2 * vq_io["pixels"] - 1
    plain = (vqvae.decode_probs(probs[..., None, :]), vqvae.encode(images))
    painted = vqvae.decode(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        same = (vqvae.decode_probs(probs[..., None, :]), vqvae.encode(images))
        half = vqvae.decode(tokens)
    for expected, found in zip(plain, same, strict=True):
        assert torch.equal(found, expected)
    # Pictures that are only looked at may be painted in half precision.
    assert half.dtype == torch.bfloat16
    assert (half.float() - painted).abs().mean() < 0.02


# The full-size networks.


@pytest.mark.parametrize("variant", LAYOUTS)
def test_full_size_networks_have_exactly_the_published_tensors(variant):
    teacher = skeleton(amused.blueprint(variant, {}))
    expected, count = MANIFEST["transformer_256"]["shapes"], 603_537_664
    if variant == "amused-512":
        expected, count = expected | MANIFEST["transformer_512"]["extra_over_256"], 608_257_792
    found = {name: list(t.shape) for name, t in teacher.backbone.state_dict().items()}
    assert found == expected
    assert sum(p.numel() for p in teacher.backbone.parameters()) == count
    decoder = {name: list(t.shape) for name, t in teacher.tokenizer.state_dict().items()}
    assert decoder == MANIFEST["vqvae"]["shapes"]
    assert sum(p.numel() for p in teacher.tokenizer.parameters()) == 146_244_675


@pytest.mark.parametrize(("variant", "side"), [("amused-256", 16), ("amused-512", 32)])
def test_the_blueprint_states_the_published_facts(variant, side):
    plan = amused.blueprint(variant, {})
    assert plan.space.grid == (side, side)
    assert plan.space.image_size == 16 * side
    assert (plan.space.vocab, plan.space.codes, plan.space.mask_id) == (8192, 8192, 8255)
    assert (plan.sampler.steps, plan.sampler.guidance, plan.sampler.choice_noise) == (12, 10, 2)
    conditioner = skeleton(plan).conditioner
    assert conditioner.negative_prompt == ""
    cond = conditioner.blank(2)
    assert cond.tensors["text"].shape == (2, 77, 768)
    assert cond.tensors["pooled"].shape == (2, 768)
    assert cond.tensors["micro"][1].tolist() == [16 * side, 16 * side, 0, 0, 6]


def test_full_size_networks_plan_without_memory():
    teacher = skeleton(amused.blueprint("amused-512", {"num_hidden_layers": 1}))
    cond = Cond({k: t.to("meta") for k, t in teacher.conditioner.blank(1).tensors.items()})
    tokens = torch.zeros(1, teacher.space.length, 1, dtype=torch.long, device="meta")
    hidden, (tap,) = teacher.backbone.hidden(teacher.backbone.embed(tokens), cond, taps=(0,))
    assert hidden.shape == (1, 1024, 768)
    assert tap.shape == (1, 256, 1024)


# A repository folder in diffusers' layout, text encoder and all.

WORDS = ["<|startoftext|>", "<|endoftext|>", "!", "a</w>", "c", "t</w>", "ca", "cat</w>", "a"]


@pytest.fixture(scope="module")
def repository(golden, tmp_path_factory):
    """The golden transformer with a tokenizer and a text encoder of random weights."""
    folder = tmp_path_factory.mktemp("repository")
    config = golden("amused/config.json")
    vq_config = golden("amused/config_vqvae.json") | {"num_vq_embeddings": config["codebook_size"]}
    text_config = {
        "vocab_size": len(WORDS),
        "hidden_size": config["encoder_hidden_size"],
        "intermediate_size": 16,
        "projection_dim": config["cond_embed_dim"],
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "max_position_embeddings": 77,
        "layer_norm_eps": 1e-05,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "gelu",
    }
    arch = VQArchitecture.model_validate(settings(vq_config, UNUSED_SETTINGS))
    torch.manual_seed(3)
    text_shapes = build_clip_text(text_config).state_dict()
    weights = {
        "transformer/diffusion_pytorch_model": golden("amused/transformer.safetensors"),
        "vqvae/diffusion_pytorch_model": VQTokenizer(arch, (4, 4)).state_dict(),
        "text_encoder/model": {k: torch.randn(t.shape) / 4 for k, t in text_shapes.items()}
        | {"text_model.embeddings.position_ids": torch.arange(77)[None]},
    }
    texts = {
        "transformer/config.json": config,
        "vqvae/config.json": vq_config,
        "text_encoder/config.json": text_config,
        "tokenizer/vocab.json": {word: index for index, word in enumerate(WORDS)},
        "tokenizer/tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "unk_token": "<|endoftext|>",
            "pad_token": "!",
        },
        "tokenizer/special_tokens_map.json": {"pad_token": "!", "eos_token": "<|endoftext|>"},
    }
    for part in ("transformer", "vqvae", "text_encoder", "tokenizer"):
        (folder / part).mkdir()
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    for name, state in weights.items():
        save_file({k: t.contiguous() for k, t in state.items()}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def store(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return HubStore(local_dir=repository)


def tiny_blueprint(store):
    config = json.loads((store.local_dir / "vqvae/config.json").read_text())
    side = 4 * 2 ** (len(config["block_out_channels"]) - 1)
    return amused.blueprint("amused-256", {"image_size": side}, store.config)


def test_a_repository_folder_becomes_a_teacher_that_samples(store, generator):
    teacher = assemble(tiny_blueprint(store), store)
    cond = teacher.conditioner.prompts(["a cat", "cat"])
    plan = teacher.sampler.plan(4, teacher.space.length, 3.0, teacher.sampler.choice_noise)
    tokens = sample_by_plan(teacher, cond, plan, generator)
    assert tokens.shape == (2, 16, 1)
    assert tokens.max() < teacher.space.codes
    size = teacher.space.image_size
    assert teacher.tokenizer.decode(tokens).shape == (2, 3, size, size)


@torch.inference_mode()
def test_prompts_are_padded_with_the_id_their_tokenizer_states(store):
    encoder = load_text_encoder("amused/amused-256", store)
    ids = encoder.tokens(["a cat", "", "cat " * 200])
    assert ids.shape == (3, 77)
    assert ids[0].tolist() == [0, 3, 7, 1] + [2] * 73
    assert ids[1].tolist() == [0, 1] + [2] * 75
    assert ids[2].tolist() == [0] + [7] * 75 + [1]


@torch.inference_mode()
def test_conditions_are_states_before_the_last_layer_and_the_projected_end(store):
    encoder = load_text_encoder("amused/amused-256", store)
    found = encoder.encode(["a cat", ""])
    output = encoder.network(encoder.tokens(["a cat", ""]), output_hidden_states=True)
    assert torch.equal(found["text"], output.hidden_states[-2])
    assert torch.equal(found["pooled"], output.text_embeds)
    layers = encoder.network.text_model.encoder.layers
    layers[-1].load_state_dict({k: 2 * t for k, t in layers[-1].state_dict().items()})
    again = encoder.encode(["a cat", ""])
    assert torch.equal(again["text"], found["text"])  # the last layer has no say in it
    assert not torch.equal(again["pooled"], found["pooled"])


def test_a_text_encoder_file_is_read_strictly(store):
    config = json.loads((store.local_dir / "text_encoder/config.json").read_text())
    published = amused.blueprint("amused-256", {}).other_files
    assert "amused/amused-256/text_encoder/model.safetensors" in [str(f) for f in published]
    network = build_clip_text(config)
    weights = {k: torch.zeros(t.shape) for k, t in network.state_dict().items()}
    filled = fill_clip_text(network, weights, "the file")
    assert features(filled, torch.tensor([[0, 1]]))["pooled"].shape == (1, config["projection_dim"])
    with pytest.raises(MissingError, match="unknown"):
        fill_clip_text(build_clip_text(config), weights | {"extra": torch.zeros(1)}, "the file")


def test_a_tokenizer_without_merges_is_refused(store, tmp_path):
    folder = tmp_path / "without"
    shutil.copytree(store.local_dir, folder)
    (folder / "tokenizer/merges.txt").unlink()
    with pytest.raises(MissingError, match=r"merges\.txt"):
        load_text_encoder("amused/amused-256", HubStore(local_dir=folder))
