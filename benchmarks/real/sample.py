"""One-step images a second as the program draws them, and what half precision does to a picture.

The student is the teacher's network with random weights: what it draws is noise, but it costs what
a picture costs. Tokens and decoding are timed apart as well, first as they are, then compiled.
"""

import math
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import seconds
from benchmarks.networks import MEISSONIC_SMALL, random_teacher
from benchmarks.real.pieces import Found, Keep, Piece, Row, Setting, alternate, measure_pieces
from benchmarks.real.profiling import busiest
from dimo_cli import __version__
from dimo_cli.specs.init import InitSpec
from dimo_cli.specs.manifest import StudentManifest, TeacherFacts, TrainingFacts
from dimo_cli.students.student import Student
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.teachers.decoding import compile_decoder, decode
from dimo_cli.training.precision import tf32

# Family: batch, sizes with --tiny, images a second that are asked for, those of 2026-11-26.
SHAPES: dict[str, tuple[int, dict[str, Any], float, tuple[float, float | None]]] = {
    "maskbit": (
        64,
        {"hidden_dim": 64, "depth": 2, "heads": 2, "mlp_dim": 128, "hidden_channels": 32},
        1800,
        (574, 993),
    ),
    "meissonic": (
        8,
        {**MEISSONIC_SMALL, "image_size": 128, "num_single_layers": 2},
        30,
        (7.9, None),
    ),
}
TINY_BATCH = 2


def measure(setting: Setting, keep: Keep, only: str | None = None) -> dict[str, Any]:
    """Every shape, or one of them."""
    pieces: dict[str, Piece] = {
        name: partial(measure_shape, name) for name in SHAPES if only in (None, name)
    }
    return measure_pieces("sample", pieces, setting, keep)


def measure_shape(name: str, setting: Setting) -> Found:
    """Speed before and after compiling, and the error of a decoder in half precision."""
    batch, tiny, asked, (eager_before, compiled_before) = SHAPES[name]
    batch = TINY_BATCH if setting.tiny else batch
    teacher = random_teacher(name, tiny if setting.tiny else None, setting.device)
    student = student_of(name, teacher)
    drawing = Drawing(student, batch, setting.device)
    error = decoding_error(drawing)
    eager = alternate(drawing.calls(), setting)
    details: dict[str, Any] = {"batch": batch, "decoding_error": error, "eager": eager}
    size = f"{name} {teacher.space.image_size} px, batch {batch}"
    rows = [
        speed_row(f"{size}, eager", batch, eager, None, eager_before),
        Row(f"{name} decoding against float32: mean error", error["mean_bytes"], unit="of 255"),
        Row(
            f"{name} decoding against float32: largest error", error["largest_bytes"], unit="of 255"
        ),
    ]
    if setting.device.type == "cuda":
        compile_blocks(student.backbone, print)
        compile_decoder(teacher.tokenizer, print)
        details["seconds_to_compile"] = seconds(drawing.image)
        details["compiled"] = alternate(drawing.calls(), setting)
        details["compiled_decoding_error"] = decoding_error(drawing)
        details["profile"] = busiest(drawing.image, setting)
        rows.append(speed_row(size, batch, details["compiled"], asked, compiled_before))
    return Found(rows, details)


def speed_row(
    what: str, batch: int, times: dict[str, Any], asked: float | None, before: float | None
) -> Row:
    """Images a second."""
    speed = batch / times["image"]["median"]
    return Row(f"one-step {what}", speed, asked, "higher", "images/s", before)


def student_of(name: str, teacher: Any) -> Student:
    """A student that is its teacher's network."""
    manifest = StudentManifest(
        dimo_version=__version__,
        teacher=TeacherFacts(name=name, family=name, revision="random", license="none"),
        init=InitSpec(),
        training=TrainingFacts(),
        weights_sha256="0" * 64,
    )
    return Student(manifest, teacher, teacher.backbone)


class Drawing:
    """One batch of images of a student: as a whole, and its two halves alone."""

    def __init__(self, student: Student, batch: int, device: torch.device) -> None:
        self.student = student
        self.generator = torch.Generator(device).manual_seed(0)
        self.cond = student.teacher.conditioner.draw(batch, self.generator).to(device)
        self.drawn = self.tokens()

    def tokens(self) -> torch.Tensor:
        """The network's pass, and the draw."""
        return self.student.tokens(self.cond, self.generator)

    def image(self) -> None:
        """From conditions to pixels."""
        self.student.sample(self.cond, self.generator)

    def paint(self) -> None:
        """From tokens to pixels."""
        self.student.decode(self.drawn, self.cond)

    def calls(self) -> dict[str, Any]:
        """What is timed in turn."""
        return {"image": self.image, "tokens": self.tokens, "decode": self.paint}


def decoding_error(drawing: Drawing) -> dict[str, float]:
    """The program's decoding against one in float32 without TF32, in steps of a byte."""
    teacher, tokens, cond = drawing.student.teacher, drawing.drawn, drawing.cond
    with tf32(False):
        exact = decode(teacher, tokens, cond, "fp32")
    difference = (decode(teacher, tokens, cond) - exact) * 127.5
    square = difference.square().mean().item()
    return {
        "mean_bytes": difference.abs().mean().item(),
        "largest_bytes": difference.abs().max().item(),
        "psnr": 10 * math.log10(255**2 / square) if square else math.inf,
        "contrast_bytes": exact.std().item() * 127.5,
    }
