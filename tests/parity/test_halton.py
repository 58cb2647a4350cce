"""Halton-MaskGIT against the numbers of the released code, on tiny networks with its key names."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.many_steps import guided_head
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import finish
from dimo_cli.teachers.halton import blueprint
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Cond
from tests.helpers.gradients import assert_gradient_matches_differences
from tests.helpers.published import halton_architecture


def assert_near(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def tokens_of(grid):
    """Token grids [B, P, P] as tokens [B, L, 1]."""
    return grid.flatten(1)[..., None]


# ---------------------------------------------------------------- the golden teacher


@pytest.fixture
def config(golden):
    return golden("halton/config.json")


@pytest.fixture
def io(golden):
    return golden("halton/io.safetensors")


@pytest.fixture
def drawing(config):
    """The blueprint of the golden networks."""
    return blueprint("halton-tiny", halton_architecture(config))


@pytest.fixture
def weights(golden):
    """Both golden state dicts."""
    return golden("halton/transformer.safetensors"), golden("halton/tokenizer.safetensors")


@pytest.fixture
def teacher(drawing, weights):
    backbone, tokenizer = weights
    return finish(
        drawing,
        fill(on_meta(drawing.build_backbone), drawing.backbone.convert(backbone), "transformer"),
        fill(on_meta(drawing.build_tokenizer), drawing.tokenizer.convert(tokenizer), "tokenizer"),
        None,
        "golden",
    )


@pytest.fixture
def backbone(teacher):
    return teacher.backbone


@pytest.fixture
def case(teacher, io):
    """The recorded tokens, with their classes and the null class as conditions."""
    labels = io["labels"]
    return (
        tokens_of(io["masked_code"]),
        Cond({"label": labels}),
        teacher.conditioner.null(len(labels)),
    )


def dropped(teacher, io):
    """The condition of the recorded labels, of which some are dropped."""
    null = teacher.conditioner.null(len(io["labels"])).tensors["label"]
    return Cond({"label": torch.where(io["drop_flags"], null, io["labels"])})


def test_token_space_is_that_of_the_golden_teacher(teacher, config):
    transformer, ids, space = config["transformer"], config["ids"], teacher.space
    assert space.length == transformer["seq_len"] - 1 == ids["register_position"]
    assert space.grid == (transformer["input_size"],) * 2
    assert space.image_size == config["tokenizer"]["image_size"]
    assert (space.groups, space.vocab, space.codes, space.mask_id) == (
        1,
        transformer["logits_dim"],
        transformer["codebook_size"],
        ids["mask_id"],
    )
    assert space.class_ids is None  # classes have a table of their own
    assert teacher.conditioner.null(1).tensors["label"] == ids["null_class"]


# ---------------------------------------------------------------- the transformer


@torch.no_grad()
def test_logits_are_the_published_ones_with_and_without_a_class(teacher, io, case):
    tokens, cond, null = case
    for name, condition in (("cond", cond), ("uncond", null), ("dropped", dropped(teacher, io))):
        logits = teacher.backbone(tokens, condition).squeeze(-2)
        assert_near(logits, io[f"logits_{name}"])


@torch.no_grad()
def test_guided_logits_are_the_published_ones(backbone, io, case, config):
    tokens, cond, null = case
    rows = torch.arange(tokens.shape[0] * tokens.shape[1])
    guided = guided_head(backbone, tokens, cond, null, config["io"]["cfg_scale"])(rows)
    assert config["io"]["cfg_scale"] == 1 + config["io"]["w"]
    assert_near(guided.view_as(io["logits_cfg"]), io["logits_cfg"])
    assert_near(io["cfg_scale_vector"], 1 + io["w_vector"], 1e-6)
    for sample, scale in enumerate(io["cfg_scale_vector"].tolist()):
        one = slice(sample, sample + 1)
        project = guided_head(backbone, tokens[one], cond[one], null[one], scale)
        guided = project(torch.arange(tokens.shape[1])).squeeze(-2)
        assert_near(guided, io["logits_cfg_vector"][sample])


@torch.no_grad()
def test_noise_goes_on_the_image_tokens_before_positions_are_added(backbone, io, case, config):
    tokens, cond, _ = case
    prefix = "logits_perturbed_sigma_"
    names = [name for name in io if name.startswith(prefix)]
    assert sorted(float(n.removeprefix(prefix)) for n in names) == sorted(config["io"]["sigmas"])
    for name in names:
        sigma = float(name.removeprefix(prefix))
        embeds = sigma * io["embed_noise"] + math.sqrt(1 - sigma**2) * backbone.embed(tokens)
        logits = backbone.head(backbone.hidden(embeds, cond)).squeeze(-2)
        assert_near(logits, io[name])


def watched(backbone):
    """What every part of a network gets and gives in its next pass, by the published names."""
    seen = {}

    def remember(module, given=None, got=None):
        def hook(_, inputs, output):
            seen.update({given: inputs[0]} if given else {})
            seen.update({got: output} if got else {})

        module.register_forward_hook(hook)

    remember(backbone.cls_emb, got="class_embed")
    for index, block in enumerate(backbone.transformer["layers"]):
        remember(block, "h_input" if index == 0 else None, f"block_out_{index}")
        remember(block.mlp, got=f"modulation_{index}")
        remember(block.ln1, got=f"ln1_out_{index}")
        remember(block.attn, f"attn_in_{index}", f"attn_out_{index}")
        remember(block.attn.q_norm, got=f"q_normed_{index}")
        remember(block.attn.k_norm, got=f"k_normed_{index}")
        remember(block.ff, f"ff_in_{index}", f"ff_out_{index}")
    remember(backbone.last_norm.mlp, got="last_modulation")
    remember(backbone.last_norm, got="h_last_norm")
    return seen


INSIDE = ("class_embed", "h_", "modulation_", "ln1_", "attn_", "q_", "k_", "ff_", "block_", "last_")


@torch.no_grad()
def test_every_intermediate_result_is_the_published_one(backbone, io, case):
    tokens, cond, _ = case
    seen = watched(backbone)
    backbone(tokens, cond)
    recorded = [name for name in io if name.startswith(INSIDE)]
    assert recorded
    for name in recorded:
        assert_near(seen[name], io[name], 5e-4 if name == "h_last_norm" else 1e-4)


@torch.no_grad()
def test_small_activations_show_the_epsilon_of_the_last_norm(backbone, io, case, config):
    tokens, cond, _ = case
    factor = config["io"]["scaled"]
    network = copy.deepcopy(backbone)
    blocks = network.transformer["layers"]
    tables = [network.tok_emb, network.pos_emb, network.reg_tokens]
    ends = [linear for block in blocks for linear in (block.attn.wo, block.ff.w2)]
    for module in (*tables, *ends):
        module.weight *= factor
    logits = network(tokens, cond).squeeze(-2)
    assert_near(logits, io[f"logits_cond_scaled_{factor}"], 2e-5)


@torch.no_grad()
def test_head_of_some_positions_is_a_part_of_the_whole(teacher, case, generator):
    tokens, cond, _ = case
    backbone = teacher.backbone
    hidden = backbone.hidden(backbone.embed(tokens), cond)
    whole = backbone.head(hidden).flatten(0, 1)
    rows = torch.randperm(len(whole), generator=generator)[: len(whole) // 3]
    picked = hidden.flatten(0, 1)[rows]
    assert_near(backbone.head(picked, rows % teacher.space.length), whole[rows], 1e-5)
    last = backbone.last_linear(picked)
    assert_near(F.linear(last.features, last.weight, last.bias), whole[rows].squeeze(-2), 1e-5)


@torch.no_grad()
def test_taps_are_the_image_tokens_after_the_blocks_asked_for(backbone, io, case):
    tokens, cond, _ = case
    taps = range(len(backbone.transformer["layers"]))
    hidden, tapped = backbone.hidden(backbone.embed(tokens), cond, taps)
    assert torch.equal(hidden, backbone.hidden(backbone.embed(tokens), cond))
    for index, features in zip(taps, tapped, strict=True):
        assert_near(features, io[f"block_out_{index}"][:, :-1])


@torch.no_grad()
def test_soft_embeddings_are_expectations_over_codes_and_mask(teacher, io, case):
    backbone, space = teacher.backbone, teacher.space
    tokens, cond, _ = case
    embeds = backbone.embed_probs(io["soft_logits"].softmax(-1)[:, :, None])
    assert_near(embeds, io["soft_embeds"])
    assert_near(backbone.head(backbone.hidden(embeds, cond)).squeeze(-2), io["logits_soft"])
    one_hots = F.one_hot(tokens, space.vocab).float()
    assert_near(backbone.embed_probs(one_hots), backbone.embed(tokens), 1e-6)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, ::3] = True
    masked = backbone.embed(tokens.masked_fill(mask, space.mask_id))
    assert_near(backbone.embed_probs(one_hots, mask), masked, 1e-6)


@torch.no_grad()
def test_the_training_loss_is_the_published_one(teacher, io):
    ratio = {name: SCHEDULES[name](io["train_r"])[:, None, None] for name in SCHEDULES}
    for name in ("root", "linear", "square", "cosine", "arccos"):
        share = ratio[name] if name in ("cosine", "arccos") else 1 - ratio[name]
        assert torch.equal(io["train_u"] < share, io[f"train_mask_{name}"])
    mask, mask_id = io["train_mask_arccos"], teacher.space.mask_id
    assert torch.equal(io["train_code"].masked_fill(mask, mask_id), io["train_masked_code"])
    tokens = tokens_of(io["train_masked_code"])
    logits = teacher.backbone(tokens, dropped(teacher, io)).squeeze(-2).flatten(0, 1)
    losses = F.cross_entropy(logits, io["train_code"].flatten(), reduction="none")
    assert_near(losses.mean()[None], io["train_loss"], 1e-5)
    assert_near(losses[mask.flatten()].mean()[None], io["train_loss_masked_only"], 1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_gradient_checkpointing_changes_no_gradient(backbone, case, training):
    tokens, cond, _ = case
    backbone.requires_grad_(True).train(training)

    def gradients(checkpointing):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        torch.manual_seed(0)  # of dropout
        backbone(tokens, cond).square().mean().backward()
        return [parameter.grad.clone() for parameter in backbone.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert_near(recomputed, plain, 1e-6)


@torch.no_grad()
def test_dropout_acts_in_training_only(backbone, case):
    tokens, cond, _ = case
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert torch.equal(backbone(tokens, cond), backbone(tokens, cond))
    backbone.train()
    assert not torch.equal(backbone(tokens, cond), backbone(tokens, cond))


def test_frozen_embeddings_are_tables_of_tokens_positions_register_and_output_bias(backbone):
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    frozen = {names[id(parameter)] for parameter in backbone.embedding_parameters()}
    assert frozen == {"tok_emb.weight", "pos_emb.weight", "reg_tokens.weight", "bias"}


# ---------------------------------------------------------------- the tokenizer


@pytest.fixture
def tokenizer(teacher, io):
    """The tokenizer over the grid of its recorded images, which need not be the transformer's."""
    teacher.tokenizer.grid = io["vq_indices"].shape[-1]
    return teacher.tokenizer


