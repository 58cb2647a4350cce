"""MaskBit against the golden numbers, and its full-size networks against the published files."""

import copy
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from dimo_cli.engine.auxiliary import auxiliary_loss
from dimo_cli.engine.many_steps import guided_head, reveal, sample_by_plan, token_scores
from dimo_cli.engine.masking import forward_mask
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.maskbit import VARIANTS, blueprint, growing_guidance_plan
from dimo_cli.teachers.maskbit.bits import signs_of, tokens_of
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Cond, Step, Teacher
from tests.helpers.golden import manifest

MANIFEST = manifest("maskbit")
GENERATOR_SETTINGS = (
    "bits",
    "codebook_splits",
    "img_size",
    "hidden_dim",
    "depth",
    "heads",
    "mlp_dim",
    "dropout",
    "nclass",
)
TOKENIZER_SETTINGS = ("hidden_channels", "channel_mult", "num_res_blocks")


def near(actual, expected, tolerance):
    """Absolute closeness, as the golden set states it."""
    assert_close(actual, expected, atol=tolerance, rtol=0, check_dtype=False)


@pytest.fixture(scope="module")
def config(golden):
    return golden("maskbit/config.json")


@pytest.fixture(scope="module")
def io(golden):
    return golden("maskbit/io.safetensors")


@pytest.fixture(scope="module")
def schedules(golden):
    return golden("maskbit/schedules.json")


@pytest.fixture(scope="module")
def tiny(config):
    """The blueprint of the golden networks."""
    overrides = {key: config["generator"][key] for key in GENERATOR_SETTINGS}
    overrides |= {key: config["tokenizer"][key] for key in TOKENIZER_SETTINGS}
    return blueprint("maskbit", overrides)


@pytest.fixture(scope="module")
def teacher(tiny, golden):
    """The golden teacher, through the path that published weights take."""
    generator = tiny.backbone.convert(golden("maskbit/generator.safetensors"))
    tokenizer = tiny.tokenizer.convert(golden("maskbit/tokenizer.safetensors"))
    return Teacher(
        name=tiny.name,
        family=tiny.family,
        revision="golden",
        license=tiny.license,
        space=tiny.space,
        backbone=fill(on_meta(tiny.build_backbone), generator, "the golden generator"),
        tokenizer=fill(on_meta(tiny.build_tokenizer), tokenizer, "the golden tokenizer"),
        conditioner=tiny.build_conditioner(None),
        sampler=tiny.sampler,
    )


@pytest.fixture(scope="module")
def conditions(teacher, io):
    """The golden labels, and no class."""
    labels = io["gen.labels"]
    return teacher.conditioner.labels(labels), teacher.conditioner.null(len(labels))


def unit(images):
    """Images in [0, 1] to the protocol's [-1, 1]; its inverse is `raw`."""
    return 2 * images - 1


def raw(images):
    return (images + 1) / 2


def bitmap(planes, space):
    """Bit planes [B, K, h, w] to the bits of each group [B, L, G, bits]."""
    return planes.flatten(2).transpose(1, 2).unflatten(-1, (space.groups, -1))


def test_token_space_is_that_of_the_golden_model(teacher, config):
    space, facts = teacher.space, config["generator"]
    assert space.length == facts["seq_len"]
    assert space.grid == (config["tokenizer"]["grid"],) * 2
    assert (space.vocab, space.codes) == (facts["group_codebook_size"],) * 2
    assert space.mask_id == facts["mask_token"]
    assert space.image_size == config["tokenizer"]["image_size"]
    assert teacher.conditioner.classes == facts["nclass"] == facts["null_class"]


def test_a_token_is_its_bits_lowest_first_and_groups_are_slices_of_them(teacher, io, config):
    group_bits, groups = config["generator"]["group_bits"], teacher.space.groups
    indices, split = io["factor.indices"], io["factor.split"]
    bits = signs_of(indices, config["generator"]["bits"])
    near(bits, io["factor.bits_pm1"], 0)
    near(signs_of(split, group_bits).flatten(-2), io["factor.bits_pm1"], 0)
    near(signs_of(torch.arange(teacher.space.codes), group_bits), io["factor.group_code_pm1"], 0)
    assert torch.equal(tokens_of(bits.unflatten(-1, (groups, -1)) > 0), split)
    assert torch.equal(tokens_of(bits > 0), indices)


