"""What the presets cost: counted without weights, which takes a while, and kept beside them."""

from __future__ import annotations

import json
from functools import cache
from typing import TypedDict

from dimo_cli.planning.flops import flops_per_step
from dimo_cli.planning.hours import COSTS
from dimo_cli.planning.memory import advice_to_fit, blank_rewards, estimate_memory
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import preset_names, presets_folder, refine_preset_names, resolve_spec
from dimo_cli.teachers.registry import EMBEDDED, load_skeleton

FILE = presets_folder() / COSTS
SMALLER_GPUS = (24, 40, 80)


class Cost(TypedDict):
    """Of a training step as the preset has it, and of its teacher."""

    family: str
    parameters: int
    tokenizer_parameters: int
    memory: dict[str, int]
    flops_per_step: float
    advice: dict[str, str | None]
    """By the GiB of a GPU: what to change so that the run fits; null where it does."""


@cache
def spec_of(name: str) -> DistillSpec:
    """The spec of a preset of either kind, whatever the environment says."""
    model = RefineSpec if name in refine_preset_names() else DistillSpec
    return resolve_spec(model, preset=name, environment={}).spec


def cost_of(name: str) -> Cost:
    """Count what a preset costs."""
    spec = spec_of(name)
    teacher = load_skeleton(spec.teacher)
    on_gpu = spec.teacher.name not in EMBEDDED  # whose page speaks of minutes on a laptop
    memory = estimate_memory(teacher, spec, blank_rewards, on_gpu)
    return {
        "family": teacher.family,
        "parameters": sum(weight.numel() for weight in teacher.backbone.parameters()),
        "tokenizer_parameters": sum(weight.numel() for weight in teacher.tokenizer.parameters()),
        "memory": {
            "weights": memory.weights,
            "gradients_and_optimizers": memory.gradients_and_optimizers,
            "activations": memory.activations,
            "logits": memory.logits,
        },
        "flops_per_step": flops_per_step(teacher, spec),
        "advice": {
            str(gib): advice_to_fit(
                teacher, spec, memory, gib * 2**30, blank_rewards, on_gpu=on_gpu
            )
            for gib in SMALLER_GPUS
        },
    }


def write_costs() -> None:
    """Count all presets anew."""
    costs = {name: cost_of(name) for name in [*preset_names(), *refine_preset_names()]}
    FILE.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")


def read_costs() -> dict[str, Cost]:
    """What was counted last."""
    found: dict[str, Cost] = json.loads(FILE.read_text(encoding="utf-8"))
    return found
