"""Write a program, and compare the file with the student before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.exporting.facts import ABOUT, WORDS, program_facts
from dimo_cli.exporting.formats import FORMATS, Runs
from dimo_cli.exporting.program import (
    TRACED_BATCH,
    Program,
    PromptProgram,
    as_picture,
    program_of,
    student_draws,
    text_tower,
    trace,
)
from dimo_cli.files.writing import file_sha256, whole_file
from dimo_cli.sampling.samplers import condition
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Cond, Teacher

LIMIT = 1e-4
CHECKED_BATCHES, CHECK_SEED = (1, 2, 3), 0
EXAMPLES = ("a red circle", "two blue squares", "")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    facts: dict[str, Any]
    """What the file says of itself, how it was compared, and its hash."""


def export_student(student: Student, spec: ExportSpec, path: Path) -> Exported:
    """Write a program to a `.pt2` or `.onnx` file, once it was loaded and compared."""
    FORMATS[path.suffix].check()
    check_exportable(student)
    with in_one_sentence(path), whole_file(path) as temporary:
        facts = write_program(student, spec, path, temporary)
        facts["sha256"] = file_sha256(temporary)
    return Exported(path, facts)


def write_program(
    student: Student, spec: ExportSpec, path: Path, temporary: Path
) -> dict[str, Any]:
    """Trace, write to `temporary` and compare: the facts of what is to be at `path`."""
    teacher, form = student.teacher, FORMATS[path.suffix]
    asked = examples(teacher, max(CHECKED_BATCHES))
    wanted, cond = wanted_tensor(teacher, asked), condition(teacher, asked)
    seeds = torch.arange(len(wanted))
    program = program_of(student, spec)
    own = compare_draws(student, spec, program, cond)
    with torch.no_grad(), traceable(teacher.name):
        traced = trace(program, (seeds[:TRACED_BATCH], wanted[:TRACED_BATCH]))
    facts = program_facts(student, spec, program, traced, path)
    texts = {ABOUT: json.dumps(facts)}
    if isinstance(program, PromptProgram):
        texts[WORDS] = checked_words(program, asked, wanted)
    with traceable(teacher.name):
        form.save(traced, program.wanted, texts, temporary)
        found = compare_file(form.load(temporary), program, seeds, wanted)
    check = {"images": list(CHECKED_BATCHES), "max_abs_difference": max(own, found)}
    return {**facts, "check": check}


def check_exportable(student: Student) -> None:
    """Refuse what a program could not do, before anything is computed."""
    control = student.manifest.init.control
    if control != "none":
        raise SpecError(
            f"This student was distilled with `init.control={control}`: its initial sequence is an "
            "experiment that an exported program does not make.",
            "Export a student that starts from mask and image tokens.",
        )
    student.check_one_step("an exported program is a single pass")
    student.check_no_latent("an exported program does not")
    if student.teacher.takes_prompts:
        text_tower(student.teacher)


def examples(teacher: Teacher, count: int) -> list[int | str]:
    """Prompts to compare a program with, or classes from the first to the last."""
    if isinstance(teacher.conditioner, PromptConditioner):
        return list(teacher.conditioner.dataset[:count] or EXAMPLES)
    last = len(teacher.class_names) - 1
    return [index * last // (count - 1) for index in range(count)]


def wanted_tensor(teacher: Teacher, asked: Sequence[int | str]) -> Tensor:
    """Prompts or classes as the second input of a program."""
    if teacher.takes_prompts:
        return text_tower(teacher).tokens([str(prompt) for prompt in asked])
    return torch.tensor([int(label) for label in asked])


def checked_words(program: PromptProgram, asked: Sequence[int | str], wanted: Tensor) -> str:
    """What makes token ids of prompts, once it made those of the examples."""
    from tokenizers import Tokenizer

    text = program.tower.tokenizer_json()
    words = Tokenizer.from_str(text)
    texts = [program.tower.template.format(prompt=prompt) for prompt in asked]
    if [words.encode(text).ids for text in texts] != wanted.tolist():
        raise SpecError(
            "The tokenizer that an exported program brings along reads prompts in another way "
            "than the student: nothing was written.",
            "Please report this, with the student's teacher and your version of transformers.",
        )
    return text


def original(student: Student, cond: Cond, spec: ExportSpec) -> Tensor:
    """What the student itself draws, in the program's precision."""
    return replace(student, precision="fp32").sample(
        cond,
        torch.Generator().manual_seed(CHECK_SEED),
        temperature=spec.temperature,
        top_k=1 if spec.greedy else spec.top_k,
        top_p=spec.top_p,
    )


@torch.no_grad()
def compare_draws(student: Student, spec: ExportSpec, program: Program, cond: Cond) -> float:
    """How far what a program makes of the student's own draws is from what the student does."""
    pairs = []
    for count in CHECKED_BATCHES:
        draws = student_draws(student, spec, count, CHECK_SEED)
        own = original(student, cond[:count], spec)
        pairs.append((as_picture(program.paint(draws, cond[:count])), as_picture(own)))
    return largest_difference(pairs)


@torch.no_grad()
def compare_file(runs: Runs, program: Program, seeds: Tensor, wanted: Tensor) -> float:
    """How far what a file draws is from what the program in memory does."""
    pairs = [
        (runs(seeds[:count], wanted[:count]), program(seeds[:count], wanted[:count]))
        for count in CHECKED_BATCHES
    ]
    return largest_difference(pairs)


def largest_difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Of pairs of pictures; refused where it is too large, or no number."""
    # Of torch: Python's own maximum passes over a difference that is NaN.
    difference = float(torch.stack([(found - own).abs().max() for found, own in pairs]).max())
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
    except (OSError, DimoError):  # of the disk, as torch writes on the way; or said well already
        raise
    except Exception as error:  # tracing raises whatever the network does
        raise SpecError(
            f"The networks of `{teacher}` cannot be exported: {first_cause(error)}",
            "Set DIMO_DEBUG=1 for torch's own account.",
        ) from error


def first_cause(error: BaseException) -> str:
    """The first line of what an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


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