# --- the generator


def test_masked_tokens_are_embedded_as_zero_bits(teacher, io):
    tokens = io["gen.masked_tokens"]
    assert torch.equal(tokens == teacher.space.mask_id, io["gen.mask"])
    bits = []
    handle = teacher.backbone.input_proj.register_forward_pre_hook(
        lambda _, inputs: bits.append(inputs[0])
    )
    embeds = teacher.backbone.embed(tokens)
    handle.remove()
    near(bits[0], io["gen.input_bits"], 1e-5)
    near(embeds, io["gen.input_embedding"], 1e-5)


def test_every_layer_matches(teacher, io, conditions):
    backbone = teacher.backbone
    layers = list(backbone.transformer.layers)
    seen = []
    handles = [
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
        for layer in (backbone.first_layer, *layers)
    ]
    embeds = backbone.embed(io["gen.masked_tokens"])
    hidden, taps = backbone.hidden(embeds, conditions[0], taps=range(len(layers)))
    for handle in handles:
        handle.remove()
    near(seen[0], io["gen.hidden.after_first_layer"], 1e-4)
    for index in range(len(layers)):
        near(seen[1 + index], io[f"gen.hidden.block_{index}"], 1e-4)
        near(taps[index], io[f"gen.hidden.block_{index}"][:, :-1], 1e-4)
    assert torch.equal(hidden, taps[-1])
    near(backbone.last_layer(seen[-1]), io["gen.hidden.after_last_layer"], 1e-4)


def test_logits_match_with_a_class_without_one_and_guided(teacher, io, conditions, config):
    backbone, tokens = teacher.backbone, io["gen.masked_tokens"]
    conditional, null = conditions
    near(backbone(tokens, conditional), io["gen.logits_cond"], 1e-4)
    near(backbone(tokens, null), io["gen.logits_uncond"], 1e-4)
    dropped = torch.where(io["gen.drop_flags"], null.tensors["label"], io["gen.labels"])
    near(backbone(tokens, Cond({"label": dropped})), io["gen.logits_mixed_drop"], 1e-4)
    all_masked = torch.full_like(tokens, teacher.space.mask_id)
    near(backbone(all_masked, conditional), io["gen.logits_all_masked_cond"], 1e-4)
    guidance = 1 + config["probes"]["cfg_scale_s"]
    project = guided_head(backbone, tokens, conditional, null, guidance)
    rows = torch.arange(tokens.shape[0] * tokens.shape[1])
    near(project(rows), io["gen.logits_cfg"].flatten(0, 1), 2e-4)


def test_head_of_some_positions_is_that_part_of_the_full_head(teacher, io, conditions):
    backbone = teacher.backbone
    hidden = backbone.hidden(backbone.embed(io["gen.masked_tokens"]), conditions[0])
    rows = torch.arange(0, hidden[..., 0].numel(), 3)
    some = backbone.head(hidden.flatten(0, 1)[rows], rows % teacher.space.length)
    near(some, backbone.head(hidden).flatten(0, 1)[rows], 1e-6)


def test_gradient_checkpointing_changes_no_gradient(teacher, io, conditions):
    def gradients(checkpointed):
        backbone = copy.deepcopy(teacher.backbone).requires_grad_(True)
        backbone.gradient_checkpointing = checkpointed
        backbone(io["gen.masked_tokens"], conditions[0]).square().mean().backward()
        return [parameter.grad for parameter in backbone.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, recomputed)


def test_only_the_input_projection_is_an_embedding(teacher):
    frozen = {id(parameter) for parameter in teacher.backbone.embedding_parameters()}
    names = {name for name, p in teacher.backbone.named_parameters() if id(p) in frozen}
    assert names == {"input_proj.weight", "input_proj.bias"}


