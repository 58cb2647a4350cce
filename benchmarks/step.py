"""One full Di[M]O iteration against the released recipe, plainly written, and against its floor.

Time at MaskGit's shape, memory at Meissonic's. The floor is what no implementation can leave out:
student forward and backward, the guided teacher's forward, the auxiliary's forward, and its forward
and backward, each timed alone, on whole networks (tokens to logits of all positions).
"""

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import (
    bytes_of,
    device_of,
    environment,
    in_turn,
    medians,
    peak_bytes,
    ratio,
)
from benchmarks.networks import MASKGIT_SMALL, MEISSONIC_SMALL, random_teacher
from benchmarks.plain import PlainDistillation, Recipe
from dimo_cli.engine.capture import CapturedStep
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.schedules import ema_decay
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher

Autocast = Callable[[], AbstractContextManager[None]]
BARS = {
    "as_released": 0.62,
    "without_dropout": 0.88,
    "without_dropout_shared": 0.78,
    "peak_memory": 0.40,
    "over_floor": 1.10,
}


def autocast_on(device: torch.device) -> Autocast:
    """bf16 on a GPU, nothing on a CPU."""
    if device.type == "cpu":
        return contextlib.nullcontext
    return lambda: torch.autocast("cuda", torch.bfloat16)


def our_spec(batch: int, recipe: Recipe, **auxiliary: Any) -> DistillSpec:
    """The same settings as a spec of ours."""
    optimizer = {"learning_rate": recipe.learning_rate, "clip_norm": 1.0}
    return DistillSpec.model_validate(
        {
            "teacher": {"name": "maskgit", "guidance": recipe.guidance},
            "init": {"mask_ratio": recipe.mask_ratio, "embed_noise": recipe.sigma},
            "masking": {"student": recipe.schedule, "auxiliary": recipe.schedule},
            "student": {"optimizer": optimizer},
            "auxiliary": {
                "optimizer": optimizer,
                "label_smoothing": recipe.label_smoothing,
                **auxiliary,
            },
            "train": {"batch_size": batch},
        }
    )


