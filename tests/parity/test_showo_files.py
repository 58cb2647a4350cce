"""Show-o's published files: what is in them, and what is refused."""

import pytest
import torch

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.showo import VARIANTS, blueprint
from dimo_cli.teachers.showo.architecture import OF_PHI, Architecture
from tests.helpers.golden import manifest
from tests.parity.test_showo import config, drawing, weights

__all__ = ["config", "drawing", "weights"]  # fixtures
MANIFEST = manifest("showo")
BUFFERS = MANIFEST["magvitv2"]["buffers"]
PIXELS = {"showo": "256", "showo-512": "512"}


def shapes_of(network):
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def published_keys(entry):
    """Keys and shapes of the transformer's file."""
    keys = dict(entry["shapes"])
    for index in range(entry["layers"]["count"]):
        for name, shape in entry["layers"]["each"].items():
            keys[f"showo.model.layers.{index}.{name}"] = shape
    return keys


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_networks_have_the_published_keys_and_shapes(variant):
    teacher, entry, tokenizer = skeleton(blueprint(variant, {})), *list(MANIFEST.values())[:2]
    keys = published_keys(entry)
    assert len(keys) == entry["num_tensors"]
    assert {f"showo.{name}": shape for name, shape in shapes_of(teacher.backbone).items()} == keys
    assert sum(p.numel() for p in teacher.backbone.parameters()) == entry["num_parameters"]
    of_tokenizer = dict(tokenizer["shapes"])
    codes, bits = of_tokenizer.pop("quantize.embedding")
    assert of_tokenizer.pop("quantize.power_vals") == [bits]
    assert shapes_of(teacher.tokenizer) == of_tokenizer
    assert (teacher.space.codes, teacher.tokenizer.bits) == (codes, bits)
    for half in ("encoder", "decoder"):
        count = sum(p.numel() for p in getattr(teacher.tokenizer, half).parameters())
        assert count == tokenizer[f"{half}_parameters"]
    assert teacher.space.image_size == int(PIXELS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_are_the_published_ones(variant):
    drawing, (entry, tokenizer, phi) = blueprint(variant, {}), MANIFEST.values()
    (weights,), (pixels,) = drawing.backbone.files, drawing.tokenizer.files
    assert (weights.repo, weights.path) == (entry["repos"][PIXELS[variant]], entry["file"])
    assert weights.size in (None, entry["file_bytes"])
    assert (pixels.repo, pixels.path) == (tokenizer["repo"], tokenizer["file"])
    assert {file.repo for file in drawing.other_files} == {weights.repo, phi["repo"]}
    assert drawing.license == {"showo": "MIT", "showo-512": "Apache-2.0"}[variant]


def test_sizes_that_no_config_file_of_show_o_has_are_those_of_phi_and_of_the_manifest():
    arch, (_, tokenizer, phi) = Architecture(num_vq_tokens=256), MANIFEST.values()
    assert {name: getattr(arch, name) for name in OF_PHI} == {n: phi["config"][n] for n in OF_PHI}
    for half in ("encoder", "decoder"):
        sizes = getattr(arch.magvitv2, half).model_dump(mode="json")
        assert sizes == {name: tokenizer["config"][half][name] for name in sizes}
    assert arch.bits == tokenizer["config"]["codebook_dim"]
    assert (arch.first_code, arch.vocab_size - 1, arch.text_length) == (50305, 58497, 129)


@pytest.mark.parametrize("part", [0, 1])
def test_loading_refuses_a_missing_an_unknown_and_a_misshapen_weight(drawing, weights, part):
    network = (drawing.build_backbone, drawing.build_tokenizer)[part]
    published = (drawing.backbone, drawing.tokenizer)[part]
    name = sorted(weights[part].keys() - set(BUFFERS))[-1]
    damaged = (
        {key: tensor for key, tensor in weights[part].items() if key != name},
        {**weights[part], "mm_projector.0.weight": torch.zeros(1)},
        {**weights[part], name: torch.zeros(1, 2, 3)},
    )
    for problem, broken in zip(("lacks", "has unknown", "differs"), damaged, strict=True):
        with pytest.raises(MissingError, match=problem):
            fill(on_meta(network), published.convert(broken), "the file")


@pytest.mark.parametrize("buffer", BUFFERS)
def test_constants_of_the_quantizer_may_be_left_out_but_not_be_others(drawing, weights, buffer):
    tokenizer = weights[1]
    convert = drawing.tokenizer.convert
    without = {name: tensor for name, tensor in tokenizer.items() if name != buffer}
    assert convert(without).keys() == convert(tokenizer).keys() == tokenizer.keys() - set(BUFFERS)
    with pytest.raises(MissingError, match=buffer):
        convert({**tokenizer, buffer: tokenizer[buffer].flip(-1)})


def published_configs(config, **changes):
    """What the two config files of a repository say."""
    own = {**config, **changes}
    return lambda file: config["phi"] if "phi" in file.repo else own


def test_sizes_are_read_from_both_config_files(config):
    known = blueprint("showo", {}).architecture
    found = blueprint("showo", {}, published_configs(config)).architecture
    for name in OF_PHI:
        assert found[name] == config["phi"][name]
    for name in ("num_vq_tokens", "codebook_size", "llm_vocab_size"):
        assert found[name] == config[name]
    assert found["magvitv2"] == known["magvitv2"]


@pytest.mark.parametrize("change", [{"w_clip_vit": True}, {"mask_token_id": 1}, {"vocab_size": 7}])
def test_a_config_file_of_another_kind_of_model_is_refused(config, change):
    with pytest.raises(SpecError, match=f"showlab/show-o/config.json.*{next(iter(change))}"):
        blueprint("showo", {}, published_configs(config, **change))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_vq_tokens", 10),
        ("codebook_size", 100),
        ("num_attention_heads", 3),
        ("partial_rotary_factor", 0.01),
        ("magvitv2", {"encoder": {"ch_mult": [1, 1], "num_res_blocks": [1]}}),
        ("magvitv2", {"encoder": {"ch_mult": [1], "num_res_blocks": [1]}}),
        ("w", 1),
    ],
)
def test_impossible_settings_are_refused_by_name(key, value):
    with pytest.raises(SpecError, match=rf"`teacher\.architecture\.{key}"):
        blueprint("showo", {key: value})