def test_dropout_acts_in_training_and_can_be_turned_off(teacher, io, conditions, tiny, golden):
    tokens = io["gen.masked_tokens"]
    still = blueprint("maskbit", {**tiny.architecture, "dropout": 0.0})
    weights = golden("maskbit/generator.safetensors")
    still = fill(on_meta(still.build_backbone), weights, "the golden generator").train()
    near(still(tokens, conditions[0]), io["gen.logits_cond"], 1e-4)
    noisy = blueprint("maskbit", {**tiny.architecture, "dropout": 0.1})
    noisy = fill(on_meta(noisy.build_backbone), weights, "the golden generator").train()
    assert not torch.allclose(noisy(tokens, conditions[0]), io["gen.logits_cond"], atol=1e-3)


# --- masks and losses


def test_masking_matches_given_the_recorded_uniforms(teacher, io, monkeypatch, generator):
    tokens, uniforms = io["gen.target_tokens"], io["mask.u"]
    monkeypatch.setattr(torch, "rand", lambda *size, **_: uniforms.reshape(*size))
    schedules = [name.split(".")[1] for name in io if re.fullmatch(r"mask\.\w+\.mask", name)]
    assert schedules
    for schedule in schedules:
        ratio = mask_ratio(schedule, io["mask.r"])
        masked, mask = forward_mask(tokens, ratio, teacher.space.mask_id, generator, exact=False)
        # A sample that came out without any mask is given one: there would be nothing to learn.
        usual = io[f"mask.{schedule}.mask"].flatten(1).any(1)
        assert torch.equal(mask[usual], io[f"mask.{schedule}.mask"][usual])
        assert torch.equal(masked[usual], io[f"mask.{schedule}.tokens"][usual])
        assert (mask[~usual].flatten(1).sum(1) == 1).all()


def mask_ratio(schedule, r):
    """The share of masked slots at progress r in [0, 1]."""
    ratio = SCHEDULES[schedule](r)
    return ratio if schedule in ("arccos", "cosine") else 1 - ratio


def test_mask_ratios_match_the_published_functions(schedules):
    for schedule, table in schedules["mask_ratio_functions"].items():
        expected = torch.tensor(table["ratio"])
        ratio = mask_ratio(schedule, torch.tensor(table["r"])).clamp(1e-6, 1)
        assert_close(ratio, expected, rtol=1e-5, atol=1e-7)


def test_training_losses_match(teacher, io, config):
    smoothing = config["probes"]["label_smoothing"]

    def mean_loss(logits, targets):
        loss, _ = auxiliary_loss(logits, targets, label_smoothing=smoothing)
        return loss.total / len(targets)

    logits, targets, mask = io["gen.logits_cond"], io["gen.target_tokens"], io["gen.mask"]
    everywhere = mean_loss(logits.flatten(0, 2), targets.flatten())
    near(everywhere, io["loss.mlm_all_positions"].squeeze(), 1e-5)
    near(everywhere * teacher.space.groups, io["loss.mlm_all_positions_sum_splits"].squeeze(), 1e-5)
    near(mean_loss(logits[mask], targets[mask]), io["loss.masked_positions_only"].squeeze(), 1e-5)


# --- soft embeddings


def test_soft_embeddings_match(teacher, io, conditions):
    backbone, mask = teacher.backbone, io["soft.mask"]
    probs = io["soft.group_logits"].softmax(-1)
    bits = []
    handle = backbone.input_proj.register_forward_pre_hook(lambda _, x: bits.append(x[0]))
    embeds, masked = backbone.embed_probs(probs), backbone.embed_probs(probs, mask)
    handle.remove()
    near(bits[0], io["soft.bits"], 1e-5)
    near(bits[1], io["soft.bits_masked"], 1e-5)
    near(embeds, io["soft.input_embedding"], 1e-5)
    logits = backbone.head(backbone.hidden(embeds, conditions[0]))
    near(logits, io["soft.generator_logits"], 1e-4)
    logits = backbone.head(backbone.hidden(masked, conditions[0]))
    near(logits, io["soft.generator_logits_masked"], 1e-4)