class Ours:
    """What the trainer does in a step: the networks' updates, then the average."""

    def __init__(self, teacher: Teacher, spec: DistillSpec, autocast: Autocast) -> None:
        torch.manual_seed(0)
        device = next(teacher.backbone.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        self.distillation = Distillation(teacher, spec, generator, autocast)
        self.ema = Ema(copy.deepcopy(self.distillation.student), self.distillation.student)
        self.stepper: Distillation | CapturedStep = self.distillation
        self.steps = 0

    def step(self) -> None:
        self.stepper.step(self.steps)
        self.ema.update(ema_decay(self.steps, 0.9999))
        self.steps += 1

    def networks(self) -> list[nn.Module]:
        """All four."""
        found = self.distillation
        return [found.teacher.backbone, found.student, found.auxiliary, self.ema.network]


class Plain:
    """The released recipe as a step without arguments."""

    def __init__(self, teacher: Teacher, recipe: Recipe, autocast: Autocast) -> None:
        torch.manual_seed(0)
        device = next(teacher.backbone.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        self.distillation = PlainDistillation(teacher, recipe, generator, autocast)
        self.steps = 0

    def step(self) -> None:
        self.distillation.step(self.steps)
        self.steps += 1

    def networks(self) -> list[Any]:
        """All four."""
        return self.distillation.networks()


class Floor:
    """The parts of a step that cannot be left out, to be timed alone."""

    def __init__(self, ours: Ours, autocast: Autocast) -> None:
        self.ours, self.autocast = ours.distillation, autocast
        generation = self.ours.generate(0)
        self.cond, self.tokens = generation.cond, generation.tokens
        null = self.ours.teacher.conditioner.null(len(self.cond)).to(self.tokens.device)
        self.both = Cond.cat([self.cond, null])
        self.gradient = torch.randn_like(self.logits(self.ours.student, self.tokens, self.cond))

    def logits(self, backbone: Backbone, tokens: Tensor, cond: Cond) -> Tensor:
        """A network's whole forward."""
        with self.autocast():
            return backbone(tokens, cond)

    def forward_backward(self, backbone: Backbone) -> None:
        """Forward and backward of a network that is trained."""
        self.logits(backbone, self.tokens, self.cond).backward(self.gradient)
        for parameter in backbone.parameters():
            parameter.grad = None

    @torch.no_grad()
    def forward(self, backbone: Backbone, guided: bool = False) -> None:
        """Forward alone; guided: at both conditions."""
        tokens = torch.cat([self.tokens, self.tokens]) if guided else self.tokens
        self.logits(backbone, tokens, self.both if guided else self.cond)

    def parts(self) -> dict[str, Callable[[], None]]:
        """Each part as a call."""
        ours = self.ours
        return {
            "student_forward_backward": lambda: self.forward_backward(ours.student),
            "guided_teacher_forward": lambda: self.forward(ours.teacher.backbone, guided=True),
            "auxiliary_forward": lambda: self.forward(ours.auxiliary),
            "auxiliary_forward_backward": lambda: self.forward_backward(ours.auxiliary),
        }


def measure_time(teacher: Teacher, batch: int, rounds: int, autocast: Autocast) -> dict[str, Any]:
    """Times of all variants and of the floor's parts, taken in turn."""
    released = Recipe(batch)
    still = Recipe(batch, dropout=False)
    ours = Ours(teacher, our_spec(batch, still), autocast)
    runs: dict[str, Plain | Ours] = {
        "released": Plain(teacher, released, autocast),
        "released_without_dropout": Plain(teacher, still, autocast),
        "dimo": ours,
        "dimo_shared": Ours(teacher, our_spec(batch, still, share_x_tilde=True), autocast),
    }
    parts = Floor(ours, autocast).parts()
    times = in_turn({**{name: run.step for name, run in runs.items()}, **parts}, rounds, warmup=2)
    dimo, shared = times["dimo"], times["dimo_shared"]
    return {
        "batch": batch,
        "rounds": rounds,
        "seconds": medians(times),
        "ratios": {
            "as_released": ratio(dimo, times["released"]),
            "without_dropout": ratio(dimo, times["released_without_dropout"]),
            "without_dropout_shared": ratio(shared, times["released_without_dropout"]),
            "over_floor": ratio(dimo, *(times[name] for name in parts)),
        },
    }


def measure_memory(
    make: Callable[[], Ours | Plain], device: torch.device, steps: int = 2
) -> dict[str, int]:
    """The peak of the first steps above the weights of all networks."""
    run = make()
    with peak_bytes(device) as found:
        for _ in range(steps):
            run.step()
    weights = sum(bytes_of(network.parameters()) for network in run.networks())
    return {"weights": weights, "above_weights": found["peak"]}


def measure(gpu: bool, rounds: int) -> dict[str, Any]:
    """Small networks of both shapes; real sizes are measured by `benchmarks.real`."""
    device = device_of(gpu)
    autocast = autocast_on(device)
    timed = measure_time(random_teacher("maskgit", MASKGIT_SMALL), 8, rounds, autocast)
    large, recipe = random_teacher("meissonic", MEISSONIC_SMALL), Recipe(4, 4.0)
    memory = {
        "released": measure_memory(lambda: Plain(large, recipe, autocast), device),
        "dimo": measure_memory(lambda: Ours(large, our_spec(4, recipe), autocast), device),
    }
    above = {name: peaks["above_weights"] for name, peaks in memory.items()}
    ratios = {**timed.pop("ratios"), "peak_memory": above["dimo"] / above["released"]}
    return {
        "benchmark": "step",
        **environment(device),
        "time": timed,
        "memory_bytes": memory,
        "ratios": ratios,
        "bars": BARS,
    }
