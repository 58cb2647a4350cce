"""The TiTok family against the released code's numbers, on tiny networks with its key names."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.many_steps import draw_with_scores, guided_head, reveal, sample_by_plan
from dimo_cli.errors import MissingError, NotThere, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import finish, skeleton
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.titok import VARIANTS, blueprint
from dimo_cli.teachers.titok.sampler import growing_plan
from tests.helpers.golden import manifest
from tests.helpers.gradients import assert_gradient_matches_differences

MANIFEST = manifest("maskgen")

# The generators, and a variant that each is published with.
KINDS = {"vit": "titok-l32", "uvit": "titok-s128"}
CONFIGS = {"vit": "tokenizer_and_vit_generator", "uvit": "uvit_generator"}

assert_near = partial(torch.testing.assert_close, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- the golden teachers


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def config(golden):
    return golden("maskgen/config.json")


@pytest.fixture
def io(golden):
    return golden("maskgen/titok_io.safetensors")


@pytest.fixture
def blueprint_of(config):
    """The blueprint of a golden generator, read from a config file as the published ones are."""
    sizes, pixels = config["golden"]["tiny_sizes"], config["titok"]["pixel_decoder"]

    def build(kind, **changes):
        file = config["titok"][CONFIGS[kind]]
        transformers = ("vit_enc_model_size", "vit_dec_model_size")  # files know three sizes only
        tiny = {name: sizes[file["model"]["vq_model"][name]] for name in transformers}
        changes |= {"pixel_decoder": pixels, **tiny}
        return blueprint(KINDS[kind], changes, lambda wanted: file)

    return build


@pytest.fixture
def weights_of(golden):
    """The golden state dicts of a generator and of the tokenizer."""
    return lambda kind: (
        golden(f"maskgen/titok_{kind}_generator.safetensors"),
        golden("maskgen/titok_tokenizer.safetensors"),
    )


@pytest.fixture
def load(blueprint_of, weights_of):
    def load(kind, **changes):
        drawing, (backbone, tokenizer) = blueprint_of(kind, **changes), weights_of(kind)
        return finish(
            drawing,
            fill(on_meta(drawing.build_backbone), drawing.backbone.convert(backbone), kind),
            fill(on_meta(drawing.build_tokenizer), drawing.tokenizer.convert(tokenizer), "tokens"),
            None,
            "golden",
        )

    return load


@pytest.fixture
def teacher(load, kind):
    return load(kind)


@pytest.fixture
def tokenizer(load):
    return load("vit").tokenizer


@pytest.fixture
def case(teacher, io, kind):
    """Recorded tokens, with their classes and the null class as conditions."""
    labels = io[f"{kind}.class"]
    tokens = io[f"{kind}.input_ids"][..., None]
    return tokens, Cond({"label": labels}), teacher.conditioner.null(len(labels))


def test_token_space_is_that_of_the_config_file(teacher, config, kind, io):
    model = config["titok"][CONFIGS[kind]]["model"]
    codes, classes = (
        model["vq_model"]["codebook_size"],
        model["generator"]["condition_num_classes"],
    )
    space = teacher.space
    assert space.length == model["generator"]["image_seq_len"]
    assert (space.groups, space.vocab, space.codes, space.mask_id) == (1, codes, codes, codes)
    assert space.class_ids == range(codes + 1, codes + 1 + classes)
    assert space.grid is None
    assert space.image_size == io["tok.decoded"].shape[-1]
    assert teacher.backbone.table.num_embeddings == codes + classes + 2
    assert teacher.conditioner.null(1).tensors["label"].tolist() == [classes]
    assert teacher.class_names[:2] == ("0", "1")  # not ImageNet's thousand


# ---------------------------------------------------------------- the generators


def test_logits_are_the_published_ones_with_and_without_a_class(teacher, case, io, kind):
    tokens, cond, null = case
    for name, condition in (("cond", cond), ("uncond", null)):
        assert_near(teacher.backbone(tokens, condition)[:, :, 0], io[f"{kind}.logits_{name}"])


def test_guided_logits_follow_from_both(teacher, case, io, kind, config):
    tokens, cond, null = case
    scale = config["titok"][CONFIGS[kind]]["model"]["generator"]["guidance_scale"]
    conditional, unconditional = (io[f"{kind}.logits_{name}"] for name in ("cond", "uncond"))
    project = guided_head(teacher.backbone, tokens, cond, null, 1 + scale)
    logits = project(torch.arange(tokens[..., 0].numel()))[:, 0].view_as(conditional)
    published = conditional + scale * (conditional - unconditional)
    torch.testing.assert_close(logits, published, atol=1e-3, rtol=1e-4)


def test_soft_embeddings_equal_the_table_on_one_hots(teacher, case):
    backbone, space = teacher.backbone, teacher.space
    codes = case[0].clamp(max=space.codes - 1)
    one_hot = F.one_hot(codes, space.vocab).float()
    assert torch.equal(backbone.embed_probs(one_hot), backbone.embed(codes))
    mask = torch.zeros_like(codes, dtype=torch.bool)
    mask[:, ::3] = True
    masked = codes.masked_fill(mask, space.mask_id)
    assert torch.equal(backbone.embed_probs(one_hot, mask), backbone.embed(masked))


def test_head_of_some_positions_is_the_head_of_all(teacher, case):
    tokens, cond, _ = case
    backbone, length = teacher.backbone, teacher.space.length
    hidden = backbone.hidden(backbone.embed(tokens), cond)
    rows = torch.arange(0, hidden.shape[0] * length, 3)
    everywhere = backbone.head(hidden).flatten(0, 1)
    torch.testing.assert_close(
        backbone.head(hidden.flatten(0, 1)[rows], rows % length), everywhere[rows]
    )


def test_every_block_can_be_tapped(teacher, case, kind, config):
    tokens, cond, _ = case
    backbone = teacher.backbone
    layers = config["titok"][CONFIGS[kind]]["model"]["generator"]["num_hidden_layers"]
    blocks = layers if kind == "vit" else layers // 2 * 2 + 1
    embeds = backbone.embed(tokens)
    plain = backbone.hidden(embeds, cond)
    hidden, taps = backbone.hidden(embeds, cond, taps=range(blocks))
    assert torch.equal(hidden, plain)
    assert [tap.shape for tap in taps] == [embeds.shape] * blocks
    assert torch.equal(taps[-1] if kind == "vit" else backbone.norm(taps[-1]), hidden)
    _, some = backbone.hidden(embeds, cond, taps=[blocks - 1])
    assert len(some) == 1
    assert torch.equal(some[0], taps[-1])


def test_gradient_checkpointing_changes_no_gradient(teacher, case):
    tokens, cond, _ = case
    backbone = teacher.backbone.requires_grad_(True)

    def gradients(checkpointing):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        backbone(tokens, cond).square().mean().backward()
        return {name: p.grad.clone() for name, p in backbone.named_parameters()}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


def test_frozen_embeddings_are_the_table_of_tokens_alone(teacher):
    (frozen,) = teacher.backbone.embedding_parameters()
    assert frozen is teacher.backbone.table.weight
    assert frozen is not teacher.backbone.to_logits.weight


def test_only_the_bert_was_trained_with_dropout(load, case, kind):
    tokens, cond, _ = case
    backbone = load(kind, dropout=0.1, attn_drop=0.1).backbone
    calm = backbone(tokens, cond)
    assert torch.equal(backbone.train()(tokens, cond), calm) == (kind == "uvit")


# ---------------------------------------------------------------- the tokenizer


def test_images_become_the_published_tokens(tokenizer, io):
    tokens = tokenizer.encode(2 * io["tok.image"] - 1)
    assert torch.equal(tokens.squeeze(-1), io["tok.indices"].squeeze(1))


def test_codes_are_decoded_at_unit_length(tokenizer, io):
    latents = tokenizer.codes[io["tok.indices"].squeeze(1)]
    assert_near(latents, io["tok.z_quantized"].squeeze(2).transpose(1, 2))
    assert_near(tokenizer.decoder(latents), io["tok.proxy_logits"])


def test_tokens_become_the_published_image(tokenizer, io):
    tokens = io["tok.indices"].squeeze(1)[..., None]
    assert_near(tokenizer.decode(tokens) / 2 + 0.5, io["tok.decoded"])


def test_soft_codes_are_expectations_of_unit_rows(tokenizer, io):
    # The released look-up would normalize the mixture of raw rows instead. That is also a unit
    # vector where nothing is certain, and not the expectation of what the decoder sees.
    probs, rows = io["soft.probs"], tokenizer.quantize.embedding.weight
    expected = probs @ tokenizer.codes
    assert_near(expected, io["soft.z_normalize_then_mix"])
    assert_near(F.normalize(probs @ rows, dim=-1), io["soft.z_mix_then_normalize"])
    assert not torch.allclose(expected, io["soft.z_mix_then_normalize"], atol=1e-2)
    image = tokenizer.decode_probs(probs[:, :, None])
    assert_near(image, tokenizer.paint(io["soft.z_normalize_then_mix"]))


def test_decoding_one_hots_is_decoding_tokens(tokenizer, io):
    tokens = io["tok.indices"].squeeze(1)[..., None]
    one_hot = F.one_hot(tokens, len(tokenizer.codes)).float()
    assert_near(tokenizer.decode_probs(one_hot), tokenizer.decode(tokens))


def test_gradient_of_soft_embeddings_matches_finite_differences(teacher, io, generator):
    backbone = teacher.backbone.double()
    probs = io["soft.probs"][:, :, None]
    cond = Cond({"label": torch.zeros(len(probs), dtype=torch.long)})
    mask = torch.zeros(probs.shape[:-1], dtype=torch.bool)
    mask[:, ::3] = True
    assert_gradient_matches_differences(
        lambda p: backbone.head(backbone.hidden(backbone.embed_probs(p, mask), cond)),
        probs,
        generator,
    )


def test_gradient_of_soft_decoding_matches_finite_differences(tokenizer, io, generator):
    probs = io["soft.probs"][:, :, None]
    assert_gradient_matches_differences(tokenizer.double().decode_probs, probs, generator)


# ---------------------------------------------------------------- the sampler


def largest_guidance(settings):
    """Linear guidance is published as z_c + s (z_c - z_u)."""
    return settings["guidance_scale"] + (settings["guidance_decay"] == "linear")


def tempered(plan, annealing):
    """The plan as published, or with the temperature left at 1."""
    return plan if annealing else [replace(step, temperature=1.0) for step in plan]


def test_plan_is_the_published_table(golden):
    for table in golden("maskgen/schedules.json")["titok_sampler"]:
        plan = growing_plan(table["guidance_decay"], table["guidance_scale_pow"])(
            table["steps"],
            table["seq_len"],
            largest_guidance(table),
            table["randomize_temperature"],
        )
        plan = tempered(plan, table["softmax_temperature_annealing"])
        rows = table["rows"]
        assert [step.masked_after for step in plan] == [row["masked_after"] for row in rows]
        linear = table["guidance_decay"] == "linear"
        for step, row in zip(plan, rows, strict=True):
            assert step.guidance == pytest.approx(row["cfg_scale"] + linear, abs=1e-5)
            assert step.temperature == pytest.approx(row["softmax_temperature"], abs=1e-5)
            assert step.token_noise == pytest.approx(row["gumbel_temperature"], abs=1e-5)
            assert step.choice_noise == step.token_noise
            assert step.choice == "logit"


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_sample_as_published(variant, golden):
    drawing = blueprint(variant, {})
    sampler, slots = drawing.sampler, drawing.space.length
    plan = sampler.plan(sampler.steps, slots, sampler.guidance, sampler.choice_noise)
    assert plan[0].guidance == 1.0  # without a null pass
    assert plan[-1].masked_after == 0
    assert plan[-1].token_noise == 0
    found = []
    for table in golden("maskgen/schedules.json")["titok_sampler"]:
        if (table["seq_len"], table["steps"]) == (slots, sampler.steps):
            last = table["rows"][-1]["cfg_scale"] + (table["guidance_decay"] == "linear")
            found.append((largest_guidance(table), table["randomize_temperature"], last))
    ours = (sampler.guidance, sampler.choice_noise, plan[-1].guidance)
    assert not found or any(ours == pytest.approx(recorded, abs=1e-5) for recorded in found)


def test_masked_counts_are_those_of_double_precision():
    for slots in (10, 12, 32, 63, 64, 128):
        for steps in range(1, slots + 1):
            before = slots
            for index, step in enumerate(growing_plan("linear")(steps, slots, 4.0, 1.0)[:-1]):
                wanted = math.floor(slots * math.acos((index + 1) / steps) / (math.pi / 2))
                before = max(1, min(wanted, before - 1))
                assert step.masked_after == before


@pytest.fixture
def golden_plan(config, kind):
    """The plan of the recorded run."""
    run = config["titok"]["sampler_runs"]
    settings = config["titok"][CONFIGS[kind]]["model"]["generator"]
    plan = growing_plan(settings["guidance_decay"], run["guidance_scale_pow"])(
        run["num_sample_steps"],
        settings["image_seq_len"],
        largest_guidance(settings),
        run["randomize_temperature"],
    )
    return tempered(plan, run["softmax_temperature_annealing"])


def test_every_step_of_the_sampler_is_the_published_one(
    teacher, case, io, kind, golden_plan, generator
):
    _, cond, null = case
    states = io[f"{kind}.sampler_states"]
    mask_id = teacher.space.mask_id
    assert all(step.token_noise == 0 for step in golden_plan)  # nothing is drawn
    assert (states[0] == mask_id).all()
    for (before, after), step in zip(pairwise(states), golden_plan, strict=True):
        project = guided_head(teacher.backbone, before[..., None], cond, null, step.guidance)
        logits = project(torch.arange(before.numel()))
        drawn, scores = draw_with_scores(logits, step, generator)
        tokens, masked = reveal(
            before,
            before == mask_id,
            drawn.view_as(before),
            scores.view_as(before),
            step.masked_after,
            mask_id,
        )
        assert torch.equal(tokens, after)
        assert torch.equal(masked, after == mask_id)


def test_sampling_by_the_plan_ends_in_the_published_tokens(
    teacher, case, io, kind, golden_plan, generator
):
    _, cond, _ = case
    tokens = sample_by_plan(teacher, cond, golden_plan, generator)
    assert torch.equal(tokens[..., 0], io[f"{kind}.sampler_states"][-1])


# ---------------------------------------------------------------- loading and settings


def test_a_missing_an_unknown_and_a_misshapen_weight_are_refused(blueprint_of, weights_of, kind):
    drawing = blueprint_of(kind)
    parts = (
        (drawing.build_backbone, drawing.backbone),
        (drawing.build_tokenizer, drawing.tokenizer),
    )
    for (build, published), weights in zip(parts, weights_of(kind), strict=True):
        name = sorted(weights)[0]
        damaged = (
            {key: tensor for key, tensor in weights.items() if key != name},
            {**weights, "extra.weight": torch.zeros(1)},
            {**weights, name: torch.zeros(1, 2, 3)},
        )
        for problem, broken in zip(("lacks", "has unknown", "differs"), damaged, strict=True):
            with pytest.raises(MissingError, match=problem):
                fill(on_meta(build), published.convert(broken), "the file")


def test_counted_positions_of_older_bert_files_are_dropped(blueprint_of, weights_of):
    drawing, (weights, _) = blueprint_of("vit"), weights_of("vit")
    stored = {**weights, "model.embeddings.position_ids": torch.arange(3)[None]}
    assert drawing.backbone.convert(stored).keys() == weights.keys()


def test_weights_alone_are_enough():
    def read_config(file):
        raise NotThere(f"no {file}")

    assert blueprint("titok-b64", {}, read_config).architecture == dict(
        blueprint("titok-b64", {}).architecture
    )


@pytest.mark.parametrize(("key", "value"), [("is_legacy", False), ("use_l2_norm", False)])
def test_another_tokenizer_of_the_same_authors_is_refused(key, value):
    config = {"model": {"vq_model": {key: value}}}
    with pytest.raises(SpecError, match=key):
        blueprint("titok-b64", {}, lambda file: config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 7),
        ("vit_enc_patch_size", 15),
        ("vit_dec_model_size", "huge"),
        ("pixel_decoder", {"hidden_channels": 16}),
        ("codebooksize", 4),
    ],
)
def test_impossible_settings_are_refused_by_name(key, value):
    with pytest.raises(SpecError, match=rf"teacher\.architecture\.{key}"):
        blueprint("titok-b64", {key: value})


# ---------------------------------------------------------------- the published sizes


@pytest.mark.parametrize(
    ("variant", "generator_bytes", "tokenizer_bytes"),
    [
        ("titok-s128", 1.18e9, 0.335e9),
        ("titok-b64", 0.709e9, 0.819e9),
        ("titok-l32", 0.709e9, 2.564e9),
    ],
)
def test_published_networks_have_the_published_keys(variant, generator_bytes, tokenizer_bytes):
    drawing = blueprint(variant, {})
    teacher = skeleton(drawing)
    code = variant.removeprefix("titok-")
    assert len(teacher.class_names) == len(teacher.class_ids) == 1000
    assert teacher.space.image_size == 256
    for part, network, published, size in (
        ("generator", teacher.backbone, drawing.backbone, generator_bytes),
        ("tokenizer", teacher.tokenizer, drawing.tokenizer, tokenizer_bytes),
    ):
        entry = MANIFEST["models"][f"titok_{part}_{code}"]
        state = network.state_dict()
        assert {name: list(tensor.shape) for name, tensor in state.items()} == entry["keys"]
        elements = sum(tensor.numel() for tensor in state.values())
        assert elements == entry["elements"]
        assert 4 * elements == pytest.approx(size, rel=2e-3)
        first, second = published.files
        assert (first.repo, first.path) == (entry["repo"], "model.safetensors")
        assert (second.repo, second.path) == (entry["alt"]["repo"], entry["alt"]["file"])