def test_soft_gradients_match_through_both_networks(teacher, io, conditions):
    backbone = teacher.backbone
    group_logits = io["soft.group_logits"].clone().requires_grad_()
    embeds = backbone.embed_probs(group_logits.softmax(-1))
    logits = backbone.head(backbone.hidden(embeds, conditions[0]))
    loss = (logits * io["soft.grad_probe_generator"]).mean()
    (gradient,) = torch.autograd.grad(loss, group_logits)
    near(gradient, io["soft.grad_group_logits_generator"], 1e-6)
    images = raw(teacher.tokenizer.decode_probs(group_logits.softmax(-1)))
    loss = (images * io["soft.grad_probe_decoder"]).mean()
    (gradient,) = torch.autograd.grad(loss, group_logits)
    near(gradient, io["soft.grad_group_logits_decoder"], 1e-6)


def test_one_hot_probabilities_are_the_tokens_themselves(teacher, io):
    tokens, mask = io["gen.target_tokens"], io["gen.mask"]
    one_hot = torch.nn.functional.one_hot(tokens, teacher.space.vocab).float()
    near(teacher.backbone.embed_probs(one_hot), teacher.backbone.embed(tokens), 1e-6)
    masked = teacher.backbone.embed(tokens.masked_fill(mask, teacher.space.mask_id))
    near(teacher.backbone.embed_probs(one_hot, mask), masked, 1e-6)
    near(teacher.tokenizer.decode_probs(one_hot), teacher.tokenizer.decode(tokens), 1e-5)


def test_soft_embedding_is_the_expectation_over_all_joint_codes(teacher, io):
    space, probs = teacher.space, io["soft.group_logits"].softmax(-1)[:1, :2]
    codes = torch.cartesian_prod(*[torch.arange(space.codes)] * space.groups)
    codes = codes.view(-1, space.groups)
    joint = torch.stack([probs[..., g, codes[:, g]] for g in range(space.groups)]).prod(0)
    expected = joint @ teacher.backbone.embed(codes[:, None])[:, 0]
    near(teacher.backbone.embed_probs(probs), expected, 1e-5)


def test_gradients_of_soft_inputs_match_finite_differences(teacher, io, conditions, generator):
    backbone = copy.deepcopy(teacher.backbone).double()
    tokenizer = copy.deepcopy(teacher.tokenizer).double()
    probs = io["soft.group_logits"][:1].softmax(-1).double()
    cond = conditions[0][:1]

    def logits_of(probs):
        return backbone.head(backbone.hidden(backbone.embed_probs(probs), cond))

    for output in (logits_of, tokenizer.decode_probs):
        shape = output(probs).shape
        probe = torch.randn(shape, generator=generator, dtype=torch.float64)
        leaf = probs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((output(leaf) * probe).sum(), leaf)
        for _ in range(3):
            direction = torch.randn(probs.shape, generator=generator, dtype=torch.float64)
            ahead, behind = (
                (output(probs + step * direction) * probe).sum() for step in (1e-5, -1e-5)
            )
            slope = (ahead - behind) / 2e-5
            assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-7)


# --- the tokenizer


def test_encoding_matches(teacher, io):
    tokenizer, images = teacher.tokenizer, io["tok.image"]
    z = tokenizer.encoder(images)
    near(z, io["tok.encoder_output"], 1e-4)
    tokens = tokenizer.encode(unit(images))
    assert torch.equal(tokens, io["tok.split_indices"])
    signs = signs_of(tokens, tokenizer.group_bits)
    near(signs, bitmap(io["tok.quantized"], teacher.space), 0)
    assert torch.equal(tokens_of(signs.flatten(-2) > 0), io["tok.indices"].flatten(1))


