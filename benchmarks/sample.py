"""Images per second in one step: against the teacher at 16 steps, and against the floor.

The floor is one forward of the whole network and one decoding, alone. The cold start is that of the
command line: a new process that draws one image of the built-in student, over one that only imports
what it needs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Clock, device_of, environment, in_turn, medians, ratio
from benchmarks.networks import MASKGIT_SMALL, random_teacher
from dimo_cli.engine.many_steps import sample_by_plan
from dimo_cli.engine.one_step import sample_student, student_input
from dimo_cli.specs.init import InitSpec
from dimo_cli.teachers.protocol import Cond, Teacher

BARS = {"over_floor": 1.05}
STEPS = 16
COLD_STARTS = 3
IMPORTS = "import torch, dimo_cli.students.student, dimo_cli.sampling.samplers"


class Sampling:
    """One batch of images, drawn in several ways."""

    def __init__(self, teacher: Teacher, batch: int) -> None:
        self.teacher, self.batch = teacher, batch
        self.device = next(teacher.backbone.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.cond: Cond = teacher.conditioner.draw(batch, self.generator)
        space = teacher.space
        shape = (batch, space.length, space.groups)
        self.tokens = torch.randint(space.codes, shape, device=self.device)

    def one_step(self) -> None:
        """As the finished student draws."""
        init, space = InitSpec(), self.teacher.space
        x_init = student_input(space, self.teacher.tokenizer, init, self.batch, self.generator)
        tokens = sample_student(
            self.teacher.backbone,
            space,
            x_init,
            self.cond,
            init.embed_noise.sigma,
            self.generator,
        )
        self.decode(tokens)

    def many_steps(self) -> None:
        """As the teacher draws, guided."""
        defaults = self.teacher.sampler
        slots = self.teacher.space.length * self.teacher.space.groups
        plan = defaults.plan(STEPS, slots, defaults.guidance, defaults.choice_noise)
        self.decode(sample_by_plan(self.teacher, self.cond, plan, self.generator))

    @torch.inference_mode()
    def forward(self) -> None:
        """Tokens to logits."""
        self.teacher.backbone(self.tokens, self.cond)

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor | None = None) -> None:
        """Tokens to images."""
        self.teacher.tokenizer.decode(self.tokens if tokens is None else tokens, self.cond)


def cold_start() -> dict[str, float]:
    """Seconds from the start of a process to an image on disk, and of the imports alone."""
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "image.png")
        drawing = ["-m", "dimo_cli", "sample", "--class", "3", "-n", "1", "--grid", image]
        commands = {"dimo_sample": drawing, "imports": ["-c", IMPORTS]}
        calls = {
            name: (lambda command=command: run_process(command))
            for name, command in commands.items()
        }
        clock = Clock.name
        Clock.choose("wall")  # the time of another process is not that of this one
        found = medians(in_turn(calls, COLD_STARTS))
        Clock.choose(clock)
    return found


def run_process(arguments: list[str]) -> None:
    """Run Python."""
    quiet = subprocess.DEVNULL
    subprocess.run([sys.executable, *arguments], check=True, stdout=quiet, stderr=quiet)


def measure(gpu: bool, rounds: int) -> dict[str, Any]:
    """Small networks; the real ones are measured by `benchmarks.real`."""
    device, batch, name = device_of(gpu), 4, "maskgit"
    run = Sampling(random_teacher(name, MASKGIT_SMALL, device), batch)
    calls = {
        "one_step": run.one_step,
        "forward": run.forward,
        "decode": run.decode,
        "teacher": run.many_steps,
    }
    times = in_turn(calls, rounds)
    found = medians(times)
    return {
        "benchmark": "sample",
        **environment(device),
        "teacher": name,
        "batch": batch,
        "teacher_steps": STEPS,
        "seconds": {**found, **{f"cold_{name}": value for name, value in cold_start().items()}},
        "images_per_second": {
            name: batch / value
            for name, value in found.items()
            if name == "teacher" or name.startswith("one_step")
        },
        "ratios": {
            "over_floor": ratio(times["one_step"], times["forward"], times["decode"]),
            "teacher_over_one_step": ratio(times["teacher"], times["one_step"]),
        },
        "bars": BARS,
    }
