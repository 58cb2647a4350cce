"""Muddit's published files: two transformers in one repository, and all else in Meissonic's."""

import pytest
import torch

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill
from dimo_cli.planning.downloads import needs_of
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers import muddit
from dimo_cli.teachers.amused_parts import settings
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.muddit import TEXT_HEAD, UNUSED_SETTINGS, VARIANTS
from dimo_cli.teachers.registry import load_skeleton
from tests.helpers.golden import manifest
from tests.parity.test_muddit import case

__all__ = ["case"]  # a fixture
MANIFEST, MEISSONIC, AMUSED = map(manifest, ("muddit", "meissonic", "amused"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_networks_have_exactly_the_published_tensors(variant):
    teacher = skeleton(muddit.blueprint(variant, {}))
    unbuilt = MANIFEST["not_in_meissonic"]
    assert list(unbuilt) == [TEXT_HEAD]
    found = {name: list(t.shape) for name, t in teacher.backbone.state_dict().items()}
    assert found == MEISSONIC["shapes"]
    assert len(found) + 1 == MANIFEST["num_tensors"]
    count = sum(p.numel() for p in teacher.backbone.parameters())
    assert count + torch.Size(unbuilt[TEXT_HEAD]).numel() == MANIFEST["num_parameters"]
    tokenizer = {name: list(t.shape) for name, t in teacher.tokenizer.state_dict().items()}
    assert tokenizer == AMUSED["vqvae"]["shapes"]


@pytest.mark.parametrize(("variant", "side"), [("muddit", 32), ("muddit-1024", 64)])
def test_the_blueprint_states_the_published_facts(variant, side):
    plan = muddit.blueprint(variant, {})
    assert (plan.space.grid, plan.space.length) == ((side, side), side * side)
    assert plan.space.image_size == 16 * side
    assert (plan.space.vocab, plan.space.codes, plan.space.mask_id) == (8192, 8192, 8255)
    assert (plan.sampler.steps, plan.sampler.guidance, plan.sampler.choice_noise) == (64, 9, 2)
    assert [step.time for step in plan.sampler.plan(4, 64, 9.0, 2.0)] == [0.75, 0.5, 0.25, 0]
    assert (plan.license, plan.takes_prompts) == ("Apache-2.0", True)
    teacher = skeleton(plan)
    assert teacher.backbone.inner_grid == (side // 2, side // 2)
    assert teacher.conditioner.negative_prompt.startswith("worst quality, low quality")
    cond = teacher.conditioner.blank(2)
    assert cond.tensors["text"].shape == (2, 77, 1024)
    assert cond.tensors["micro"][0].tolist() == [16 * side, 16 * side, 0, 0, 6]


@pytest.mark.parametrize(("variant", "size"), [("muddit", "512"), ("muddit-1024", "1024")])
def test_files_are_where_they_were_published(variant, size):
    plan = muddit.blueprint(variant, {})
    first = plan.backbone.files[0]
    assert (first.repo, first.path) == (MANIFEST["repo"], MANIFEST["files"][size])
    image_tokenizer = plan.tokenizer.files[0]
    published = MANIFEST["vqvae"]
    assert (image_tokenizer.repo, image_tokenizer.path) == (published["repo"], published["file"])
    own, *others = plan.other_files
    assert str(own) == f"{MANIFEST['repo']}/{size}/transformer/config.json"
    assert {file.repo for file in others} == {published["repo"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_config_files_describe_what_is_known_without_them(variant):
    transformer = {**MANIFEST["config"], "_class_name": "SymmetricTransformer2DModel"}

    def read(file):
        return MANIFEST["vqvae"]["config"] if file.path.startswith("vqvae") else transformer

    known = muddit.blueprint(variant, {})
    assert muddit.blueprint(variant, {}, read).architecture == known.architecture
    assert settings(transformer, UNUSED_SETTINGS).keys() <= known.architecture.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_text_head_is_downloaded_though_it_is_not_built(variant):
    """Nobody published a size: the header of a safetensors file is all that is not counted."""
    transformer = needs_of(TeacherSource(name=variant), load_skeleton(variant), ask_hub=False)[0]
    assert transformer.size == 4 * MANIFEST["num_parameters"]
    assert 0 < MANIFEST["file_bytes_expected"] - transformer.size < 2**20
    assert not transformer.is_exact


def test_loading_drops_the_text_head_by_name_and_refuses_all_else(case, golden):
    convert = case.blueprint.backbone.convert
    weights = golden("muddit/transformer.safetensors")
    assert weights.keys() - convert(weights).keys() == {TEXT_HEAD}
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    assert convert(compiled).keys() == convert(weights).keys()
    name = sorted(convert(weights))[-1]
    damaged = (
        {key: tensor for key, tensor in weights.items() if key != name},
        {**weights, "text_decoder.1.bias": torch.zeros(1)},
        {**weights, name: torch.zeros(1, 2, 3)},
    )
    for problem, broken in zip(("lacks", "has unknown", "differs"), damaged, strict=True):
        with pytest.raises(MissingError, match=problem):
            fill(case.build(), convert(broken), "the file")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"t5_dim": 2048}, "t5_dim` is 2048"),
        ({"told_time": "steps"}, "told_time` is 'steps'"),
        ({"upsample": False}, "upsample` is False: .*as `downsample`"),
        ({"image_size": 528}, "image_size` is 528: .*multiple of 32"),
        ({"codebook_size": 8256}, "codebook_size.*below `vocab_size`"),
    ],
)
def test_impossible_architectures_are_refused_by_name(override, said):
    with pytest.raises(SpecError, match=said):
        muddit.blueprint("muddit", override)


def test_pooled_text_of_any_width_is_taken():
    teacher = skeleton(muddit.blueprint("muddit", {"pooled_projection_dim": 768}))
    assert teacher.conditioner.blank(1).tensors["pooled"].shape == (1, 768)
    assert teacher.backbone.time_text_embed.text_embedder.linear_1.in_features == 1024
