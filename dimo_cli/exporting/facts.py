"""What a file says of itself: its inputs and its output, and Python that draws from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from dimo_cli import __version__
from dimo_cli.exporting.program import Program, PromptProgram, most_images
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student

ABOUT, WORDS = "dimo.json", "tokenizer.json"  # what is in the file beside the program
PROMPTS = ("a red circle", "two blue squares")

LOADED = {
    (".pt2", "label"): """
import torch
program = torch.export.load("FILE").module()
""",
    (".pt2", "tokens"): """
import torch
from tokenizers import Tokenizer
extra = {"tokenizer.json": ""}
program = torch.export.load("FILE", extra_files=extra).module()
words = Tokenizer.from_str(extra["tokenizer.json"])
""",
    (".onnx", "label"): """
import numpy, onnxruntime
program = onnxruntime.InferenceSession("FILE")
""",
    (".onnx", "tokens"): """
import numpy, onnxruntime
from tokenizers import Tokenizer
program = onnxruntime.InferenceSession("FILE")
words = Tokenizer.from_str(program.get_modelmeta().custom_metadata_map["tokenizer.json"])
""",
}
PLAIN = "{prompt}"  # a template with nothing around a prompt
DRAWN = {
    ".pt2": "image = program(torch.tensor([0, 1]), torch.tensor(WANTED))",
    ".onnx": "image, = program.run(None, "
    '{"seed": numpy.array([0, 1]), "NAME": numpy.array(WANTED)})',
}


def program_facts(
    student: Student, spec: ExportSpec, program: Program, traced: ExportedProgram, path: Path
) -> dict[str, Any]:
    """Everything there is to know of a program without dimo."""
    teacher, manifest = student.teacher, student.manifest
    side, by_prompt = teacher.space.image_size, program.wanted == "tokens"
    template = program.tower.template if isinstance(program, PromptProgram) else PLAIN
    around = "" if template == PLAIN else f" in `{template}`"
    meaning = (
        f"a prompt's token ids{around}, as `{WORDS}` in this file makes them with the package "
        "`tokenizers`"
        if by_prompt
        else "number of the class in `classes`"
    )
    (_, wanted), _ = traced.example_inputs or ((None, torch.empty(0)), {})
    return {
        "made_by": f"dimo {__version__} with torch {torch.__version__}",
        "student_sha256": manifest.weights_sha256,
        "teacher": f"{teacher.name}@{teacher.revision}",
        "license": teacher.license,
        "batch": {"min": 1, "max": most_images(traced)},
        "inputs": {
            "seed": {
                "shape": ["batch"],
                "dtype": "int64",
                "what": "any number: an image of its own for each",
            },
            program.wanted: {
                "shape": ["batch", *wanted.shape[1:]],
                "dtype": "int64",
                "what": meaning,
            },
        },
        "output": {
            "shape": ["batch", 3, side, side],
            "dtype": "float32",
            "what": "pictures from 0 to 1",
        },
        "sampling": sampling_facts(student, spec),
        **({} if by_prompt else {"classes": list(teacher.class_names)}),
        "usage": usage(program.wanted, path, template),
    }


def sampling_facts(student: Student, spec: ExportSpec) -> dict[str, Any]:
    """How tokens are drawn inside of the program: in one step, also where a student may more."""
    in_one = {"steps": 1} if student.steps > 1 else {}
    if spec.greedy:
        return {"greedy": True, **in_one}
    temperature = spec.temperature or student.manifest.temperature
    return {"temperature": temperature, "top_k": spec.top_k, "top_p": spec.top_p, **in_one}


def usage(wanted: str, path: Path, template: str = PLAIN) -> list[str]:
    """Lines of Python that draw two pictures from a file."""
    lines = LOADED[path.suffix, wanted].strip().replace("FILE", path.name).splitlines()
    by_prompt = wanted == "tokens"
    drawn = DRAWN[path.suffix].replace("NAME", wanted)
    last = drawn.replace("WANTED", wanted if by_prompt else "[0, 1]")
    text = "prompt" if template == PLAIN else f"f{template!r}"
    encoded = f"tokens = [words.encode({text}).ids for prompt in {list(PROMPTS)}]"
    return [*lines, *([encoded] if by_prompt else []), last]
