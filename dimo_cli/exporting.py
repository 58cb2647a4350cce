"""A student as a `torch.export` program: backbone and decoder in one file that needs only torch.

The program draws nothing itself. Initial tokens, condition and noise are its inputs, so that the
same inputs give the same images wherever it runs; the JSON beside it says how they are made. The
text encoder of a text student stays outside: its output is an input, and what it makes of the
prompts that are given is saved beside the program.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dimo_cli import __version__
from dimo_cli.engine.masking import masked_count
from dimo_cli.engine.sampling import CHUNK_TOKENS, filter_logits, student_input, token_noise
from dimo_cli.engine.schedules import add_noise, middle_mask_ratio
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub import file_sha256
from dimo_cli.samplers import condition
from dimo_cli.specs.export import ExportSpec
from dimo_cli.students import Student
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Cond, Teacher, TokenSpace

LIMIT = 1e-4
TRACED_BATCH, CHECKED_BATCHES, MOST_IMAGES = 2, (1, 2, 3), 4096
CHECK_SEED = 0
EXAMPLES = 4  # captions that are encoded for an embedded text student when nobody names any
TOKENS, NOISE, EMBED_NOISE = "x_init", "gumbel", "embed_noise"
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    """Program and JSON; for a text student also the encoded prompts."""
    facts: dict[str, Any]
    """The content of the JSON."""


class Program(nn.Module):
    """The whole pass of a student: its inputs by name to images in [-1, 1]."""

    def __init__(self, student: Student, spec: ExportSpec) -> None:
        super().__init__()
        self.backbone, self.tokenizer = student.backbone, student.teacher.tokenizer
        self.codes = student.teacher.space.codes
        self.sigma = student.manifest.init.embed_noise.sigma
        self.sampling = (spec.temperature or student.manifest.temperature, spec.top_k, spec.top_p)
        self.constants = tuple(constants(student.teacher))
        for name, value in constants(student.teacher).items():
            self.register_buffer(f"constant_{name}", value)

    def forward(self, inputs: Inputs) -> Tensor:
        """Images [B, 3, H, W] of inputs whose first dimension is the batch."""
        tokens = inputs[TOKENS]
        cond = Cond({name: value for name, value in inputs.items() if name not in DRAWN})
        for name in self.constants:
            value = self.get_buffer(f"constant_{name}")
            cond.tensors[name] = value.expand(tokens.shape[0], *value.shape)  # type: ignore[index]
        embeds = self.backbone.embed(tokens)
        if EMBED_NOISE in inputs:
            embeds = add_noise(embeds, self.sigma, inputs[EMBED_NOISE])
        hidden = self.backbone.hidden(embeds, cond)
        assert isinstance(hidden, Tensor)
        logits = self.backbone.head(hidden).float()
        if NOISE in inputs:
            logits = filter_logits(logits, *self.sampling) + inputs[NOISE]
        return self.tokenizer.decode(logits.argmax(-1).clamp(max=self.codes - 1), cond)


DRAWN = (TOKENS, NOISE, EMBED_NOISE)


def constants(teacher: Teacher) -> Mapping[str, Tensor]:
    """What the condition of every prompt has in common: it goes into the program."""
    conditioner = teacher.conditioner
    return conditioner.constants if isinstance(conditioner, PromptConditioner) else {}


def export_student(student: Student, spec: ExportSpec, path: Path) -> Exported:
    """Write program, JSON and encoded prompts, after the file was loaded and compared."""
    check_exportable(student, spec)
    with whole_file(path) as temporary:
        facts, prompts = write_program(student, spec, path, temporary)
    facts["program_sha256"] = file_sha256(path)
    files = [path, path.with_suffix(".json")]
    files[1].write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if prompts:
        files.append(prompts_file(path))
        save_prompts(student.teacher, prompts, files[2])
    return Exported(tuple(files), facts)


def write_program(
    student: Student, spec: ExportSpec, path: Path, temporary: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Trace, write to `temporary` and compare: the facts of the program, and its prompts."""
    teacher = student.teacher
    prompts = chosen_prompts(teacher, spec)
    cond = some_conditions(teacher, prompts, max(CHECKED_BATCHES))
    expected = [original(student, cond[:count], spec) for count in CHECKED_BATCHES]
    with torch.no_grad(), one_sentence(teacher.name):
        program = trace(
            Program(student, spec).eval(), draw_inputs(student, cond[:TRACED_BATCH], spec)
        )
    facts = describe(student, spec, program, path)
    torch.export.save(program, temporary, extra_files={"dimo.json": json.dumps(facts)})
    given = [draw_inputs(student, cond[:count], spec) for count in CHECKED_BATCHES]
    difference = compare(temporary, given, expected)
    facts["check"] = {"images": list(CHECKED_BATCHES), "max_abs_difference": difference}
    return facts, prompts


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
    """What the student itself draws."""
    return student.sample(
        cond,
        torch.Generator().manual_seed(CHECK_SEED),
        temperature=spec.temperature,
        top_k=1 if spec.greedy else spec.top_k,
        top_p=spec.top_p,
    )


