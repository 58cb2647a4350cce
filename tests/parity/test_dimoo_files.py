"""Lumina-DiMOO's published files: an index, as many weights as it names, and what is refused."""

import pytest
import torch

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.planning.downloads import needs_of
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.dimoo import HEAD, PREFIX, blueprint
from dimo_cli.teachers.registry import load_skeleton, load_teacher
from tests.helpers.golden import manifest
from tests.helpers.published import publish_dimoo
from tests.parity.test_dimoo import drawing, weights

__all__ = ["drawing", "weights"]  # fixtures
MANIFEST, AMUSED = manifest("dimoo"), manifest("amused")
BACKBONE, IDS = MANIFEST["backbone"], MANIFEST["ids"]


def published_shapes():
    """Every key of the published files with its shape; all blocks are alike."""
    layers, block = BACKBONE["config"]["n_layers"], BACKBONE["shapes_of_each_block"]
    blocks = {f"{PREFIX}blocks.{index}.{name}": shape
              for index in range(layers) for name, shape in block.items()}  # fmt: skip
    return {**BACKBONE["shapes"], **blocks}


def test_the_full_size_network_has_the_published_tensors_but_for_the_output_rows_of_words():
    teacher, shapes = skeleton(blueprint("lumina-dimoo", {})), published_shapes()
    assert len(shapes) == BACKBONE["num_tensors"]
    rows, width = shapes[PREFIX + HEAD]
    shapes[PREFIX + HEAD] = [IDS["codes"], width]
    found = {PREFIX + name: list(t.shape) for name, t in teacher.backbone.state_dict().items()}
    assert found == shapes
    count = sum(p.numel() for p in teacher.backbone.parameters())
    assert count + (rows - IDS["codes"]) * width == BACKBONE["num_parameters"]
    tokenizer = {name: list(t.shape) for name, t in teacher.tokenizer.state_dict().items()}
    assert tokenizer == AMUSED["vqvae"]["shapes"]


def test_the_blueprint_states_the_published_facts():
    plan = blueprint("lumina-dimoo", {})
    backbone = skeleton(plan).backbone
    assert (plan.space.grid, plan.space.length, plan.space.image_size) == ((64, 64), 4096, 1024)
    assert plan.space.vocab == plan.space.codes == plan.space.mask_id == IDS["codes"]
    assert backbone.first_code == IDS["image_offset"]
    assert (backbone.mask_row, backbone.newline) == (IDS["mask"], IDS["newline"])
    assert backbone.before == (IDS["begin_answer"], IDS["begin_image"])
    assert backbone.behind == (IDS["end_image"], IDS["end_answer"])
    assert (plan.sampler.steps, plan.sampler.guidance, plan.sampler.choice_noise) == (64, 5, 1)
    assert plan.takes_prompts


def test_the_published_config_files_describe_what_is_known_without_them():
    network = {**BACKBONE["config"], "architectures": ["LLaDA"], "init_std": 0.02}
    known = blueprint("lumina-dimoo", {}).architecture
    vqvae = MANIFEST["vqvae"]["config"]
    found = blueprint("lumina-dimoo", {}, lambda f: vqvae if "vqvae" in f.path else network)
    assert found.architecture == {**known, "embedding_size": BACKBONE["config"]["embedding_size"]}


def test_tables_have_the_rows_of_the_embedding_where_the_vocabulary_says_otherwise():
    plan = blueprint("lumina-dimoo", {"vocab_size": 126_464, "embedding_size": 134_548})
    assert skeleton(plan).backbone.first_code == IDS["image_offset"]


def test_the_download_is_that_of_half_precision_and_all_output_rows():
    needs = needs_of(
        TeacherSource(name="lumina-dimoo"), load_skeleton("lumina-dimoo"), ask_hub=False
    )
    assert needs[0].size == BACKBONE["bytes_bf16"]
    assert not needs[0].is_exact


def test_loading_refuses_a_missing_an_unknown_and_a_misshapen_weight(drawing, weights):
    name = sorted(weights)[0]
    damaged = (
        {key: tensor for key, tensor in weights.items() if key != name},
        {**weights, "model.transformer.wpe.weight": torch.zeros(1)},
        {**weights, name: torch.zeros(1, 2, 3)},
    )
    for problem, broken in zip(("lacks", "has unknown", "differs"), damaged, strict=True):
        with pytest.raises(MissingError, match=problem):
            fill(on_meta(drawing.build_backbone), drawing.backbone.convert(broken), "the files")


def test_all_files_of_the_index_are_fetched_and_counted_once_it_is_here(fake_hub, golden, weights):
    source = TeacherSource(name="lumina-dimoo", architecture=publish_dimoo(fake_hub, golden))
    before = needs_of(source, load_skeleton(source))[0]
    assert (before.state, before.is_exact) == ("to download", False)
    teacher = load_teacher(source)
    table = weights[f"{PREFIX}wte.weight"]
    assert torch.equal(teacher.backbone.wte.weight, table)
    here = {need.file.path: need.size for need in needs_of(source, load_skeleton(source))}
    assert here == {path: len(data) for (_, path), data in fake_hub.files.items()}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"n_heads": 30}, "n_heads` is 30: .*must be an even part of d_model"),
        ({"n_kv_heads": 8}, "n_kv_heads` is 8: .*must be as `n_heads`"),
        ({"block_type": "sequential"}, "block_type` is 'sequential'"),
        ({"mask_token_id": 130_000}, "vqvae.*`mask_token_id` is 130000"),
        ({"image_size": 1000}, "image_size` is 1000: .*must be a multiple of 16"),
        ({"depth": 3}, "depth` is not a setting"),
    ],
)
def test_impossible_architectures_are_refused_by_name(override, said):
    with pytest.raises(SpecError, match=said):
        blueprint("lumina-dimoo", override)
