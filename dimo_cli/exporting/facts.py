"""What is to be known of a program without dimo: its inputs, and Python that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from dimo_cli import __version__
from dimo_cli.engine.masking import masked_count
from dimo_cli.engine.one_step import CHUNK_TOKENS
from dimo_cli.engine.schedules import middle_mask_ratio
from dimo_cli.exporting.program import EMBED_NOISE, NOISE, TOKENS, most_images
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.protocol import Teacher, TokenSpace


def prompts_file(path: Path) -> Path:
    """Where the encoded prompts of a program are."""
    return path.with_suffix(".prompts.pt")


def program_facts(
    student: Student, spec: ExportSpec, program: ExportedProgram, path: Path
) -> dict[str, Any]:
    """Everything there is to know of a program without dimo."""
    teacher, manifest = student.teacher, student.manifest
    space = teacher.space
    (example,), _ = program.example_inputs or (({},), {})
    inputs = {
        name: {
            "shape": ["batch", *value.shape[1:]],
            "dtype": str(value.dtype).removeprefix("torch."),
            "what": meaning(name, teacher),
        }
        for name, value in example.items()
    }
    return {
        "made_by": f"dimo {__version__} with torch {torch.__version__}",
        "student_sha256": manifest.weights_sha256,
        "teacher": f"{teacher.name}@{teacher.revision}",
        "license": teacher.license,
        "call": "program(inputs): one dictionary of all inputs by name, on the CPU; for a GPU see "
        "torch.export.passes.move_to_device_pass",
        "batch": {"min": 1, "max": most_images(program)},
        "inputs": inputs,
        "output": {
            "shape": ["batch", 3, space.image_size, space.image_size],
            "dtype": "float32",
            "what": "images in [-1, 1], which some decoders overshoot",
        },
        "x_init": initial_facts(student, space),
        "sampling": sampling_facts(student, spec),
        **({} if teacher.takes_prompts else {"classes": list(teacher.class_names)}),
        "usage": usage(student, spec, path),
    }


def initial_facts(student: Student, space: TokenSpace) -> dict[str, int]:
    """The numbers that x_init is made of."""
    slots = space.length * space.groups
    ratio = torch.tensor(middle_mask_ratio(student.manifest.init.mask_ratio))
    return {
        "length": space.length,
        "groups": space.groups,
        "codes": space.codes,
        "mask_id": space.mask_id,
        "masked": int(masked_count(ratio, slots)),
        "vocab": space.vocab,
    }


def sampling_facts(student: Student, spec: ExportSpec) -> dict[str, Any]:
    """How tokens are drawn inside of the program."""
    if spec.greedy:
        return {"greedy": True}
    temperature = spec.temperature or student.manifest.temperature
    return {"temperature": temperature, "top_k": spec.top_k, "top_p": spec.top_p}


def meaning(name: str, teacher: Teacher) -> str:
    """An input in words."""
    known = {
        TOKENS: "initial tokens: `masked` of the length x groups slots, chosen at random, are "
        "`mask_id`, the others uniformly random below `codes`",
        NOISE: "standard Gumbel noise, which draws the tokens; zeros: the likeliest tokens",
        EMBED_NOISE: "standard normal noise, mixed into the token embeddings",
        "label": "number of the class in `classes`",
    }
    encoded = f"`{name}` of the text encoder of `{teacher.name}`, as in the file of prompts"
    return known.get(name, encoded if teacher.takes_prompts else f"condition `{name}`")


def usage(student: Student, spec: ExportSpec, path: Path) -> list[str]:
    """Lines of Python that need torch alone and draw what `dimo sample --seed 0` draws."""
    by_prompt = student.teacher.takes_prompts
    encoded = f'torch.load("{prompts_file(path).name}", weights_only=True)["condition"]'
    lines = [
        "import json, torch",
        f'facts = json.load(open("{path.with_suffix(".json").name}"))',
        f'program = torch.export.load("{path.name}").module()',
        f"condition = {encoded}" if by_prompt else 'condition = {"label": torch.tensor([0, 1])}',
        "draw, x = torch.Generator().manual_seed(0), facts['x_init']",
        "batch, length = len(next(iter(condition.values()))), x['length']",
        "tokens = torch.randint(x['codes'], (batch, length, x['groups']), generator=draw)",
        "order = torch.rand(batch, length * x['groups'], generator=draw).argsort(-1).argsort(-1)",
        "tokens[(order < x['masked']).view_as(tokens)] = x['mask_id']",
        f"inputs = {{'{TOKENS}': tokens, **condition}}",
    ]
    if student.manifest.init.embed_noise.sigma:
        lines += [
            f"width = facts['inputs']['{EMBED_NOISE}']['shape'][-1]",
            f"inputs['{EMBED_NOISE}'] = torch.randn(batch, length, width, generator=draw)",
        ]
    if not spec.greedy:
        lines += [
            f"rows = [len(part) for part in torch.zeros(batch * length).split({CHUNK_TOKENS})]",
            "drawn = [torch.empty(n, x['groups'], x['vocab']).exponential_(generator=draw)"
            " for n in rows]",
            f"inputs['{NOISE}'] = -torch.cat(drawn).log()"
            ".view(batch, length, x['groups'], x['vocab'])",
        ]
    return [
        *lines,
        "with torch.no_grad(): images = program(inputs)",
        "pixels = images.mul(127.5).add(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)",
    ]