def draw_inputs(student: Student, cond: Cond, spec: ExportSpec) -> Inputs:
    """The inputs with which the program draws what `original` draws."""
    space, init, count = student.teacher.space, student.manifest.init, len(cond)
    generator = torch.Generator().manual_seed(CHECK_SEED)
    tokens = student_input(space, student.teacher.tokenizer, init, count, generator)
    inputs = {TOKENS: tokens}
    fixed = constants(student.teacher)
    inputs |= {name: value for name, value in cond.tensors.items() if name not in fixed}
    if init.embed_noise.sigma:
        with torch.no_grad():
            shape = student.backbone.embed(tokens).shape
        inputs[EMBED_NOISE] = torch.randn(shape, generator=generator)
    if not spec.greedy:
        inputs[NOISE] = token_noise(space, count, generator)
    return {name: value.contiguous() for name, value in inputs.items()}


def trace(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The program for any number of images, with the weights that it uses alone."""
    program = trace_all(module, inputs)
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    unused = [
        held[node.name] for node in program.graph.nodes if node.name in held and not node.users
    ]
    return trace_all(without(module, unused), inputs) if unused else program


def trace_all(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The program with every weight there is. Networks may limit the batch, but not fix it."""
    batch = Dim.AUTO(min=1, max=MOST_IMAGES)
    shapes = ({name: {0: batch} for name in inputs},)
    program = torch.export.export(module, (inputs,), dynamic_shapes=shapes)
    if most_images(program) is None:
        raise ValueError(f"they fix the number of images, to {TRACED_BATCH} in this trace")
    return program


def most_images(program: ExportedProgram) -> int | None:
    """How many images go through a program at once; None where the number is fixed."""
    uppers = [int(bounds.upper) for bounds in program.range_constraints.values()]
    return min(uppers) if uppers else None


def without(module: nn.Module, names: list[str]) -> nn.Module:
    """The same module, sharing its weights, but for those of these names."""
    kept = [*module.parameters(), *module.buffers()]
    module = copy.deepcopy(module, {id(tensor): tensor for tensor in kept})
    for name in names:
        place, _, last = name.rpartition(".")
        setattr(module.get_submodule(place), last, None)
    return module


def compare(path: Path, given: list[Inputs], expected: list[Tensor]) -> float:
    """The largest difference between the program of a file and the student itself."""
    program = torch.export.load(path).module()
    with torch.no_grad():
        pairs = [(program(inputs), images) for inputs, images in zip(given, expected, strict=True)]
    difference = max(float((found - images).abs().max()) for found, images in pairs)
    if not difference <= LIMIT:
        raise SpecError(
            f"The exported program differs from the student by {difference:.2g}, where at most "
            f"{LIMIT:g} is allowed: nothing was written.",
            "Please report this, with the student's teacher and your version of torch.",
        )
    return difference


@contextmanager
def one_sentence(teacher: str) -> Iterator[None]:
    """What torch says of a network that it cannot trace, in short."""
    try:
        yield
    except Exception as error:  # tracing raises whatever the network does
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SpecError(
            f"The networks of `{teacher}` cannot be exported: {first_line}",
            "Set DIMO_DEBUG=1 for torch's own account.",
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when all went well."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.", "Choose another `--out`."
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def prompts_file(path: Path) -> Path:
    """Where the encoded prompts of a program are."""
    return path.with_suffix(".prompts.pt")


def save_prompts(teacher: Teacher, prompts: tuple[str, ...], path: Path) -> None:
    """Write what the text encoder makes of prompts."""
    cond, fixed = condition(teacher, prompts), constants(teacher)
    tensors = {
        name: value.contiguous() for name, value in cond.tensors.items() if name not in fixed
    }
    torch.save({"prompts": list(prompts), "condition": tensors}, path)


def describe(
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
