"""Write a program, and compare the file with the student before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.exporting.facts import program_facts, prompts_file
from dimo_cli.exporting.program import TRACED_BATCH, Inputs, Program, constants, draw_inputs, trace
from dimo_cli.files.writing import file_sha256, patient_file, whole_files
from dimo_cli.sampling.samplers import condition
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Cond, Teacher

LIMIT = 1e-4
CHECKED_BATCHES, CHECK_SEED = (1, 2, 3), 0
EXAMPLES = 4  # captions that are encoded for an embedded text student when nobody names any


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    """Program and JSON; for a text student also the encoded prompts."""
    facts: dict[str, Any]
    """The content of the JSON."""


def export_student(student: Student, spec: ExportSpec, path: Path) -> Exported:
    """Write program, JSON and encoded prompts, after the file was loaded and compared."""
    check_exportable(student, spec)
    teacher = student.teacher
    prompts = chosen_prompts(teacher, spec)
    files = (path, path.with_suffix(".json"), *([prompts_file(path)] if prompts else []))
    with in_one_sentence(path), whole_files(files) as (program, about, *encoded):
        facts = write_program(student, spec, prompts, path, program)
        facts["program_sha256"] = file_sha256(program)
        about.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        for place in encoded:
            save_prompts(teacher, prompts, place)
    return Exported(files, facts)


def write_program(
    student: Student, spec: ExportSpec, prompts: tuple[str, ...], path: Path, temporary: Path
) -> dict[str, Any]:
    """Trace, write to `temporary` and compare: the facts of what is to be at `path`."""
    name = student.teacher.name
    cond = some_conditions(student.teacher, prompts, max(CHECKED_BATCHES))
    expected = [original(student, cond[:count], spec) for count in CHECKED_BATCHES]
    with torch.no_grad(), traceable(name):
        program = trace(
            Program(student, spec).eval(),
            draw_inputs(student, cond[:TRACED_BATCH], spec, CHECK_SEED),
        )
    facts = program_facts(student, spec, program, path)
    with patient_file(temporary) as file, traceable(name):
        torch.export.save(program, file, extra_files={"dimo.json": json.dumps(facts)})
    given = [draw_inputs(student, cond[:count], spec, CHECK_SEED) for count in CHECKED_BATCHES]
    difference = compare(temporary, given, expected)
    facts["check"] = {"images": list(CHECKED_BATCHES), "max_abs_difference": difference}
    return facts


def check_exportable(student: Student, spec: ExportSpec) -> None:
    """Refuse what a program could not do, before anything is computed."""
    control = student.manifest.init.control
    if control != "none":
        raise SpecError(
            f"This student was distilled with `init.control={control}`: its initial sequence is an "
            "experiment that an exported program does not describe.",
            "Export a student that starts from mask and image tokens.",
        )
    if spec.prompts and not student.teacher.takes_prompts:
        raise SpecError(
            f"`{student.teacher.name}` takes classes, not prompts.",
            "Leave `--prompt` out: the classes are inputs of the program.",
        )


def chosen_prompts(teacher: Teacher, spec: ExportSpec) -> tuple[str, ...]:
    """The prompts that are saved beside the program: those asked for, or a few examples."""
    if not isinstance(teacher.conditioner, PromptConditioner):
        return ()
    return spec.prompts or tuple(teacher.conditioner.dataset[:EXAMPLES]) or ("",)


def some_conditions(teacher: Teacher, prompts: tuple[str, ...], count: int) -> Cond:
    """Conditions of the prompts in turn, or of classes from the first to the last."""
    if teacher.takes_prompts:
        return condition(teacher, [prompts[index % len(prompts)] for index in range(count)])
    classes = len(teacher.class_names)
    return condition(teacher, [index * (classes - 1) // (count - 1) for index in range(count)])


def original(student: Student, cond: Cond, spec: ExportSpec) -> Tensor:
    """What the student itself draws, in the program's precision."""
    return replace(student, precision="fp32").sample(
        cond,
        torch.Generator().manual_seed(CHECK_SEED),
        temperature=spec.temperature,
        top_k=1 if spec.greedy else spec.top_k,
        top_p=spec.top_p,
    )


def compare(path: Path, given: list[Inputs], expected: list[Tensor]) -> float:
    """The largest difference between the program of a file and the student itself."""
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    with torch.no_grad():
        pairs = [(program(inputs), images) for inputs, images in zip(given, expected, strict=True)]
    # Of torch: Python's own maximum passes over a difference that is NaN.
    difference = float(torch.stack([(found - images).abs().max() for found, images in pairs]).max())
    if not difference <= LIMIT:
        raise SpecError(
            f"The exported program differs from the student by {difference:.2g}, where at most "
            f"{LIMIT:g} is allowed: nothing was written.",
            "Please report this, with the student's teacher and your version of torch.",
        )
    return difference


@contextmanager
def traceable(teacher: str) -> Iterator[None]:
    """What torch says of a network that it cannot trace, in short."""
    try:
        yield
    except OSError:  # of the disk: torch writes files of its own on the way
        raise
    except Exception as error:  # tracing raises whatever the network does
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SpecError(
            f"The networks of `{teacher}` cannot be exported: {first_line}",
            "Set DIMO_DEBUG=1 for torch's own account.",
        ) from error


@contextmanager
def in_one_sentence(path: Path) -> Iterator[None]:
    """What the disk says of a file that cannot be written."""
    if path.is_dir():
        raise MissingError(f"Cannot write `{path}`: it is a folder.", "Choose another `--out`.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.",
            "Nothing was written. Make room, or choose another `--out`.",
        ) from error


def save_prompts(teacher: Teacher, prompts: tuple[str, ...], path: Path) -> None:
    """Write what the text encoder makes of prompts."""
    cond, fixed = condition(teacher, prompts), constants(teacher)
    tensors = {
        name: value.contiguous() for name, value in cond.tensors.items() if name not in fixed
    }
    with patient_file(path) as file:
        torch.save({"prompts": list(prompts), "condition": tensors}, file)
