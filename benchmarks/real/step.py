"""A training step beside the released recipe, plainly written: time, arithmetic, memory.

Both sides have their own networks of the same weights, in the same run: the same batch, bf16
autocast, TF32, masking schedule and attention kernels, no dropout on either side. Ours is what the
trainer makes of the step on a card: compiled blocks, the frozen teacher kept in bf16, and the step
recorded where the card would wait for Python.
"""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import peak_bytes
from benchmarks.networks import MEISSONIC_SMALL, random_teacher
from benchmarks.plain import Recipe
from benchmarks.real.pieces import Found, Keep, Piece, Row, Setting, alternate, measure_pieces
from benchmarks.real.profiling import busiest
from benchmarks.step import Autocast, Ours, Plain, autocast_on, our_spec
from dimo_cli.engine.capture import REPLAYS, WARM_UP, CapturedStep, obstacle
from dimo_cli.engine.share import divide, local_train
from dimo_cli.planning.flops import flops_per_step
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.training.precision import store_in_bf16, tf32

CARDS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # bf16, dense
Side = Ours | Plain


@dataclass(frozen=True)
class Shape:
    """A family at a batch, what is asked of its step, and what it was on 2026-11-26."""

    family: str
    batch: int
    tiny: dict[str, Any]
    utilization: tuple[float, float]
    time: tuple[float, float]
    memory: tuple[float, float]
    shared_memory: tuple[float, float] | None = None


SHAPES = {
    "maskbit": Shape(
        "maskbit",
        64,
        {"hidden_dim": 64, "depth": 2, "heads": 2, "mlp_dim": 128, "hidden_channels": 32},
        utilization=(0.45, 0.30),
        time=(0.65, 0.88),
        memory=(0.85, 0.95),
        shared_memory=(1.05, 1.76),
    ),
    "meissonic": Shape(
        "meissonic",
        4,
        {**MEISSONIC_SMALL, "image_size": 128, "num_single_layers": 2},
        utilization=(0.35, 0.06),
        time=(0.45, 0.82),
        memory=(0.60, 0.87),
    ),
}
TINY_BATCH = 2
UNTIL_REPLAYED = WARM_UP + 1 + REPLAYS
"""Steps until it is known whether a recording is kept."""


def measure(setting: Setting, keep: Keep, only: str | None = None) -> dict[str, Any]:
    """Every shape, or one of them."""
    pieces: dict[str, Piece] = {
        name: partial(measure_shape, shape)
        for name, shape in SHAPES.items()
        if only in (None, name)
    }
    return measure_pieces("step", pieces, setting, keep)


def measure_shape(shape: Shape, setting: Setting) -> Found:
    """Time and memory of both sides at one shape."""
    batch = TINY_BATCH if setting.tiny else shape.batch
    autocast, recipe = autocast_on(setting.device), Recipe(batch, dropout=False)
    make: dict[str, Callable[[], Side]] = {
        "dimo": lambda: ours(shape, setting, recipe, autocast),
        "released": lambda: Plain(teacher_of(shape, setting), recipe, autocast),
    }
    if shape.shared_memory:
        make["dimo_shared"] = lambda: ours(shape, setting, recipe, autocast, share_x_tilde=True)
    with tf32(True):
        found, alternating = both_at_once(make, setting)
    times = found.times
    flops = flops_per_step(teacher_of(shape, setting), our_spec(batch, recipe))
    peaks = {name: peak + found.recorded[name] for name, peak in found.peaks.items()}
    rows = shape_rows(shape, times, peaks, flops / times["dimo"]["median"], setting)
    details = {
        "batch": batch,
        "recorded_bytes": found.recorded,
        "profiles": found.profiles,
        "alternating": alternating,
        "seconds": times,
        "peak_bytes_above_resident": peaks,
        "flops_per_step": flops,
    }
    return Found(rows, details)


def teacher_of(shape: Shape, setting: Setting) -> Any:
    """A teacher of its own for each side."""
    return random_teacher(shape.family, shape.tiny if setting.tiny else None, setting.device)