@torch.no_grad()
def test_images_are_encoded_as_published(tokenizer, io):
    image = io["vq_image"]
    latents, tokens = tokenizer.latents(image), tokenizer.encode(image)
    vectors = tokenizer.quantize.vectors()
    assert_near(tokenizer.encoder(image), io["vq_encoder_out"])
    assert_near(latents, io["vq_latent"], 5e-5)
    assert_near(F.normalize(latents, dim=1), io["vq_latent_normalized"], 5e-5)
    assert_near(vectors, io["vq_codebook_normalized"], 1e-6)
    assert torch.equal(tokens, tokens_of(io["vq_indices"]))
    quantized = vectors[tokens.squeeze(-1)].mT.unflatten(-1, io["vq_indices"].shape[1:])
    assert_near(quantized, io["vq_quantized"], 1e-5)


@torch.no_grad()
def test_tokens_are_decoded_as_published(tokenizer, io):
    given = io["vq_decode_indices"]
    vectors = tokenizer.quantize.vectors()[given].permute(0, 3, 1, 2)
    assert_near(tokenizer.post_quant_conv(vectors), io["vq_post_quant"], 5e-5)
    decoded = tokenizer.decode(tokens_of(given))
    assert_near(decoded, io["vq_decoded"])
    assert_near(tokenizer.decode(tokenizer.encode(io["vq_image"])), io["vq_recon"])
    as_bytes = ((io["vq_decoded"] + 1) / 2 * 255).clamp(0, 255).byte()  # the release truncates
    assert torch.equal(as_bytes.permute(0, 2, 3, 1), io["vq_decoded_uint8"])


