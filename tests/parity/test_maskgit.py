"""The MaskGit family against the released code's numbers, on tiny networks with its key names."""

import copy
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from dimo_cli.engine.many_steps import guided_head, reveal, sample_by_plan, token_scores
from dimo_cli.engine.masking import masked_count
from dimo_cli.engine.one_step import filter_logits
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import finish, skeleton
from dimo_cli.teachers.maskgit import VARIANTS, VQGAN_CONFIG, blueprint, published_plan
from dimo_cli.teachers.protocol import Cond
from tests.helpers.golden import manifest
from tests.helpers.gradients import assert_gradient_matches_differences

MANIFEST = manifest("maskgit")


def assert_near(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def tokens_of(grid):
    """Token grids [B, P, P] as tokens [B, L, 1]."""
    return grid.flatten(1)[..., None]


# ---------------------------------------------------------------- the golden teacher


@pytest.fixture
def config(golden):
    return golden("maskgit/config.json")


@pytest.fixture
def io(golden):
    return golden("maskgit/io.safetensors")


@pytest.fixture
def golden_blueprint(config):
    """The blueprint of the golden networks, their VQGAN read from a file like the published one."""
    transformer, vqgan = config["transformer"], config["vqgan"]
    names = ("hidden_dim", "codebook_size", "depth", "heads", "mlp_dim", "dropout", "nclass")
    architecture = {name: transformer[name] for name in names}
    architecture["grid"] = math.isqrt(transformer["seq_len"] - 1)
    params = {**vqgan, "lossconfig": {"target": "unused"}}

    def read_config(file):
        assert file == VQGAN_CONFIG
        return {"model": {"target": "unused", "params": params}}

    return blueprint("maskgit", architecture, read_config)


@pytest.fixture
def weights(golden):
    """Both golden state dicts, with what else the published VQGAN file holds."""
    vqgan = golden("maskgit/vqgan.safetensors")
    for name in MANIFEST["vqgan"]["training_only_keys_to_ignore"]:
        vqgan[name] = torch.zeros(1)
    return golden("maskgit/transformer.safetensors"), vqgan


@pytest.fixture
def teacher(golden_blueprint, weights):
    backbone, tokenizer = weights
    drawing = golden_blueprint
    return finish(
        drawing,
        fill(on_meta(drawing.build_backbone), drawing.backbone.convert(backbone), "transformer"),
        fill(on_meta(drawing.build_tokenizer), drawing.tokenizer.convert(tokenizer), "VQGAN"),
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


def test_token_space_is_that_of_the_golden_teacher(teacher, config):
    transformer, ids, space = config["transformer"], config["ids"], teacher.space
    assert space.length == transformer["seq_len"] - 1 == ids["class_token_position"]
    assert space.grid == (math.isqrt(space.length),) * 2
    assert (space.groups, space.vocab, space.codes) == (
        1,
        transformer["logits_dim"],
        transformer["codebook_size"],
    )
    assert space.mask_id == ids["mask_id"]
    assert space.class_ids == range(ids["first_class_id"], ids["null_class_id"])
    assert teacher.backbone.tok_emb.num_embeddings == transformer["vocab"]
    assert (
        teacher.conditioner.null(1).tensors["label"] + ids["first_class_id"] == ids["null_class_id"]
    )


# ---------------------------------------------------------------- the transformer


def test_logits_are_the_published_ones_with_and_without_a_class(backbone, io, case):
    tokens, cond, null = case
    some = Cond({"label": torch.where(io["drop_flags"], null.tensors["label"], io["labels"])})
    with torch.no_grad():
        assert_near(backbone(tokens, cond).squeeze(-2), io["logits_cond"], 1e-4)
        assert_near(backbone(tokens, null).squeeze(-2), io["logits_uncond"], 1e-4)
        assert_near(backbone(tokens, some).squeeze(-2), io["logits_dropped"], 1e-4)


def test_guided_logits_are_the_published_ones(backbone, io, case, config):
    tokens, cond, null = case
    rows = torch.arange(tokens.shape[0] * tokens.shape[1])
    with torch.no_grad():
        guided = guided_head(backbone, tokens, cond, null, config["io"]["cfg_scale"])(rows)
        assert_near(guided.view_as(io["logits_cfg"]), io["logits_cfg"], 1e-4)
        for sample, scale in enumerate(io["cfg_scale_vector"].tolist()):
            one = slice(sample, sample + 1)
            project = guided_head(backbone, tokens[one], cond[one], null[one], scale)
            guided = project(torch.arange(tokens.shape[1])).squeeze(-2)
            assert_near(guided, io["logits_cfg_vector"][sample], 1e-4)


def test_noise_goes_on_the_image_tokens_before_positions_are_added(backbone, io, case, config):
    tokens, cond, _ = case
    prefix = "logits_perturbed_sigma_"
    names = [name for name in io if name.startswith(prefix)]
    sigmas = {float(name.removeprefix(prefix)): name for name in names}
    assert sorted(sigmas) == sorted(config["io"]["sigmas"])
    for sigma, name in sigmas.items():
        embeds = sigma * io["embed_noise"] + math.sqrt(1 - sigma**2) * backbone.embed(tokens)
        with torch.no_grad():
            logits = backbone.head(backbone.hidden(embeds, cond)).squeeze(-2)
        assert_near(logits, io[name], 1e-4)


def test_every_intermediate_result_is_the_published_one(backbone, io, case):
    tokens, cond, _ = case
    seen = {}

    def remember(module, name):
        module.register_forward_hook(
            lambda _, inputs, output: seen.update({name: (*inputs, output)})
        )

    remember(backbone.first_layer, "first_layer")
    for index, (attention, mlp) in enumerate(backbone.transformer["layers"]):
        remember(attention.fn, f"attn_out_{index}")
        remember(mlp.fn, f"ff_out_{index}")
        remember(mlp, "last_block")
    with torch.no_grad():
        backbone(tokens, cond)
        # The product never finishes the class position or scores the class ids: done here instead.
        last = backbone.last_layer(seen["last_block"][-1])
        unsliced = last @ backbone.tok_emb.weight.T + backbone.bias
    before, after = seen["first_layer"]
    assert_near(before, io["h_embed_plus_pos"], 1e-4)
    assert_near(after, io["h_first_layer"], 1e-4)
    assert_near(last, io["h_last_layer"], 1e-4)
    assert_near(unsliced, io["logits_cond_unsliced"], 1e-4)
    branches = [name for name in io if name.startswith(("attn_out_", "ff_out_"))]
    assert len(branches) == 2 * len(backbone.transformer["layers"])
    for name in branches:
        assert_near(seen[name][-1], io[name], 1e-4)


def test_outer_layers_have_the_smaller_epsilon(backbone, io, case):
    tokens, cond, _ = case
    names = [name for name in io if name.startswith("logits_cond_scaled_")]
    assert names
    for name in names:
        network, factor = copy.deepcopy(backbone), float(name.rsplit("_", 1)[1])
        last_linear = network.first_layer[-1]
        with torch.no_grad():
            for small in (network.tok_emb.weight, network.pos_emb, *last_linear.parameters()):
                small *= factor
            assert_near(network(tokens, cond).squeeze(-2), io[name], 1e-4)


def test_head_of_some_positions_is_a_part_of_the_whole(teacher, case, generator):
    tokens, cond, _ = case
    with torch.no_grad():
        hidden = teacher.backbone.hidden(teacher.backbone.embed(tokens), cond)
        whole = teacher.backbone.head(hidden).flatten(0, 1)
        rows = torch.randperm(len(whole), generator=generator)[: len(whole) // 3]
        part = teacher.backbone.head(hidden.flatten(0, 1)[rows], rows % teacher.space.length)
    assert_near(part, whole[rows], 1e-5)


def test_taps_are_the_image_tokens_after_the_blocks_asked_for(backbone, case):
    tokens, cond, _ = case
    blocks = backbone.transformer["layers"]
    outputs = []
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    taps = sorted({0, len(blocks) - 1})
    with torch.no_grad():
        plain = backbone.hidden(backbone.embed(tokens), cond)
        outputs.clear()
        hidden, tapped = backbone.hidden(backbone.embed(tokens), cond, taps)
    assert torch.equal(hidden, plain)
    assert len(tapped) == len(taps)
    for index, features in zip(taps, tapped, strict=True):
        assert torch.equal(features, outputs[index][:, :-1])


def test_soft_embedding_of_a_one_hot_is_the_embedding(teacher, case, generator):
    backbone, space = teacher.backbone, teacher.space
    tokens, _, _ = case
    one_hots = torch.nn.functional.one_hot(tokens, space.vocab).float()
    assert_near(backbone.embed_probs(one_hots), backbone.embed(tokens), 1e-6)
    mask = torch.rand(tokens.shape, generator=generator) < 0.5
    masked = backbone.embed(tokens.masked_fill(mask, space.mask_id))
    assert_near(backbone.embed_probs(one_hots, mask), masked, 1e-6)


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


def test_dropout_acts_in_training_only(backbone, case):
    tokens, cond, _ = case
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    with torch.no_grad():
        assert torch.equal(backbone(tokens, cond), backbone(tokens, cond))
        backbone.train()
        assert not torch.equal(backbone(tokens, cond), backbone(tokens, cond))


def test_frozen_embeddings_are_table_positions_and_output_bias(backbone):
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    frozen = {names[id(parameter)] for parameter in backbone.embedding_parameters()}
    assert frozen == {"tok_emb.weight", "pos_emb", "bias"}


# ---------------------------------------------------------------- the VQGAN


@pytest.fixture
def vqgan(teacher, io):
    """The VQGAN over the grid of its recorded images, which need not be the transformer's."""
    teacher.tokenizer.grid = io["vq_indices"].shape[-1]
    return teacher.tokenizer


def test_images_are_encoded_as_published(vqgan, io):
    image, grid = io["vq_image"], io["vq_indices"].shape[1:]
    with torch.no_grad():
        latents = vqgan.latents(image)
        tokens = vqgan.encode(image)
        quantized = vqgan.quantize.embedding(tokens.squeeze(-1)).mT.unflatten(-1, grid)
    assert_near(latents, io["vq_latent"], 1e-5)
    assert torch.equal(tokens, tokens_of(io["vq_indices"]))
    assert_near(quantized, io["vq_quantized"], 1e-5)
    commitment = 1.25 * (latents - quantized).square().mean()
    torch.testing.assert_close(commitment, io["vq_commit_loss"].squeeze(), rtol=1e-5, atol=1e-6)


def test_tokens_are_decoded_as_published(teacher, vqgan, io):
    pixels, side = teacher.space.image_size // teacher.space.grid[0], io["vq_indices"].shape[-1]
    assert io["vq_image"].shape[-1] == pixels * side
    with torch.no_grad():
        decoded = vqgan.decode(tokens_of(io["vq_decode_indices"]))
        again = vqgan.decode(vqgan.encode(io["vq_image"]))
    assert_near(decoded, io["vq_decoded"], 1e-4)
    assert_near(again, io["vq_recon"], 1e-4)


def test_soft_decoding_of_a_one_hot_is_decoding(teacher, vqgan, io):
    tokens, space = tokens_of(io["vq_decode_indices"]), teacher.space
    tokens[:, 0] = space.mask_id  # it can be drawn, and is decoded as the last code
    one_hots = torch.nn.functional.one_hot(tokens, space.vocab).float()
    with torch.no_grad():
        decoded = vqgan.decode(tokens)
        assert_near(vqgan.decode_probs(one_hots), decoded, 1e-5)
        assert torch.equal(vqgan.decode(tokens.clamp(max=space.codes - 1)), decoded)


def test_gradients_through_soft_embedding_and_decoding_are_right(teacher, generator):
    space = teacher.space
    logits = torch.randn(1, space.length, 1, space.vocab, generator=generator)
    probs = logits.softmax(-1)
    mask = torch.rand(probs.shape[:-1], generator=generator) < 0.5
    backbone, tokenizer = teacher.backbone.double(), teacher.tokenizer.double()
    assert_gradient_matches_differences(backbone.embed_probs, probs, generator)
    assert_gradient_matches_differences(lambda p: backbone.embed_probs(p, mask), probs, generator)
    assert_gradient_matches_differences(tokenizer.decode_probs, probs, generator)


# ---------------------------------------------------------------- samplers


@pytest.fixture
def plan(config, teacher):
    """The steps of the recorded runs."""
    recorded = config["sampler"]
    steps = published_plan(
        recorded["steps"],
        teacher.space.length,
        1 + recorded["w"],
        recorded["r_temp"],
        recorded["schedule"],
    )
    return [replace(step, temperature=1 / recorded["sm_temp"]) for step in steps]


def test_plan_reveals_and_guides_as_recorded(plan, config, teacher):
    recorded = config["sampler"]
    masked = [teacher.space.length, *(step.masked_after for step in plan)]
    revealed = [before - after for before, after in pairwise(masked)]
    assert revealed == recorded["tokens_per_step"]
    assert masked[-1] == 0
    assert [step.guidance for step in plan] == pytest.approx(recorded["cfg_scale_per_step"])
    assert plan[0].choice_noise == recorded["r_temp"]
    assert plan[-1].choice_noise == 0


def test_plan_follows_the_published_lists_at_both_sizes(golden):
    tables = golden("maskgit/schedules.json")["sampler_tokens_per_step"]
    for size, schedules in tables.items():
        rows, columns = map(int, size.split("x"))
        for steps, counts in schedules["arccos"].items():
            if counts[-1] < 1:  # refused, or filled by ours: the list reveals nothing at its end
                continue
            plan = published_plan(int(steps), rows * columns, 4.0, 4.5)
            assert [step.masked_after for step in plan] == [
                sum(counts[index + 1 :]) for index in range(len(counts))
            ]


def test_one_step_plan_reveals_everything():
    (step,) = published_plan(1, 256, 4.0, 4.5)
    assert step.masked_after == 0


@pytest.mark.parametrize("run", ["linear", "random"])
def test_sampler_takes_the_recorded_steps(teacher, golden, plan, run):
    data = golden("maskgit/sampler.safetensors")
    space, before = teacher.space, data[f"{run}.code_before_step"].flatten(2)
    labels = Cond({"label": data["labels"]})
    batch = len(labels)
    null = teacher.conditioner.null(batch)
    tokens = torch.full((batch, space.length), space.mask_id)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    rows = torch.arange(batch * space.length)
    for index, step in enumerate(plan):
        assert torch.equal(tokens, before[index])
        drawn = data[f"{run}.sampled_code"][index].flatten(1)
        if run == "random":
            scores = data["random.uniform"][index]
        else:
            with torch.no_grad():
                project = guided_head(
                    teacher.backbone, tokens[..., None], labels, null, step.guidance
                )
            logits = project(rows).view(batch, space.length, -1) / step.temperature
            scores = token_scores(logits, drawn, step)
            scores = scores + step.choice_noise * data["linear.gumbel"][index]
        tokens, masked = reveal(tokens, masked, drawn, scores, step.masked_after, space.mask_id)
    final = tokens.clamp(max=space.codes - 1)
    assert not masked.any()
    assert torch.equal(final, data[f"{run}.final_code"].flatten(1))
    with torch.no_grad():
        assert_near(teacher.tokenizer.decode(tokens[..., None]), data[f"{run}.image"], 1e-4)


def test_published_sampler_makes_whole_images(teacher, generator):
    cond = teacher.conditioner.draw(2, generator)
    plan = teacher.sampler.plan(4, teacher.space.length, teacher.sampler.guidance, 4.5)
    tokens = sample_by_plan(teacher, cond, plan, generator)
    assert tokens.shape == (2, teacher.space.length, 1)
    assert tokens.max() < teacher.space.codes
    size = teacher.space.image_size
    assert teacher.tokenizer.decode(tokens).shape == (2, 3, size, size)


def test_one_step_generation_is_the_released_one(teacher, golden, config):
    data, recorded = golden("maskgit/sampler.safetensors"), config["onestep"]
    x_init, sigma = tokens_of(data["onestep.x_init"]), recorded["noise_emb_perturb"]
    count = masked_count(torch.tensor(recorded["mask_ratio"]), teacher.space.length)
    assert count == recorded["num_masked"]
    assert ((x_init == teacher.space.mask_id).sum((1, 2)) == count).all()
    embeds = teacher.backbone.embed(x_init)
    embeds = sigma * data["onestep.embed_noise"] + math.sqrt(1 - sigma**2) * embeds
    with torch.no_grad():
        hidden = teacher.backbone.hidden(embeds, Cond({"label": data["labels"]}))
        logits = teacher.backbone.head(hidden).squeeze(-2)
    assert_near(logits, data["onestep.logits"], 1e-4)
    names = [name for name in data if name.startswith("onestep.probs_")]
    assert names
    for name in names:
        settings = dict(re.findall(r"(temp|topk|topp)([\d.]+)", name))
        probs = filter_logits(
            logits,
            float(settings.get("temp", 1)),
            int(settings.get("topk", 0)),
            float(settings.get("topp", 0)),
        ).softmax(-1)
        assert_near(probs, data[name], 1e-4)


# ---------------------------------------------------------------- published files


@pytest.mark.parametrize("part", [0, 1])
def test_loading_refuses_a_missing_and_an_unknown_key(golden_blueprint, weights, part):
    network = (golden_blueprint.build_backbone, golden_blueprint.build_tokenizer)[part]
    published = (golden_blueprint.backbone, golden_blueprint.tokenizer)[part]
    first, *others = published.convert(weights[part])
    kept = published.convert({name: weights[part][name] for name in others})
    with pytest.raises(MissingError, match=f"lacks {re.escape(first)}"):
        fill(on_meta(network), kept, "file")
    more = published.convert({**weights[part], "ema.decay": torch.zeros(1)})
    with pytest.raises(MissingError, match=r"has unknown ema\.decay"):
        fill(on_meta(network), more, "file")


def shapes_of(network):
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(("variant", "entry"), [("maskgit", "256"), ("maskgit-512", "512")])
def test_full_size_networks_have_the_published_keys_and_shapes(variant, entry):
    teacher, published = skeleton(blueprint(variant, {}, None)), MANIFEST[f"transformer_{entry}"]
    keys = MANIFEST["transformer_256"]["state_dict"]
    keys = {**keys, **published.get("state_dict_differences_from_256", {})}
    assert shapes_of(teacher.backbone) == keys
    assert sum(p.numel() for p in teacher.backbone.parameters()) == published["parameters"]
    assert shapes_of(teacher.tokenizer) == MANIFEST["vqgan"]["state_dict"]
    count = sum(p.numel() for p in teacher.tokenizer.parameters())
    assert count == MANIFEST["vqgan"]["parameters"]
    assert teacher.space.image_size == published["config"]["img_size"]
    assert len(teacher.class_names) == len(teacher.class_ids) == published["config"]["nclass"]


@pytest.mark.parametrize(("variant", "entry"), [("maskgit", "256"), ("maskgit-512", "512")])
def test_files_are_the_published_ones(variant, entry):
    drawing = blueprint(variant, {}, None)
    transformer, vqgan = MANIFEST[f"transformer_{entry}"], MANIFEST["vqgan"]
    for published, facts in ((drawing.backbone, transformer), (drawing.tokenizer, vqgan)):
        (file,) = published.files
        assert file.repo == facts["hub_repo"]
        assert file.path in (facts.get("file"), *facts.get("files", ()))
        assert (file.size, file.sha256) == (facts["file_bytes"], facts["sha256"])
        assert published.inside == facts["weights_under"]
    assert [file.path for file in drawing.other_files] == vqgan["files"][1:]


def test_published_configuration_is_what_is_built_without_it():
    config = {"model": {"params": MANIFEST["vqgan"]["model_yaml"]["params"]}}
    for variant in VARIANTS:
        read = blueprint(variant, {}, lambda _: config)
        assert read.architecture == blueprint(variant, {}, None).architecture


def test_impossible_settings_are_refused():
    with pytest.raises(SpecError, match=r"`teacher.architecture.heads` is 7: .* hidden_dim"):
        blueprint("maskgit", {"heads": 7}, None)
    with pytest.raises(SpecError, match=r"`teacher.architecture.depht` is not a setting"):
        blueprint("maskgit", {"depht": 7}, None)