def ours(
    shape: Shape, setting: Setting, recipe: Recipe, autocast: Autocast, **auxiliary: Any
) -> Ours:
    """Our step as the trainer runs it: on CUDA with compiled blocks and the teacher in bf16."""
    teacher, spec = teacher_of(shape, setting), our_spec(recipe.batch, recipe, **auxiliary)
    if auxiliary.get("share_x_tilde"):  # two graphs are in memory at a time: as `fit_passes` has it
        halves = spec.train.model_copy(update={"micro_batch": max(1, recipe.batch // 2)})
        own = local_train(halves, divide(halves))
        spec = spec.model_copy(update={"train": own})
    run = Ours(teacher, spec, autocast)
    if setting.device.type == "cuda":
        for backbone in run.distillation.backbones():
            compile_blocks(backbone, print)
        store_in_bf16(teacher.backbone)
        if obstacle(run.distillation) is None:
            run.stepper = CapturedStep(run.distillation, print, on_trial=True)
            for _ in range(UNTIL_REPLAYED):
                run.step()
    return run


@dataclass(frozen=True)
class Measured:
    """Of each side: a step's seconds, the bytes of its peak and of its recording, its profile."""

    times: dict[str, Any]
    peaks: dict[str, int]
    recorded: dict[str, int]
    profiles: dict[str, Any]

    def __or__(self, other: "Measured") -> "Measured":
        """Both, of different sides."""
        return Measured(
            self.times | other.times,
            self.peaks | other.peaks,
            self.recorded | other.recorded,
            self.profiles | other.profiles,
        )


def both_at_once(make: dict[str, Callable[[], Side]], setting: Setting) -> tuple[Measured, bool]:
    """All sides, taking turns where the card holds all of them at once.

    Where it does not, one follows the other, with the card for itself.
    """
    with contextlib.suppress(torch.OutOfMemoryError):
        return measure_sides(make, setting), True
    found = Measured({}, {}, {}, {})
    for name, one in make.items():
        forget(setting)
        found |= measure_sides({name: one}, setting)
    return found, False


def measure_sides(make: dict[str, Callable[[], Side]], setting: Setting) -> Measured:
    """Times of sides that take turns, then the peak and the profile of a further step of each.

    Those are of a step as it is written. The peak is above what lies there between two steps:
    weights, averages and Adam's moments.
    """
    sides = {name: one() for name, one in make.items()}
    times = alternate({name: side.step for name, side in sides.items()}, setting)
    recorded = {name: let_go_of_recording(side, setting) for name, side in sides.items()}
    peaks = {}
    for name, side in sides.items():
        with peak_bytes(setting.device) as found:
            side.step()
        peaks[name] = found["peak"]
    profiles = {name: busiest(side.step, setting) for name, side in sides.items()}
    return Measured(times, peaks, recorded, profiles)


def let_go_of_recording(side: Side, setting: Setting) -> int:
    """The bytes that a recording holds beside the plain step, which comes again from now on."""
    if isinstance(side, Plain) or not isinstance(side.stepper, CapturedStep):
        return 0
    has_one = bool(side.stepper.recordings)
    forget(setting)
    before = torch.cuda.memory_reserved(setting.device)
    side.stepper.give_up()
    return before - torch.cuda.memory_reserved(setting.device) if has_one else 0


def forget(setting: Setting) -> None:
    """Free what nobody holds any more."""
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def shape_rows(
    shape: Shape,
    times: dict[str, Any],
    peaks: dict[str, int],
    flops_per_second: float,
    setting: Setting,
) -> list[Row]:
    """What is asked of a step."""
    name, dimo, released = shape.family, times["dimo"], times["released"]

    def row(what: str, got: float, asked: tuple[float, float] | None, **more: Any) -> Row:
        wanted, before = asked or (None, None)
        return Row(f"{name} {what}", got, wanted, before=before, **more)

    rows = [
        row("step", dimo["median"], None, unit="s"),
        row("step of the released recipe", released["median"], None, unit="s"),
        row("step over the released recipe", dimo["median"] / released["median"], shape.time),
        row("peak over the released recipe", peaks["dimo"] / peaks["released"], shape.memory),
    ]
    if peak := peak_flops(setting.device):
        utilization = flops_per_second / peak
        rows.append(row("step MFU", utilization, shape.utilization, better="higher"))
    if "dimo_shared" in times:
        shared = times["dimo_shared"]["median"] / released["median"]
        rows.append(row("step over the released recipe, shared x_tilde", shared, None))
        over = peaks["dimo_shared"] / peaks["released"]
        rows.append(row("peak over the released recipe, shared x_tilde", over, shape.shared_memory))
    return rows


def peak_flops(device: torch.device) -> float | None:
    """What the card can do a second in bf16, without sparsity; None where nobody wrote it down."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for card, flops in CARDS.items() if card in name), None)