def test_decoding_matches(teacher, io):
    tokenizer = teacher.tokenizer
    decoded = tokenizer.decode(io["tok.split_indices"])
    near(raw(decoded), io["tok.decode_of_encoded"], 1e-4)
    signs = signs_of(io["tok.decode_indices"], teacher.space.groups * tokenizer.group_bits)
    signs = signs.unflatten(-1, (teacher.space.groups, -1))
    near(signs, bitmap(io["tok.decode_indices_bitmap"], teacher.space), 0)
    near(raw(tokenizer.decode(tokens_of(signs > 0))), io["tok.decode_indices_image"], 1e-4)


def test_soft_decoding_matches(teacher, io):
    planes = []
    handle = teacher.tokenizer.decoder.register_forward_pre_hook(lambda _, x: planes.append(x[0]))
    images = teacher.tokenizer.decode_probs(io["soft.group_logits"].softmax(-1))
    handle.remove()
    near(planes[0], io["tok.soft_bitmap"], 1e-5)
    near(raw(images), io["tok.decode_soft_image"], 1e-4)


def test_mixed_precision_rounds_no_token(teacher, io):
    images = unit(io["tok.image"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.tokenizer.encode(images), io["tok.split_indices"])
        teacher.tokenizer.encode(teacher.tokenizer.decode(io["tok.split_indices"]))


# --- the sampler


def test_counts_of_the_published_schedule_match(schedules):
    for table in schedules["arccos_schedules"]:
        if table["num_steps"] > table["slots"]:  # refused: upstream would repeat idle steps
            continue
        plan = growing_guidance_plan(1.0)(table["num_steps"], table["slots"], 1.0, 0.0)
        counts = [step.masked_after for step in plan]
        assert counts[:-1] == table["masked_after"][:-1]
        assert counts[-1] == 0  # the table keeps one masked in its books; the images do not
        revealed = [before - after for before, after in pairwise([table["slots"], *counts])]
        assert revealed == table["revealed"]


def test_guidance_and_noise_of_the_published_schedules_match(schedules):
    tables = [*schedules["guidance_examples"], *schedules["published"].values()]
    for table in tables:
        plan = growing_guidance_plan(table["scale_pow"])(
            table["num_steps"],
            2 * table["num_steps"],
            1 + table["guidance_scale"],
            table["randomize_temperature"],
        )
        guidance = torch.tensor([step.guidance - 1 for step in plan], dtype=torch.float64)
        expected = torch.tensor(table["guidance"], dtype=torch.float64)
        assert_close(guidance, expected, rtol=1e-5, atol=1e-12)
        noise = torch.tensor([step.choice_noise for step in plan])
        assert_close(noise, torch.tensor(table["noise_temperature"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sampler_defaults_are_the_published_settings(schedules, variant):
    table = schedules["published"][f"{VARIANTS[variant].bits}bit"]
    sampler = blueprint(variant, {}).sampler
    assert sampler.steps == table["num_steps"]
    assert sampler.guidance == pytest.approx(1 + table["guidance_scale"])
    assert sampler.choice_noise == table["randomize_temperature"]
    assert VARIANTS[variant].guidance_power == table["scale_pow"]


@pytest.mark.parametrize("steps", [1, 2, 31, 32])
def test_every_step_reveals_something_and_the_last_reveals_all(steps):
    plan = growing_guidance_plan(2.0)(steps, 32, 3.0, 1.0)
    counts = [32, *(step.masked_after for step in plan)]
    assert len(plan) == steps
    assert all(before > after for before, after in pairwise(counts))
    assert counts[-1] == 0
    assert plan[0].guidance == 1.0
    assert plan[-1].choice_noise == 0.0


def test_more_steps_than_slots_are_refused():
    with pytest.raises(SpecError, match="33 steps"):
        growing_guidance_plan(2.0)(33, 32, 3.0, 1.0)


GROWTH = {"none": lambda progress: 1.0, "linear": lambda progress: progress}


def recorded_plan(settings, slots):
    """The steps of the recorded run; what differs from the published sampler is put in."""
    steps, annealing = settings["num_steps"], settings["guidance_annealing"]
    largest, schedule = settings["guidance_scale"], settings["mask_schedule"]
    plan = growing_guidance_plan(settings["scale_pow"])(
        steps, slots, 1 + largest, settings["randomize_temperature"]
    )
    if annealing != "cosine":
        shares = [GROWTH[annealing](index / steps) for index in range(steps)]
        plan = [replace(s, guidance=1 + largest * x) for s, x in zip(plan, shares, strict=True)]
    if schedule != "arccos":
        counts = masked_counts(mask_ratio(schedule, torch.arange(1, steps + 1) / steps), slots)
        plan = [replace(s, masked_after=count) for s, count in zip(plan, counts, strict=True)]
    return [replace(step, temperature=settings["softmax_temperature"]) for step in plan]


def test_the_sampler_walks_the_golden_path(teacher, io, config):
    space, settings = teacher.space, config["probes"]["sampler"]
    labels = io["sampler.labels"]
    cond = teacher.conditioner.labels(labels)
    null = teacher.conditioner.null(len(labels))
    slots = space.length * space.groups
    plan = recorded_plan(settings, slots)
    tokens = torch.full((len(labels), slots), space.mask_id)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    for index, step in enumerate(plan):
        name = f"sampler.step_{index}"
        assert torch.equal(tokens, io[f"{name}.tokens_in"].flatten(1))
        grid = tokens.view(len(labels), space.length, space.groups)
        project = guided_head(teacher.backbone, grid, cond, null, step.guidance)
        logits = project(torch.arange(len(labels) * space.length)).view(len(labels), slots, -1)
        near(logits, io[f"{name}.cfg_logits"].flatten(1, 2), 2e-4)
        drawn = io[f"{name}.categorical_draw"].flatten(1)
        whole, _ = reveal(tokens, masked, drawn, torch.zeros(drawn.shape), 0, space.mask_id)
        assert torch.equal(whole, io[f"{name}.tokens_out"].flatten(1))
        noise = step.choice_noise * io[f"{name}.gumbel_unit"].flatten(1)
        scores = token_scores(logits / step.temperature, drawn, step) + noise
        tokens, masked = reveal(tokens, masked, drawn, scores, step.masked_after, space.mask_id)
    tokens = tokens.view(len(labels), space.length, space.groups)
    assert torch.equal(tokens, io["sampler.final_tokens"])
    signs = signs_of(tokens, teacher.tokenizer.group_bits)
    assert torch.equal(tokens_of(signs.flatten(-2) > 0), io["sampler.final_combined"])
    near(raw(teacher.tokenizer.decode(tokens)), io["sampler.final_image"], 1e-4)


def test_the_shared_sampler_fills_every_slot(teacher, io, generator):
    space, labels = teacher.space, io["sampler.labels"]
    plan = teacher.sampler.plan(4, space.length * space.groups, 3.0, 2.0)
    assert all(isinstance(step, Step) for step in plan)
    tokens = sample_by_plan(teacher, teacher.conditioner.labels(labels), plan, generator)
    assert tokens.shape == (len(labels), space.length, space.groups)
    assert ((tokens >= 0) & (tokens < space.codes)).all()
    assert torch.isfinite(teacher.tokenizer.decode(tokens)).all()


# --- the published files


def test_older_generator_files_load_under_the_new_name(tiny, golden):
    weights = golden("maskbit/generator.safetensors")
    older = {name.replace("input_proj.", "token_emb."): t for name, t in weights.items()}
    converted = tiny.backbone.convert(older)
    assert converted.keys() == weights.keys()
    assert torch.equal(converted["input_proj.weight"], weights["input_proj.weight"])


def test_a_file_with_both_names_is_refused(tiny, golden):
    weights = golden("maskbit/generator.safetensors")
    weights["token_emb.bias"] = weights["input_proj.bias"]
    with pytest.raises(MissingError, match=r"token_emb\.bias"):
        fill(on_meta(tiny.build_backbone), tiny.backbone.convert(weights), "generator")


@pytest.mark.parametrize("part", ["generator", "tokenizer"])
def test_a_missing_or_unknown_key_is_refused(tiny, golden, part):
    published, build = {
        "generator": (tiny.backbone, tiny.build_backbone),
        "tokenizer": (tiny.tokenizer, tiny.build_tokenizer),
    }[part]
    weights = golden(f"maskbit/{part}.safetensors")
    for name in list(weights)[:: max(1, len(weights) // 8)]:
        fewer = {key: tensor for key, tensor in weights.items() if key != name}
        with pytest.raises(MissingError, match="lacks"):
            fill(on_meta(build), published.convert(fewer), part)
    with pytest.raises(MissingError, match="has unknown surplus"):
        fill(on_meta(build), published.convert({**weights, "surplus": torch.zeros(1)}), part)


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_networks_have_the_published_keys_shapes_and_sizes(variant):
    bits = VARIANTS[variant].bits
    counts = MANIFEST["counts"][str(bits)]
    teacher = skeleton(blueprint(variant, {}))
    kinds = {torch.float32: "F32", torch.int32: "I32"}
    for part, network in (("generator", teacher.backbone), ("tokenizer", teacher.tokenizer)):
        expected = dict(MANIFEST["14bit"][part])
        if bits != 14:
            expected |= MANIFEST["only_what_differs_from_14bit"][f"{bits}bit"][part]
        state = network.state_dict()
        assert {n: [kinds[t.dtype], list(t.shape)] for n, t in state.items()} == expected
        assert sum(p.numel() for p in network.parameters()) == counts[f"{part}_parameters"]
        size = sum(t.numel() * t.element_size() for t in state.values())
        assert size == counts[f"{part}_state_bytes"]
    for part in ("encoder", "decoder"):
        parameters = getattr(teacher.tokenizer, part).parameters()
        assert sum(p.numel() for p in parameters) == counts[f"tokenizer_{part}_parameters"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_knows_its_files_and_its_space(variant):
    plan, bits = blueprint(variant, {}), VARIANTS[variant].bits
    hub = MANIFEST["hub"]
    for part, published in (("generator", plan.backbone), ("tokenizer", plan.tokenizer)):
        (file,) = published.files
        assert file.repo == hub[f"{part}_repo"].replace("{N}", str(bits))
        assert file.path == hub[f"{part}_file"].replace("{N}", str(bits))
    known = MANIFEST["known_tokenizer_files"].get(str(bits), {})
    assert plan.tokenizer.files[0].sha256 == known.get("sha256")
    assert plan.tokenizer.files[0].size == known.get("size")
    assert plan.space.vocab == plan.space.codes == plan.space.mask_id == 2 ** (bits // 2)
    assert (plan.space.length, plan.space.groups, plan.space.grid) == (256, 2, (16, 16))
    assert len(plan.class_names) == len(plan.class_ids) == 1000


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("codebook_splits", 3, "codebook_splits"),
        ("bits", 15, "codebook_splits"),
        ("heads", 7, "heads"),
        ("channel_mult", [1, 0, 2], "channel_mult"),
        ("img_size", 100, "channel_mult"),
        ("hidden_channels", 48, "hidden_channels"),
        ("depths", 2, "depths"),
    ],
)
def test_impossible_settings_are_refused_by_name(setting, value, named):
    with pytest.raises(SpecError, match=rf"teacher\.architecture\.{named}"):
        blueprint("maskbit", {setting: value})


def test_a_model_of_other_classes_has_no_imagenet_names():
    other = blueprint("maskbit", {"nclass": 10})
    assert other.class_names == other.class_ids == ()


def test_fresh_networks_start_out_finite(tiny, io, conditions):
    tokens = io["gen.masked_tokens"]
    assert torch.isfinite(tiny.build_backbone()(tokens, conditions[0])).all()
    tokenizer = tiny.build_tokenizer()
    assert torch.isfinite(tokenizer.decode(io["gen.target_tokens"])).all()
    near(tokenizer.quantize.codebook[io["factor.indices"]], io["factor.bits_pm1"], 0)