@torch.no_grad()
def test_soft_decoding_mixes_unit_vectors_and_equals_decoding_on_one_hots(tokenizer, teacher, io):
    probs = io["soft_logits"][: len(io["vq_image"])].softmax(-1)[:, :, None]
    assert_near(tokenizer.decode_probs(probs), io["soft_vq_decoded"])
    tokens, space = tokens_of(io["vq_decode_indices"]), teacher.space
    tokens[:, 0] = space.mask_id  # it can be drawn, and is decoded as the last code
    decoded = tokenizer.decode(tokens)
    assert_near(tokenizer.decode_probs(F.one_hot(tokens, space.vocab).float()), decoded, 1e-5)
    assert torch.equal(tokenizer.decode(tokens.clamp(max=space.codes - 1)), decoded)


def test_many_latents_are_compared_with_the_codes_a_part_at_a_time(tokenizer, io, monkeypatch):
    monkeypatch.setattr("dimo_cli.teachers.halton.tokenizer.LATENTS_AT_ONCE", 5)
    assert torch.equal(tokenizer.encode(io["vq_image"]), tokens_of(io["vq_indices"]))


def test_gradients_through_soft_embedding_and_decoding_are_right(teacher, generator):
    space = teacher.space
    probs = torch.randn(1, space.length, 1, space.vocab, generator=generator).softmax(-1)
    mask = torch.rand(probs.shape[:-1], generator=generator) < 0.5
    backbone, tokenizer = teacher.backbone.double(), teacher.tokenizer.double()
    cond = Cond({"label": torch.zeros(1, dtype=torch.long)})

    def logits(p):
        return backbone.head(backbone.hidden(backbone.embed_probs(p, mask), cond))

    for function in (backbone.embed_probs, logits, tokenizer.decode_probs):
        assert_gradient_matches_differences(function, probs, generator)
