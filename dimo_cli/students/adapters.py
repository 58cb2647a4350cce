"""Adapters as files: peft's own, so that whatever reads peft reads them.

adapter_model.safetensors   A and B of every target
adapter_config.json         rank, alpha, and what the targets are called
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from dimo_cli.engine.lora import (
    A,
    B,
    adapter_targets,
    fingerprint,
    rank_and_alpha,
    trained_part,
    with_adapters,
)
from dimo_cli.errors import MissingError
from dimo_cli.files.sound import check_finite
from dimo_cli.files.writing import contiguous, file_sha256, whole_file, write_whole_text
from dimo_cli.hub.loading import fill
from dimo_cli.hub.published import StateDict
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LoraFacts,
    StudentManifest,
    TeacherFacts,
)
from dimo_cli.teachers.linear_maps import owner_of, target_names
from dimo_cli.teachers.protocol import Backbone

PREFIX = "base_model.model."
FACTOR = re.compile(rf"\.({A}|{B})\.weight$")
METADATA = {"format": "pt"}  # without which some readers refuse a file


def peft_names(weights: Mapping[str, Tensor]) -> StateDict:
    """Adapters under peft's names.

    A module whose own matrix has an adapter is wrapped there, so that its parts are in a
    `base_layer` of it.
    """
    places = {FACTOR.sub("", name) for name in weights}
    named = {}
    for name, tensor in weights.items():
        parts = FACTOR.sub("", name).split(".")
        inside = [
            f"{part}.base_layer" if ".".join(parts[: count + 1]) in places else part
            for count, part in enumerate(parts[:-1])
        ]
        end = name[len(".".join(parts)) :]
        named[f"{PREFIX}{'.'.join([*inside, parts[-1]])}{end}"] = tensor
    return named


def our_names(weights: Mapping[str, Tensor]) -> StateDict:
    """Adapters under their names in a network."""
    return {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): tensor
        for name, tensor in weights.items()
    }


def adapters_sha256(weights: Mapping[str, Tensor]) -> str:
    """The hash that a file of adapters has, or would have."""
    return hashlib.sha256(save(peft_names(weights), METADATA)).hexdigest()


def write_adapters(network: Backbone, folder: Path, base: str, teacher: TeacherFacts) -> str:
    """Write a network's adapters, if they are finite, and return their hash."""
    weights = contiguous(trained_part(network))
    check_finite(weights, "this student")
    path = folder / ADAPTER_WEIGHTS
    with whole_file(path) as temporary:
        save_file(peft_names(weights), temporary, METADATA)
    config = adapter_config(network, base, teacher)
    write_whole_text(folder / ADAPTER_CONFIG, json.dumps(config, indent=2) + "\n")
    return file_sha256(path)


def adapter_config(network: Backbone, base: str, teacher: TeacherFacts) -> dict[str, Any]:
    """What peft has to know of adapters beside their weights."""
    targets = adapter_targets(network)
    modules = [target for target in targets if owner_of(network, target)[1] == "weight"]
    rank, alpha = rank_and_alpha(network)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "revision": teacher.revision,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "bias": "none",
        "target_modules": modules,
        "target_parameters": [target for target in targets if target not in modules] or None,
    }


def adapted_network(
    base: Backbone, manifest: StudentManifest, weights: StateDict, what: str
) -> Backbone:
    """A student's network: its teacher's, with the adapters of a file."""
    assert manifest.lora is not None
    check_base(base, manifest.teacher, what)
    named = our_names(weights)
    spec = lora_of(manifest.lora, targets_in(base, named, what))

    def make(target: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        down = torch.empty(spec.rank, shape[1], device="meta")
        return down, torch.empty(shape[0], spec.rank, device="meta")

    network = with_adapters(base, spec, make)
    fill(trained_part(network), named, what)
    return network


def lora_of(facts: LoraFacts, targets: Sequence[str]) -> LoraSpec:
    """The settings of a student's adapters, whose targets are known by their names."""
    escaped = tuple(re.escape(target) for target in targets)
    return LoraSpec(rank=facts.rank, alpha=facts.alpha, targets=escaped)


def targets_in(base: Backbone, weights: Mapping[str, Tensor], what: str) -> list[str]:
    """The targets of adapters that are in a file; refused where a network has no such place."""
    places = dict.fromkeys(FACTOR.sub("", name) for name in weights)
    known = {}
    for target in target_names(base):
        module, weight = target.rpartition(".")[::2]
        is_linear = owner_of(base, target)[1] == "weight" and weight != "weight"
        known[target if is_linear else module] = target
    if strange := [place for place in places if place not in known]:
        raise MissingError(
            f"{what} has an adapter for `{strange[0]}`, which this teacher does not have.",
            "Is it of a student of this very teacher?",
        )
    if not places:
        raise MissingError(f"{what} holds no adapter.", "Copy or download the student again.")
    return [known[place] for place in places]


def check_base(base: Backbone, teacher: TeacherFacts, what: str) -> None:
    """Refuse adapters over other weights than those that they were trained over."""
    if teacher.fingerprint is not None and fingerprint(base) != teacher.fingerprint:
        raise MissingError(
            f"{what} holds adapters over other weights of `{teacher.name}` than those here: "
            "together they would be no student.",
            f"Load the teacher at revision {teacher.revision}, as it was published.",
        )
