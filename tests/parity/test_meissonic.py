"""Meissonic and Monetico against golden numbers, and full-size networks against published files."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill
from dimo_cli.teachers import meissonic
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.meissonic import ROTARY_TABLES, MeissonicBackbone, rotary_table
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Cond
from tests.helpers import amused_style as checks
from tests.helpers.amused_style import TOLERANCE, load_case, rows_of
from tests.helpers.golden import manifest

MANIFEST, VQ_MANIFEST = manifest("meissonic"), manifest("amused")["vqvae"]
LAYOUTS = {"meissonic": "", "monetico": "_512"}


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request, golden):
    return load_case(
        golden, meissonic, MeissonicBackbone, request.param, "meissonic", LAYOUTS[request.param]
    )


@pytest.fixture(scope="module")
def schedules(golden):
    return golden("meissonic/schedules.json")


@torch.inference_mode()
def test_logits_are_those_of_the_official_network_with_and_without_guidance(case):
    checks.check_guided_logits(case, case.cond("cond", "timestep"), case.cond("uncond", "timestep"))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["vec", "float"])
def test_each_sample_has_a_time_of_its_own(case, kind):
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


def test_positions_are_rows_and_columns_of_the_grid_that_the_transformer_sees(case):
    rows, columns = case.backbone.inner_grid
    places = [[0, row, column] for row in range(rows) for column in range(columns)]
    assert case.io["img_ids"].tolist() == places
    assert not case.io["txt_ids"].any()


@torch.inference_mode()
def test_soft_tokens_are_mixed_before_the_norm(case):
    checks.check_soft_logits(case)


@torch.inference_mode()
def test_embedding_noise_goes_behind_the_token_embedding(case):
    checks.check_embedding_noise(case)


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
def test_taps_are_image_tokens_behind_double_blocks_then_single_blocks(case):
    doubles, singles = case.arch.num_layers, case.arch.num_single_layers
    cond = case.cond("cond", "timestep")
    taps = (0, doubles - 1, doubles, doubles + singles - 1)
    hidden, tapped = case.backbone.hidden(case.backbone.embed(case.tokens), cond, taps)
    image_tokens = case.io["img_ids"].shape[0]
    expected = {
        0: case.io["mid.mm_block_first_img"],
        doubles - 1: case.io["mid.mm_block_last_img"],
        doubles: case.io["mid.single_block_first"][:, -image_tokens:],
        doubles + singles - 1: case.io["mid.single_block_last"][:, -image_tokens:],
    }
    assert len(tapped) == len(set(taps))
    for index, output in zip(sorted(set(taps)), tapped, strict=True):
        assert_close(output, expected[index], **TOLERANCE)
    plain = case.backbone.hidden(case.backbone.embed(case.tokens), cond)
    assert torch.equal(hidden, plain)


def test_a_rotary_table_of_sampling_still_serves_training(case):
    ROTARY_TABLES.clear()
    with torch.inference_mode():
        case.backbone(case.tokens, case.cond())
    backbone = copy.deepcopy(case.backbone).requires_grad_(True)
    backbone(case.tokens, case.cond()).mean().backward()


def test_a_rotary_table_of_a_rehearsal_is_none_for_a_run(case):
    ROTARY_TABLES.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        rotary_table(case.backbone.axes, case.backbone.inner_grid, 3, torch.device("cpu"))
    table = rotary_table(case.backbone.axes, case.backbone.inner_grid, 3, torch.device("cpu"))
    assert table.isfinite().all().item()
    again = rotary_table(case.backbone.axes, case.backbone.inner_grid, 3, torch.device("cpu"))
    assert again is table


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
        fill(case.build(), case.weights | {"norm_out.weight": torch.zeros(1)}, "the file")


def test_the_plan_is_the_published_scheduler(case, schedules):
    checks.check_plan(case.blueprint.sampler.plan, schedules, told="timesteps")


def test_the_plan_leaves_as_many_masked_as_diffusers(case, generator):
    checks.check_counts_of_diffusers(case.blueprint.sampler.plan, generator)


def test_a_recorded_step_reveals_the_recorded_tokens(case, schedules, golden):
    step_io = golden("meissonic/scheduler_step.safetensors")
    plan = case.blueprint.sampler.plan
    checks.check_recorded_step(plan, schedules, step_io)
    drawn = step_io["pred_original_sample"]
    assert torch.equal(step_io["prev_sample_timestep0"], drawn)


def test_masks_of_training_follow_the_same_cosine(schedules, golden):
    step_io, example = golden("meissonic/scheduler_step.safetensors"), schedules["example_step"]
    steps = example["num_inference_steps"]
    ratio = SCHEDULES["cosine"](torch.tensor((steps - example["timestep"]) / steps))
    masked = step_io["add_noise_uniform"] < ratio
    expected = step_io["add_noise_clean"].masked_fill(masked, schedules["mask_token_id"])
    assert torch.equal(step_io["add_noise_out"], expected)


@pytest.mark.parametrize("variant", LAYOUTS)
def test_full_size_networks_have_exactly_the_published_tensors(variant):
    teacher = skeleton(meissonic.blueprint(variant, {}))
    expected = dict(MANIFEST["shapes"])
    count = MANIFEST["num_parameters"]
    if variant == "monetico":
        for name in MANIFEST["absent_without_down_upsample"]:
            count -= torch.Size(expected.pop(name)).numel()
        assert count == 998_555_648
    found = {name: list(t.shape) for name, t in teacher.backbone.state_dict().items()}
    assert found == expected
    assert sum(p.numel() for p in teacher.backbone.parameters()) == count
    decoder = {name: list(t.shape) for name, t in teacher.tokenizer.state_dict().items()}
    assert decoder == VQ_MANIFEST["shapes"]


@pytest.mark.parametrize(
    ("variant", "side", "steps"), [("meissonic", 64, 64), ("monetico", 32, 48)]
)
def test_the_blueprint_states_the_published_facts(variant, side, steps):
    plan = meissonic.blueprint(variant, {})
    assert plan.space.grid == (side, side)
    assert plan.space.length == side * side
    assert plan.space.image_size == 16 * side
    assert (plan.space.vocab, plan.space.codes, plan.space.mask_id) == (8192, 8192, 8255)
    assert (plan.sampler.steps, plan.sampler.guidance, plan.sampler.choice_noise) == (steps, 9, 2)
    assert plan.takes_prompts
    conditioner = skeleton(plan).conditioner
    assert conditioner.negative_prompt.startswith("worst quality, low quality")
    cond = conditioner.blank(2)
    assert cond.tensors["text"].shape == (2, 77, 1024)
    assert cond.tensors["pooled"].shape == (2, 1024)
    assert cond.tensors["micro"][0].tolist() == [16 * side, 16 * side, 0, 0, 6]


def test_full_size_planning_knows_the_smaller_grid_inside():
    teacher = skeleton(meissonic.blueprint("meissonic", {"num_layers": 1, "num_single_layers": 1}))
    cond = Cond({k: t.to("meta") for k, t in teacher.conditioner.blank(1).tensors.items()})
    tokens = torch.zeros(1, teacher.space.length, 1, dtype=torch.long, device="meta")
    hidden, (tap,) = teacher.backbone.hidden(teacher.backbone.embed(tokens), cond, taps=(1,))
    assert hidden.shape == (1, 4096, 1024)
    assert tap.shape == (1, 1024, 1024)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"widht": 3}, "widht` is not a setting"),
        ({"upsample": False}, "upsample` is False: .*as `downsample`"),
        ({"image_size": 1008}, "image_size` is 1008: .*multiple of 32"),
        ({"axes_dims_rope": [16, 56, 58]}, "axes_dims_rope.*add up to `attention_head_dim`"),
        ({"num_attention_heads": 4}, "pooled_projection_dim.*all attention heads"),
        ({"codebook_size": 8256}, "codebook_size.*below `vocab_size`"),
        ({"codebook_size": 4096}, "vqvae.*num_vq_embeddings"),
        ({"guidance_embeds": True}, "guidance_embeds` is True"),
        ({"vqvae": {"up_block_types": []}}, "vqvae.up_block_types.*as many blocks"),
    ],
)
def test_impossible_architectures_are_refused_by_name(override, said):
    with pytest.raises(SpecError, match=said):
        meissonic.blueprint("meissonic", override)
