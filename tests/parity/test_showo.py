"""Show-o's transformer against the numbers of the released code, on a tiny one with its names."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from dimo_cli.engine.many_steps import guided_head
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import finish
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.showo import blueprint
from dimo_cli.teachers.showo.text import text_part
from dimo_cli.teachers.showo.transformer import rotary_table, whole_mask
from tests.helpers.gradients import assert_gradient_matches_differences
from tests.helpers.published import showo_architecture


def assert_near(actual, expected, tolerance=1e-4, relative=1e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=relative)


# ---------------------------------------------------------------- the golden teacher


@pytest.fixture
def config(golden):
    return golden("showo/config.json")


@pytest.fixture
def io(golden):
    return golden("showo/io.safetensors")


@pytest.fixture
def drawing(config):
    """The blueprint of the golden networks."""
    return blueprint("showo", showo_architecture(config))


@pytest.fixture
def weights(golden):
    """Both golden state dicts."""
    return golden("showo/showo.safetensors"), golden("showo/magvitv2.safetensors")


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


def conditions(arch, io):
    """The recorded prompts, and the empty one as often, as conditions."""
    return tuple(Cond({"ids": io[name][:, : arch.text_length]})
                 for name in ("seq_cond", "seq_uncond"))  # fmt: skip


@pytest.fixture(params=["all places at once", "each prompt once"])
def case(teacher, io, request):
    """The recorded tokens with the recorded conditions, of which the second is the null one."""
    tokens = io["codes"].masked_fill(io["masked"], teacher.space.mask_id)[..., None]
    conds = conditions(teacher.backbone.arch, io)
    if request.param == "each prompt once":
        conds = tuple(teacher.backbone.prepared(cond) for cond in conds)
    return tokens, *conds


def test_token_space_is_that_of_the_golden_teacher(teacher, config):
    space, arch, golden = teacher.space, teacher.backbone.arch, config["golden"]
    assert (space.length, space.grid) == (config["num_vq_tokens"], tuple(golden["grid"]))
    assert (space.groups, space.vocab, space.codes) == (1, *(config["codebook_size"],) * 2)
    assert space.image_size == golden["image_px"]
    assert arch.first_code == golden["image_code_offset"]
    assert arch.first_code + space.mask_id == config["mask_token_id"] == arch.vocab_size - 1
    assert arch.vocab_size == config["vocab_size"]
    for name, number in golden["special_ids"].items():
        assert arch.special("[PAD]" if name == "pad" else f"<|{name}|>") == number


# ---------------------------------------------------------------- the sequence


def test_prompts_become_the_recorded_ids(teacher, config, io):
    arch, end = teacher.backbone.arch, config["golden"]["eos_token_id"]
    assert end == config["golden"]["bos_token_id"]
    ids = [[n for n in row if n >= 0] for row in io["prompt_ids"].tolist()]
    assert any(len(row) + 3 > arch.text_length for row in ids), "none of them is cut"
    for row, cond, null in zip(ids, io["seq_cond"], io["seq_uncond"], strict=True):
        assert text_part(row, end, arch) == cond[: arch.text_length].tolist()
        assert text_part([], end, arch) == null[: arch.text_length].tolist()
        assert text_part([end, *row], end, arch) == text_part(row, end, arch)


def test_a_sequence_is_prompt_start_image_and_end(teacher, io, case):
    arch, (tokens, *_) = teacher.backbone.arch, case
    image = io["seq_cond"][:, arch.text_length :]
    assert torch.equal(image[:, 1:-1], tokens.squeeze(-1) + arch.first_code)
    assert (image[:, 0] == arch.special("<|soi|>")).all()
    assert (image[:, -1] == arch.special("<|eoi|>")).all()
    assert torch.equal(io["seq_uncond"][:, arch.text_length :], image)


def test_who_sees_whom_is_recorded(teacher, io):
    arch = teacher.backbone.arch
    for name in ("cond", "uncond"):
        ids = io[f"seq_{name}"][:, : arch.text_length]
        allowed = whole_mask(teacher.backbone.is_text(ids), arch.num_vq_tokens + 2)
        assert torch.equal(allowed, io[f"allowed_{name}"])


# ---------------------------------------------------------------- the transformer


@torch.no_grad()
def test_logits_are_the_published_ones(backbone, io, case):
    tokens, cond, null = case
    assert_near(backbone(tokens, cond).squeeze(-2), io["logits_cond"])
    assert_near(backbone(tokens, null).squeeze(-2), io["logits_uncond"])


@torch.no_grad()
def test_guided_logits_are_the_published_ones(backbone, io, case):
    tokens, cond, null = case
    rows = torch.arange(tokens.shape[0] * tokens.shape[1])
    project = guided_head(backbone, tokens, cond, null, 1 + io["cfg_scale"].item())
    assert_near(project(rows).view_as(io["logits_cfg"]), io["logits_cfg"], 1e-3)


def watched(backbone):
    """What every part of a network gives in its next pass, by the published names."""
    seen = {}

    def remember(module, name, pick=lambda output: output):
        module.register_forward_hook(lambda _, given, got: seen.update({name: pick(got)}))

    for index, layer in enumerate(backbone.layers):
        remember(layer, f"layer{index}", lambda output: output[0])
    first = backbone.layers[0]
    first.register_forward_hook(lambda _, given, got: seen.update(embed=given[0]))
    remember(first.input_layernorm, "layer0.norm")
    remember(first.self_attn.q_layernorm, "layer0.q_norm")
    remember(first.self_attn.k_layernorm, "layer0.k_norm")
    remember(first.self_attn, "layer0.attn", lambda output: output[0])
    remember(first.self_attn, "own", lambda output: output[1])
    remember(first.mlp, "layer0.mlp")
    return seen


@torch.no_grad()
def test_every_intermediate_result_is_the_published_one(backbone, io, case, config, monkeypatch):
    import dimo_cli.teachers.showo.transformer as module

    turned, rotated = [], module.rotated
    monkeypatch.setattr(module, "rotated",
                        lambda *given: turned.append(rotated(*given)) or turned[-1])  # fmt: skip
    tokens, cond, _ = case
    seen = watched(backbone)
    final = backbone.hidden(backbone.embed(tokens), cond)
    width = backbone.arch.rotary_width
    seen |= {"layer0.q_rotated": turned[0][..., :width], "layer0.k_rotated": turned[1][..., :width]}
    names = {name.removeprefix("mid.") for name in io if name.startswith("mid.")}
    assert names == (seen.keys() - {"own"}) | {"rope_cos", "rope_sin", "position_ids", "final_norm"}
    for name in names & seen.keys():
        rows = seen[name].shape[-2]  # all, or those of the image alone
        assert_near(seen[name], io[f"mid.{name}"][..., -rows:, :])
    assert_near(final, io["mid.final_norm"][:, -tokens.shape[1] - 1 : -1])
    places = io["mid.position_ids"]
    assert torch.equal(places, torch.arange(len(places)))
    cosines, sines = rotary_table(backbone.arch, len(places), places.device)
    assert_near(cosines, io["mid.rope_cos"], 1e-6)
    assert_near(sines, io["mid.rope_sin"], 1e-6)


@torch.no_grad()
def test_logits_of_all_ids_at_all_places_are_the_published_ones(teacher, io, case):
    """Nothing here needs them but training a teacher."""
    backbone, (tokens, cond, _) = teacher.backbone, case
    rows = tokens.shape[1] + 2
    ids = cond.tensors["ids"]
    x = torch.cat([backbone.table[ids], backbone.framed(backbone.embed(tokens))], dim=1)
    rotary = rotary_table(backbone.arch, x.shape[1], x.device)
    for layer in backbone.layers:
        x, _ = layer(x, rotary, whole_mask(backbone.is_text(ids), rows), None)
    final = backbone.model["final_layernorm"](x)
    assert_near(final, io["mid.final_norm"])
    logits = backbone.lm_head(final)
    assert_near(logits, io["logits_full_cond"])
    codes = logits[:, -rows + 1 : -1, backbone.codes]
    assert_near(codes, io["logits_cond"])
    # A teacher is trained on what is masked, and on start and end of the image.
    assert torch.equal(io["train.seq_dropped"], io["seq_uncond"])
    of_image, labels = logits[:, -rows:], io["train.labels"][:, -rows:]
    loss = F.cross_entropy(of_image.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert_near(loss[None], io["train.loss"], 1e-5)


@torch.no_grad()
def test_soft_embeddings_are_expectations_over_codes(backbone, io, case, teacher):
    tokens, cond, _ = case
    probs, remask = io["soft_probs"][:, :, None], io["soft_remask"][..., None]
    assert_near(backbone.embed_probs(probs).squeeze(-2), io["soft_embeds"])
    hidden = backbone.hidden(backbone.embed_probs(probs), cond)
    assert_near(backbone.head(hidden).squeeze(-2), io["logits_soft"])
    one_hots = F.one_hot(io["codes"], teacher.space.vocab)[..., None, :].float()
    assert_near(
        backbone.embed_probs(one_hots, io["masked"][..., None]), backbone.embed(tokens), 1e-6
    )
    hidden = backbone.hidden(backbone.embed_probs(probs, remask), cond)
    assert_near(backbone.head(hidden).squeeze(-2), io["logits_soft_remasked"])


def test_the_gradient_of_probabilities_is_the_published_one(backbone, io, case):
    _, cond, _ = case
    probs = io["soft_probs"].clone().requires_grad_()
    embeds = backbone.embed_probs(probs[:, :, None], io["soft_remask"][..., None])
    logits = backbone.head(backbone.hidden(embeds, cond)).squeeze(-2)
    (logits * io["soft_probe"]).sum().backward()
    assert_near(probs.grad, io["grad_soft_probs"], 1e-3)
    assert not probs.grad[io["soft_remask"]].any()


@torch.no_grad()
def test_noise_goes_on_image_tokens_alone(backbone, io, case):
    tokens, cond, _ = case
    sigma = io["embed_noise_sigma"].item()
    embeds = math.sqrt(1 - sigma**2) * backbone.embed(tokens) + sigma * io["embed_noise"]
    logits = backbone.head(backbone.hidden(embeds, cond)).squeeze(-2)
    assert_near(logits, io["logits_embed_noise"])


@torch.no_grad()
def test_head_of_some_positions_is_a_part_of_the_whole(teacher, case, generator):
    backbone, (tokens, cond, _) = teacher.backbone, case
    hidden = backbone.hidden(backbone.embed(tokens), cond)
    whole = backbone.head(hidden).flatten(0, 1)
    rows = torch.randperm(len(whole), generator=generator)[: len(whole) // 3]
    picked = hidden.flatten(0, 1)[rows]
    assert_near(backbone.head(picked, rows % teacher.space.length), whole[rows], 1e-5)
    last = backbone.last_linear(picked)
    assert_near(F.linear(last.features, last.weight, last.bias), whole[rows].squeeze(-2), 1e-5)


@torch.no_grad()
def test_taps_are_the_image_tokens_after_the_layers_asked_for(backbone, io, case):
    tokens, cond, _ = case
    taps = range(len(backbone.layers))
    hidden, tapped = backbone.hidden(backbone.embed(tokens), cond, taps)
    assert torch.equal(hidden, backbone.hidden(backbone.embed(tokens), cond))
    for index, features in zip(taps, tapped, strict=True):
        assert_near(features, io[f"mid.layer{index}"][:, -tokens.shape[1] - 1 : -1])


def test_gradient_checkpointing_changes_no_gradient(teacher, case):
    tokens, cond, _ = case
    network = copy.deepcopy(teacher.backbone).requires_grad_(True).train()

    def gradients(checkpointing):
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        network(tokens, cond).square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert_near(recomputed, plain, 1e-6)


def test_frozen_embeddings_are_the_table_and_the_output(teacher):
    names = {id(parameter): name for name, parameter in teacher.backbone.named_parameters()}
    frozen = {names[id(parameter)] for parameter in teacher.backbone.embedding_parameters()}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}


def test_gradients_through_soft_embedding_and_decoding_are_right(teacher, generator, io):
    space, cond = teacher.space, conditions(teacher.backbone.arch, io)[0][:1]
    probs = torch.randn(1, space.length, 1, space.vocab, generator=generator).softmax(-1)
    mask = torch.rand(probs.shape[:-1], generator=generator) < 0.5
    backbone, tokenizer = teacher.backbone.double(), teacher.tokenizer.double()

    def logits(p):
        return backbone.head(backbone.hidden(backbone.embed_probs(p, mask), cond))

    for function in (backbone.embed_probs, logits, tokenizer.decode_probs):
        assert_gradient_matches_differences(function, probs, generator)
