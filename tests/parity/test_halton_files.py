"""Halton-MaskGIT's published files: what is in them, and what is refused."""

import re

import pytest
import torch

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import skeleton
from dimo_cli.teachers.halton import VARIANTS, blueprint
from tests.helpers.golden import manifest
from tests.parity.test_halton import config, drawing, weights

__all__ = ["config", "drawing", "weights"]  # fixtures
MANIFEST = manifest("halton")


@pytest.mark.parametrize("part", [0, 1])
def test_loading_refuses_a_missing_an_unknown_and_a_misshapen_weight(drawing, weights, part):
    network = (drawing.build_backbone, drawing.build_tokenizer)[part]
    published = (drawing.backbone, drawing.tokenizer)[part]
    name = sorted(published.convert(weights[part]))[-1]
    damaged = (
        {key: tensor for key, tensor in weights[part].items() if key != name},
        {**weights[part], "ema.decay": torch.zeros(1)},
        {**weights[part], name: torch.zeros(1, 2, 3)},
    )
    for problem, broken in zip(("lacks", "has unknown", "differs"), damaged, strict=True):
        with pytest.raises(MissingError, match=problem):
            fill(on_meta(network), published.convert(broken), "the file")


def test_the_tied_matrix_may_be_listed_once_and_wrappers_may_stand_anywhere(drawing, weights):
    transformer = weights[0]
    plain = drawing.backbone.convert(transformer)
    once = {name: tensor for name, tensor in transformer.items() if name != "head.weight"}
    wrapped = {re.sub(r"^transformer\.", "transformer.module._orig_mod.", n): t
               for n, t in once.items()}  # fmt: skip
    for weights_of_file in (once, wrapped):
        assert drawing.backbone.convert(weights_of_file).keys() == plain.keys()
    untied = {**transformer, "head.weight": transformer["head.weight"] + 1}
    with pytest.raises(MissingError, match=r"`head\.weight` and `tok_emb\.weight` differ"):
        drawing.backbone.convert(untied)


ENTRIES = {name: f"transformer_{facts.pixels}_{facts.size}" for name, facts in VARIANTS.items()}
TOKENIZER = MANIFEST["tokenizer"]


def published_keys(entry):
    """Keys and shapes of a published file, as they are called here."""
    base = MANIFEST[entry.get("state_dict_same_as", "")] if "state_dict_same_as" in entry else entry
    keys = base["state_dict"] | entry.get("state_dict_differences_from_256", {})
    assert keys["head.weight"] == keys["tok_emb.weight"]
    return {"bias" if name == "head.bias" else name: shape
            for name, shape in keys.items() if name != "head.weight"}  # fmt: skip


def shapes_of(network):
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_networks_have_the_published_keys_and_shapes(variant):
    teacher, entry = skeleton(blueprint(variant, {})), MANIFEST[ENTRIES[variant]]
    assert shapes_of(teacher.backbone) == published_keys(entry)
    assert sum(p.numel() for p in teacher.backbone.parameters()) == entry["parameters"]
    keys = {**TOKENIZER["state_dict"]}
    del keys["quantize.codebook_used"]
    assert shapes_of(teacher.tokenizer) == keys
    assert sum(p.numel() for p in teacher.tokenizer.parameters()) == TOKENIZER["parameters"]
    assert teacher.space.image_size == entry["config"]["img_size"]
    assert len(teacher.class_names) == len(teacher.class_ids) == entry["config"]["nclass"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_are_the_published_ones(variant):
    drawing, entry = blueprint(variant, {}), MANIFEST[ENTRIES[variant]]
    for published, facts in ((drawing.backbone, entry), (drawing.tokenizer, TOKENIZER)):
        (file,) = published.files
        assert (file.repo, file.path) == (facts["hub_repo"], facts["file"])
        assert (file.size, file.sha256) == (facts["file_bytes"], facts["sha256"])
        assert published.inside == facts["weights_under"]
    assert 4 * entry["parameters"] * drawing.backbone.copies == entry["tensor_bytes_expected"]


def test_there_is_a_variant_for_every_published_transformer():
    assert {*ENTRIES.values(), "tokenizer"} == MANIFEST.keys()


@pytest.mark.parametrize(("key", "value"), [("heads", 385), ("ch", 48), ("ch_mult", ()), ("w", 1)])
def test_impossible_settings_are_refused_by_name(key, value):
    with pytest.raises(SpecError, match=rf"`teacher\.architecture\.{key}"):
        blueprint("halton-tiny", {key: value})
