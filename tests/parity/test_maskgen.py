"""The MaskGen family against the released code's numbers, on tiny networks with its key names."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.many_steps import guided_head, reveal, sample_by_plan, token_scores
from dimo_cli.engine.masking import masked_count
from dimo_cli.errors import MissingError, NotThere, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import finish, skeleton
from dimo_cli.teachers.clip_text import build_clip_text
from dimo_cli.teachers.maskgen import VARIANTS, blueprint
from dimo_cli.teachers.maskgen.generator import score_features
from dimo_cli.teachers.maskgen.sampler import cosine_ramp, maskgen_plan
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Cond
from tests.helpers.golden import manifest

MANIFEST = manifest("maskgen")
RAMPS = {
    "cosine": cosine_ramp,
    "linear": lambda progress: progress,
    "none": lambda progress: 1.0,
    "flippedcosine": lambda progress: math.cos(math.pi * progress) / 2,
}


def assert_near(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def gumbel_of(uniforms):
    """The Gumbel noise that upstream makes of recorded uniform draws."""
    return -(-uniforms.clamp(min=1e-20).log()).clamp(min=1e-20).log()


# ---------------------------------------------------------------- the golden teacher


@pytest.fixture(scope="module")
def config(golden):
    """The golden config file, with the tiny transformers by their numbers."""
    config = golden("maskgen/config.json")
    tokenizer, sizes = config["model"]["vq_model"], config["golden"]["tiny_sizes"]
    for name in ("vit_enc_model_size", "vit_dec_model_size"):
        tokenizer[name] = sizes.get(tokenizer[name], tokenizer[name])
    return config


@pytest.fixture(scope="module")
def io(golden):
    return golden("maskgen/io.safetensors")


@pytest.fixture(scope="module")
def backbone_weights(golden):
    return golden("maskgen/generator.safetensors")


@pytest.fixture(scope="module")
def tokenizer_weights(golden):
    return golden("maskgen/tokenizer.safetensors")


@pytest.fixture(scope="module")
def drawing(config):
    """The blueprint of the golden networks, read from a config file like the published ones."""
    text = config["golden"]["clip_text"]
    overrides = {"text_layers": text["layers"], "text_heads": text["heads"]}
    return blueprint("maskgen-l", overrides, lambda file: config)


@pytest.fixture(scope="module")
def teacher(drawing, backbone_weights, tokenizer_weights):
    backbone = drawing.backbone.convert(backbone_weights)
    tokenizer = drawing.tokenizer.convert(tokenizer_weights)
    return finish(
        drawing,
        fill(on_meta(drawing.build_backbone), backbone, "generator"),
        fill(on_meta(drawing.build_tokenizer), tokenizer, "tokenizer"),
        None,
        "golden",
    )


@pytest.fixture(scope="module")
def backbone(teacher):
    return teacher.backbone


@pytest.fixture(scope="module")
def tokenizer(teacher):
    return teacher.tokenizer


@pytest.fixture
def precise(teacher, drawing):
    """The golden networks in float64, for finite differences."""
    backbone, tokenizer = drawing.build_backbone(), drawing.build_tokenizer()
    backbone.load_state_dict(teacher.backbone.state_dict())
    tokenizer.load_state_dict(teacher.tokenizer.state_dict())
    return [network.double().requires_grad_(False) for network in (backbone, tokenizer)]


@pytest.fixture(scope="module")
def cond(io):
    pooled = io["gen.pooled"].squeeze(1)
    return Cond({"text": io["gen.text"], "pooled": pooled, "aesthetic": io["gen.aesthetic"]})


@pytest.fixture(scope="module")
def null(io):
    count = len(io["gen.aesthetic"])
    return Cond(
        {
            "text": io["gen.null_text"].expand(count, -1, -1),
            "pooled": io["gen.null_pooled"].squeeze(1).expand(count, -1),
            "aesthetic": io["gen.aesthetic"],
        }
    )


@pytest.fixture(scope="module")
def decoder_cond(io):
    return Cond({"decoder_text": io["tok.text"]})


@pytest.fixture(scope="module")
def tokens(io):
    return io["gen.input_ids"][..., None]


# ---------------------------------------------------------------- the generator


@torch.inference_mode()
def test_conditional_and_unconditional_logits_are_the_recorded_ones(
    backbone, tokens, cond, null, io
):
    for condition, name in ((cond, "cond"), (null, "uncond")):
        assert_near(backbone(tokens, condition).squeeze(2), io[f"gen.logits_{name}"])


@torch.inference_mode()
def test_guided_logits_are_the_recorded_ones_in_both_conventions(backbone, tokens, cond, null, io):
    rows = torch.arange(tokens.numel())
    scale = io["gen.cfg_scale"].item()
    for name, standard in (("standard", scale), ("upstream", 1 + scale)):
        logits = guided_head(backbone, tokens, cond, null, standard)(rows)
        expected = io[f"gen.logits_cfg_{name}"]
        assert_near(logits.view_as(expected), expected)


@torch.inference_mode()
def test_inside_of_the_network_is_the_recorded_one(backbone, tokens, cond, io):
    outputs = []
    handles = [
        block.register_forward_hook(lambda block, inputs, output: outputs.append(output))
        for block in backbone.blocks
    ]
    depth = len(backbone.blocks)
    hidden, tapped = backbone.hidden(backbone.embed(tokens), cond, taps=range(depth))
    for handle in handles:
        handle.remove()
    for index, (image, text) in enumerate(outputs):
        assert_near(image, io[f"gen.block{index}.image"])
        assert tapped[index] is image
        if index < depth - 1:
            assert_near(text, io[f"gen.block{index}.context"])
    assert_near(hidden, io["gen.final_norm"])


@torch.inference_mode()
def test_conditions_enter_as_recorded(backbone, cond, io):
    size = backbone.score_size
    assert_near(score_features(cond.tensors["aesthetic"], size), io["gen.aesthetic_sincos"])
    assert_near(backbone.condition(cond), io["gen.temb"])
    assert_near(backbone.text_embed_proj(cond.tensors["text"]), io["gen.context_in"])


def test_recorded_input_is_the_target_with_masks(teacher, io):
    masked = io["gen.target_ids"].masked_fill(io["gen.mask"], teacher.space.mask_id)
    assert torch.equal(masked, io["gen.input_ids"])


@torch.inference_mode()
def test_soft_embeddings_and_their_logits_are_the_recorded_ones(backbone, cond, io):
    probs = io["soft.logits"].softmax(-1)[:, :, None]
    embeds = backbone.embed_probs(probs, io["soft.remask"][..., None])
    assert_near(backbone.embed_probs(probs), io["soft.gen_embeds"])
    assert_near(embeds, io["soft.gen_inputs"])  # as recorded: no position added yet
    hidden = backbone.hidden(embeds, cond)
    assert_near(backbone.head(hidden).squeeze(2), io["soft.gen_logits"])


def test_soft_embedding_of_a_certain_token_is_its_embedding(teacher, backbone, generator):
    space = teacher.space
    tokens = torch.randint(space.codes, (2, space.length, 1), generator=generator)
    mask = torch.rand(tokens.shape, generator=generator) < 0.5
    one_hots = F.one_hot(tokens, space.vocab).float()
    assert_near(backbone.embed_probs(one_hots), backbone.embed(tokens), 1e-6)
    masked = tokens.masked_fill(mask, space.mask_id)
    assert_near(backbone.embed_probs(one_hots, mask), backbone.embed(masked), 1e-6)


def test_head_of_some_positions_is_that_part_of_the_whole(backbone, tokens, cond, generator):
    hidden = backbone.hidden(backbone.embed(tokens), cond)
    rows = torch.randperm(tokens.numel(), generator=generator)[:7]
    part = backbone.head(hidden.flatten(0, 1)[rows], rows % tokens.shape[1])
    assert_near(part, backbone.head(hidden).flatten(0, 1)[rows], 1e-5)


def test_frozen_embedding_is_the_table_that_is_the_head_as_well(backbone):
    (table,) = backbone.embedding_parameters()
    assert table is backbone.embeddings.weight
    assert not any("lm_head" in name for name in backbone.state_dict())


def test_recomputed_blocks_give_the_same_gradients(drawing, teacher, tokens, cond):
    def gradients(checkpointing):
        backbone = drawing.build_backbone()
        backbone.load_state_dict(teacher.backbone.state_dict())
        backbone.gradient_checkpointing = checkpointing
        backbone(tokens, cond).square().sum().backward()
        return {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name])


# ---------------------------------------------------------------- the tokenizer


@torch.inference_mode()
def test_latents_and_tokens_of_images_are_the_recorded_ones(tokenizer, io):
    images = 2 * io["tok.image"] - 1
    expected = io["tok.z"].flatten(2).transpose(1, 2)
    assert_near(tokenizer.latents(images), expected)
    assert torch.equal(tokenizer.encode(images).squeeze(-1), io["tok.indices"].squeeze(1))


@torch.inference_mode()
def test_codes_of_tokens_are_the_recorded_ones(tokenizer, io):
    codes = tokenizer.quantize.embedding(io["tok.indices"].squeeze(1))
    assert_near(codes, io["tok.z_quantized"].flatten(2).transpose(1, 2))


@torch.inference_mode()
def test_decoded_images_are_the_recorded_ones(tokenizer, decoder_cond, io):
    null = Cond({"decoder_text": torch.zeros_like(io["tok.text"])})  # null as in the record
    for tokens, cond, name in (
        (io["tok.indices"].squeeze(1), decoder_cond, "decoded"),
        (io["tok.random_indices"], decoder_cond, "random_decoded"),
        (io["tok.random_indices"], null, "random_decoded_null_text"),
    ):
        images = tokenizer.decode(tokens[..., None], cond)
        assert_near((images + 1) / 2, io[f"tok.{name}"])


@torch.inference_mode()
def test_soft_tokens_decode_to_the_recorded_images(tokenizer, decoder_cond, io):
    probs = io["soft.logits"].softmax(-1)
    latents = probs @ tokenizer.quantize.embedding.weight
    assert_near(latents, io["soft.tok_z"].flatten(2).transpose(1, 2))
    images = tokenizer.decode_probs(probs[:, :, None], decoder_cond)
    assert_near((images + 1) / 2, io["soft.tok_decoded"])


@torch.inference_mode()
def test_certain_tokens_decode_to_the_same_images(teacher, tokenizer, decoder_cond, io):
    tokens = io["tok.random_indices"][..., None]
    one_hots = F.one_hot(tokens, teacher.space.vocab).float()
    images = tokenizer.decode_probs(one_hots, decoder_cond)
    assert_near(images, tokenizer.decode(tokens, decoder_cond), 1e-5)


def test_decoding_without_a_prompt_is_refused(tokenizer, io):
    with pytest.raises(SpecError, match="reads the prompt"):
        tokenizer.decode(io["tok.random_indices"][..., None])


def test_half_precision_around_it_moves_no_token(tokenizer, io):
    latents = io["tok.z"].flatten(2).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = tokenizer.quantize.nearest(latents)
    assert torch.equal(tokens, io["tok.indices"].squeeze(1))


@pytest.mark.parametrize("end", ["generator", "decoder"])
def test_gradients_at_probabilities_match_finite_differences(
    precise, cond, decoder_cond, io, generator, end
):
    backbone, tokenizer = precise
    logits = io["soft.logits"][:1].double()[:, :, None]
    mask = io["soft.remask"][:1, :, None]

    def double(cond):
        return Cond({name: tensor[:1].double() for name, tensor in cond.tensors.items()})

    def output(probs):
        if end == "decoder":
            return tokenizer.decode_probs(probs, double(decoder_cond))
        return backbone.hidden(backbone.embed_probs(probs, mask), double(cond))

    probs = logits.softmax(-1).requires_grad_()
    probe = torch.randn(output(probs).shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((output(probs) * probe).sum(), probs)
    for _ in range(3):
        direction = torch.randn(probs.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            above, below = (output(probs + step * direction) for step in (1e-5, -1e-5))
        difference = ((above - below) * probe).sum() / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the sampler


def plan_of(run, slots):
    """The plan of a recorded run, whose guidance is c + g (c - u)."""
    ramp, power = RAMPS[run["guidance_decay"]], run["guidance_decay_scale_pow"]
    plan = maskgen_plan(
        run.get("num_sample_steps", run.get("steps")),
        slots,
        1 + run["guidance_scale"],
        run["randomize_temperature"],
        lambda progress: ramp(progress**power),
    )
    if run["softmax_temperature_annealing"]:
        return plan
    return [replace(step, temperature=1.0) for step in plan]


@torch.inference_mode()
def test_published_sampler_repeats_the_recorded_runs(teacher, backbone, cond, null, io, config):
    runs = config["golden"]["sampler_runs"]
    assert runs
    for name, run in runs.items():
        check_run(teacher, backbone, cond, null, io, name, run)


def check_run(teacher, backbone, cond, null, io, name, run):
    """Every state of a recorded run, from its recorded draws."""
    space = teacher.space
    states = io[f"sampler.{name}.states"]
    score = torch.full((states.shape[1],), run["aesthetic_score_used"])
    cond, null = (Cond({**half.tensors, "aesthetic": score}) for half in (cond, null))
    tokens, masked = states[0], torch.ones_like(states[0], dtype=torch.bool)
    assert (tokens == space.mask_id).all()
    for index, step in enumerate(plan_of(run, space.length)):
        project = guided_head(backbone, tokens[..., None], cond, null, step.guidance)
        logits = project(torch.arange(tokens.numel())).view(*tokens.shape, -1) / step.temperature
        noisy, noise = logits, 0.0
        if step.token_noise:
            draws = io[f"sampler.{name}.u_tokens"][index]
            noisy = logits + step.token_noise * gumbel_of(draws)
        if step.choice_noise and run["prob_sorting"]:
            noise = step.choice_noise * gumbel_of(io[f"sampler.{name}.u_conf"][index])
        drawn = noisy.argmax(-1)
        scores = token_scores(logits, drawn, step) + noise
        tokens, masked = reveal(tokens, masked, drawn, scores, step.masked_after, space.mask_id)
        assert torch.equal(tokens, states[index + 1])


def test_plan_without_noise_repeats_the_recorded_run_in_the_engine(
    teacher, cond, null, io, config, monkeypatch
):
    runs = config["golden"]["sampler_runs"]
    still = {name: run for name, run in runs.items() if run["randomize_temperature"] == 0}
    assert still
    for name, run in still.items():
        score = torch.full((len(cond),), run["aesthetic_score_used"])
        scored, unguided = (Cond({**half.tensors, "aesthetic": score}) for half in (cond, null))
        monkeypatch.setattr(teacher.conditioner, "null", lambda count, null=unguided: null)
        plan = plan_of(run, teacher.space.length)
        tokens = sample_by_plan(teacher, scored, plan, torch.Generator().manual_seed(0))
        assert torch.equal(tokens.squeeze(-1), io[f"sampler.{name}.states"][-1])


def test_plan_is_the_recorded_schedule(golden):
    for recorded in golden("maskgen/schedules.json")["maskgen_sampler"]:
        plan, slots = plan_of(recorded, recorded["seq_len"]), recorded["seq_len"]
        assert len(plan) == len(recorded["rows"])
        masked = slots
        for step, row in zip(plan, recorded["rows"], strict=True):
            ratio = SCHEDULES["arccos"](torch.tensor(row["ratio"]))
            assert ratio.item() == pytest.approx(row["mask_ratio"], abs=1e-5)
            assert math.floor(ratio.item() * slots) == row["floor_len"]
            # The record's K is 1 at the last step as well, though nothing is masked again there.
            assert row["mask_len"] == max(1, step.masked_after)
            assert row["masked_before"] == masked
            assert row["masked_after"] == step.masked_after
            assert row["tokens_fixed"] == masked - step.masked_after
            assert row["standard_guidance_weight"] == pytest.approx(step.guidance, abs=1e-5)
            assert row["cfg_scale"] == pytest.approx(step.guidance - 1, abs=1e-5)
            assert row["gumbel_temperature"] == pytest.approx(step.token_noise, abs=1e-5)
            assert step.choice_noise == step.token_noise
            assert row["softmax_temperature"] == pytest.approx(step.temperature, abs=1e-5)
            masked = step.masked_after


def test_mask_schedules_are_the_recorded_ones(golden):
    recorded = golden("maskgen/schedules.json")["mask_ratio_of_progress"]
    progress = torch.tensor(recorded["progress"])
    for name in ("arccos", "cosine"):
        assert_near(SCHEDULES[name](progress), torch.tensor(recorded[name]), 1e-5)
    for name in ("linear", "square", "root"):
        assert_near(1 - SCHEDULES[name](progress), torch.tensor(recorded[name]), 1e-5)


def test_training_masks_as_many_tokens_as_recorded(golden):
    for row in golden("maskgen/schedules.json")["training_masking"]:
        ratio = SCHEDULES["arccos"](torch.tensor(float(row["u"]))).clamp(1e-6, 1)
        assert ratio.item() == pytest.approx(row["mask_ratio"], abs=1e-5)
        assert masked_count(ratio, row["seq_len"]).item() == row["num_masked"]


def test_default_sampler_is_the_authors(drawing):
    sampler = drawing.sampler
    plan = sampler.plan(sampler.steps, 128, sampler.guidance, sampler.choice_noise)
    assert [step.masked_after for step in plan[:4]] == [122, 117, 112, 107]
    assert plan[0].guidance == pytest.approx(2.106, abs=1e-3)
    assert plan[-1].guidance == pytest.approx(13)
    assert plan[0].token_noise == pytest.approx(2 * 15 / 16)
    assert sampler.schedule == "arccos"


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_weak_guidance_is_constant(guidance):
    assert {step.guidance for step in maskgen_plan(8, 128, guidance, 2.0)} == {guidance}


# ---------------------------------------------------------------- files and blueprints


def test_both_ways_to_publish_the_tied_table_load_the_same(drawing, backbone_weights):
    once = {k: v for k, v in backbone_weights.items() if k != "lm_head.weight"}
    twice = {**once, "lm_head.weight": once["embeddings.weight"].clone()}
    convert = drawing.backbone.convert
    assert convert(once).keys() == convert(twice).keys() == once.keys()


def test_an_untied_generator_is_refused(drawing, backbone_weights):
    untied = {**backbone_weights, "lm_head.weight": backbone_weights["embeddings.weight"] + 1}
    with pytest.raises(MissingError, match="differ"):
        drawing.backbone.convert(untied)


@pytest.mark.parametrize("kind", ["backbone", "tokenizer"])
def test_a_missing_or_unknown_key_is_refused(drawing, backbone_weights, tokenizer_weights, kind):
    published = getattr(drawing, kind)
    build = getattr(drawing, f"build_{kind}")
    weights = {"backbone": backbone_weights, "tokenizer": tokenizer_weights}[kind]
    dropped = "pos_embed" if kind == "backbone" else "latent_tokens"
    for changed in (
        {name: tensor for name, tensor in weights.items() if name != dropped},
        {**weights, "surplus": torch.zeros(1)},
    ):
        with pytest.raises(MissingError, match="does not fit"):
            fill(on_meta(build), published.convert(changed), kind)


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_networks_have_the_published_keys_and_shapes(variant):
    teacher = skeleton(blueprint(variant, {}))
    generator = MANIFEST["models"][variant.replace("-", "_vq_")]
    tokenizer = MANIFEST["models"]["tatitok_bl128_vq"]
    for network, entry in ((teacher.backbone, generator), (teacher.tokenizer, tokenizer)):
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        dropped = {*entry.get("tied", {}), *entry.get("optional_keys", ())}
        assert shapes == {k: v for k, v in entry["keys"].items() if k not in dropped}
    assert sum(p.numel() for p in teacher.backbone.parameters()) == generator["parameters"]
    counters = math.prod(tokenizer["keys"]["quantize.embed_prob"])
    elements = sum(p.numel() for p in teacher.tokenizer.parameters()) + counters
    assert elements == tokenizer["elements"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_files_are_the_listed_ones(variant):
    drawing = blueprint(variant, {})
    entry = MANIFEST["models"][variant.replace("-", "_vq_")]
    assert str(drawing.backbone.files[0]) == f"{entry['repo']}/model.safetensors"
    assert str(drawing.backbone.files[1]) == f"{entry['alt']['repo']}/{entry['alt']['file']}"


def test_architecture_is_read_from_published_config_files(drawing, config):
    arch, tokenizer = drawing.architecture, config["model"]["vq_model"]
    assert arch["decoder_embed_dim"] == config["model"]["maskgen"]["decoder_embed_dim"]
    assert arch["vit_dec_model_size"] == tokenizer["vit_dec_model_size"]
    assert drawing.space.codes == drawing.space.mask_id == tokenizer["codebook_size"]
    assert drawing.space.image_size == config["dataset"]["preprocessing"]["crop_size"]


def test_without_config_files_the_published_facts_hold():
    def nothing(file):
        raise NotThere(f"no {file}")

    assert blueprint("maskgen-xl", {}, nothing).architecture == (
        blueprint("maskgen-xl", {}).architecture
    )


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(SpecError, match="use_l2_norm"):
        blueprint("maskgen-l", {}, lambda file: {"model": {"vq_model": {"use_l2_norm": True}}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vit_enc_model_size", "huge"),
        ("vit_enc_model_size", {"width": 30, "layers": 1, "heads": 4}),
        ("decoder_num_heads", 7),
        ("crop_size", 250),
        ("micro_condition_embed_dim", 3),
    ],
)
def test_an_impossible_architecture_is_refused(key, value):
    with pytest.raises(SpecError, match=r"teacher\.architecture"):
        blueprint("maskgen-l", {key: value})


# ---------------------------------------------------------------- prompts


class TextStore:
    """A store that has weights for a text encoder of any size, and nothing else."""

    def __init__(self, drawing, cache):
        arch, self.cache, self.reads = drawing.architecture, cache, 0
        width = arch["text_embed_dim"]
        tower = build_clip_text(
            {
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "projection_dim": width,
                "num_hidden_layers": arch["text_layers"],
                "num_attention_heads": arch["text_heads"],
            }
        )
        draws = torch.Generator().manual_seed(1)
        self.tensors = {
            name: 0.1 * torch.randn(tensor.shape, generator=draws)
            for name, tensor in tower.state_dict().items()
        }

    def weights(self, published):
        self.reads += 1
        return published.convert(self.tensors)

    def origin(self):
        return "here"

    def prompt_cache(self):
        return self.cache


def test_prompts_become_every_feature_that_the_networks_read(drawing, tmp_path):
    store = TextStore(drawing, tmp_path)
    conditioner, arch = drawing.build_conditioner(store), drawing.architecture
    cond = conditioner.prompts(["a photo of a cat", ""])
    blank, null = conditioner.blank(2), conditioner.null(2)
    states = (2, arch["text_context_length"], arch["text_embed_dim"])
    assert cond.tensors["text"].shape == cond.tensors["decoder_text"].shape == states
    for name, tensor in cond.tensors.items():
        assert tensor.shape == blank.tensors[name].shape == null.tensors[name].shape
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor[1], null.tensors[name][0])
    assert cond.tensors["aesthetic"].tolist() == [arch["sample_aesthetic_score"]] * 2
    assert not torch.allclose(cond.tensors["text"], cond.tensors["decoder_text"], atol=1e-2)


def test_a_prompt_is_encoded_once_ever(drawing, tmp_path):
    first, second = TextStore(drawing, tmp_path), TextStore(drawing, tmp_path)
    cond = drawing.build_conditioner(first).prompts(["a dog"])
    again = drawing.build_conditioner(second).prompts(["a dog"])
    assert (first.reads, second.reads) == (1, 0)
    for name, tensor in cond.tensors.items():
        assert torch.equal(tensor, again.tensors[name])
