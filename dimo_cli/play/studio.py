"""What the page plays with: a student, its teacher for comparison, and rewards to optimize for.

Teacher and rewards are loaded when somebody asks for them first. One thread at a time.
"""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.schedules import middle_mask_ratio
from dimo_cli.errors import SpecError
from dimo_cli.files.png import Pixels, enlarge, png_bytes
from dimo_cli.hub.store import HubStore
from dimo_cli.reporting.pictures import data_uri
from dimo_cli.rewards.protocol import Reward
from dimo_cli.rewards.registry import load_rewards
from dimo_cli.sampling.left_out import left_out_note, words_left_out
from dimo_cli.sampling.samplers import Watch, provenance, sample_images
from dimo_cli.sampling.tteo import optimize_prompt, settled, slug
from dimo_cli.sampling.tteo import provenance as tteo_provenance
from dimo_cli.sampling.unmasking import veiled
from dimo_cli.specs.play import (
    MOST_IMAGES,
    MOST_ITERATIONS,
    MOST_STARTS,
    MOST_STEPS,
    DrawAsk,
    TeacherAsk,
    TteoAsk,
)
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.student import LoadOptions, Student, teacher_source
from dimo_cli.students.target import Target
from dimo_cli.teachers.classes import find_class, short_name
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import EMBEDDED, load_teacher

Say = Callable[[dict[str, Any]], None]
"""Tells the page something; raises if nobody listens any more."""
SMALLEST_SIDE = 64  # as `dimo sample` writes its files
MOST_FRAMES = 32  # of the steps that a page looks at
SMALL = 128  # pixels of a side below which a frame is sent as it is
SHOWPIECES = {
    "emoji": (
        "a red apple",
        "a penguin on pink",
        "a fluent-style rocket on blue",
        "a cactus on white",
    ),
    "shapes": (
        "two yellow triangles on gray",
        "a red square to the left of a green circle",
        "three blue circles",
        "two red circles above a blue square",
    ),
}
"""Prompts to begin with that a good student of these teachers draws well."""
EXAMPLES = ("a red fox in the snow", "a lighthouse at dusk", "a bowl of oranges on a table")


class Studio:
    """A student, and what it is compared with and judged by."""

    def __init__(
        self,
        student: Student,
        name: str,
        tteo: TteoSpec | None = None,
        local_dir: Path | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`name` is what a person calls the student; `tteo` says what TTEO begins from."""
        self.student, self.name, self.local_dir, self.note = student, name, local_dir, note
        self.tteo = tteo or TteoSpec()

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher with its own backbone, which students do without."""
        options = LoadOptions(local_dir=str(self.local_dir) if self.local_dir else None)
        loaded = load_teacher(teacher_source(self.student.manifest, options), self.note)
        device = next(self.student.backbone.parameters()).device
        return replace(self.student.teacher, backbone=loaded.backbone.to(device))

    @cached_property
    def rewards(self) -> dict[str, tuple[Reward, float]]:
        """The rewards that TTEO ascends, with their weights."""
        weights = settled(self.student, self.tteo).rewards
        device = next(self.student.backbone.parameters()).device
        models = load_rewards(list(weights), HubStore(self.local_dir, say=self.note), device)
        return {name: (models[name], weight) for name, weight in weights.items()}

    def facts(self) -> dict[str, Any]:
        """What the page has to know before anything is drawn."""
        student, teacher = self.student, self.student.teacher
        return {
            "version": __version__,
            "student": self.name,
            "student_id": student.short_id,
            "steps": student.manifest.training.steps,
            "draws_in": student.steps,
            "teacher": teacher.name,
            "license": teacher.license,
            "takes_prompts": teacher.takes_prompts,
            "classes": [short_name(entry) for entry in teacher.class_names],
            "examples": example_prompts(teacher),
            "image_size": teacher.space.image_size,
            "r_init": round(middle_mask_ratio(student.manifest.init.mask_ratio), 4),
            "temperature": student.manifest.temperature,
            "teacher_at_hand": teacher.name in EMBEDDED,
            "teacher_steps": min(teacher.sampler.steps, MOST_STEPS),
            "tteo": self.tteo_facts(),
            "limits": {
                "count": MOST_IMAGES,
                "steps": MOST_STEPS,
                "starts": MOST_STARTS,
                "iterations": MOST_ITERATIONS,
            },
        }

    def tteo_facts(self) -> dict[str, Any]:
        """Which rewards TTEO ascends, or why there is none."""
        try:
            spec = settled(self.student, self.tteo)
        except SpecError as refusal:
            return {"refusal": f"{refusal.message} {refusal.hint}"}
        return {"rewards": list(spec.rewards), "step_size": spec.learning_rate}

    def draw(self, ask: DrawAsk, say: Say) -> None:
        """Images of the student, in the steps that it takes by itself."""
        spec = SamplerSpec(
            seed=ask.seed,
            temperature=unless_own(ask.temperature, self.student.manifest.temperature),
            r_init=unless_own(ask.r_init, middle_mask_ratio(self.student.manifest.init.mask_ratio)),
        )
        target = Target(self.student.teacher, self.student)
        say(self.drawn(target, ask.condition, ask.count, spec))

    def draw_teacher(self, ask: TeacherAsk, say: Say) -> None:
        """The same by the teacher, in several steps."""
        if "teacher" not in vars(self):
            say({"status": "Loading the teacher ..."})
        spec = SamplerSpec(teacher=True, seed=ask.seed, steps=ask.steps)
        watch = self.watching(ask, say)
        say(self.drawn(Target(self.teacher), ask.condition, ask.count, spec, watch))

    def watching(self, ask: TeacherAsk, say: Say) -> Watch:
        """Says every step, with its pictures where they are asked for; ends if nobody listens."""
        every, done = -(-ask.steps // MOST_FRAMES), 0
        grid = self.student.teacher.space.grid

        def watch(paint: Callable[[], Tensor], masked: Tensor) -> None:
            nonlocal done
            done += 1
            said: dict[str, Any] = {"step": done, "of": ask.steps}
            if ask.watch and (done % every == 0 or done == ask.steps):
                said["frames"] = [frame(one) for one in veiled(paint(), masked, grid)]
            say(said)

        return watch

    def drawn(
        self,
        target: Target,
        condition: str,
        count: int,
        spec: SamplerSpec,
        watch: Watch | None = None,
    ) -> dict[str, Any]:
        """Images with what made them, exactly as `dimo sample` draws and marks them."""
        wanted = self.wanted(condition, count)
        began = time.perf_counter()
        pixels, protocol = sample_images(target, wanted, spec, watch=watch)
        seconds = time.perf_counter() - began
        kind, label = self.named(wanted[0])
        about = {**provenance(target, spec, protocol), f"dimo.{kind}": label}
        maker = f"teacher-{spec.steps}-steps" if spec.teacher else target.teacher.name
        images = [
            picture(
                enlarge(one[None], SMALLEST_SIDE)[0],
                {**about, "dimo.index": str(index)},
                f"{maker}-{slug(label)}-seed-{spec.seed}-{index}.png",
            )
            for index, one in enumerate(pixels)
        ]
        return {
            "images": images,
            "label": label,
            "steps": protocol["steps"],
            "seconds": seconds,
            "command": self.sample_command(condition, count, spec),
            **self.note_on(condition),
        }

    def note_on(self, condition: str) -> dict[str, str]:
        """Which words of a prompt are left out, where any are."""
        words = words_left_out(self.student.teacher, [condition])
        return {"note": left_out_note(self.student.teacher, words)} if words else {}

    def optimize(self, ask: TteoAsk, say: Say) -> None:
        """The curve while a prompt is optimized, then the picture before and after."""
        if "rewards" not in vars(self):
            say({"status": "Loading the rewards ..."})
        rewards = self.rewards
        settings = ask.model_dump(exclude={"condition"})
        spec = settled(self.student, self.tteo).model_copy(update=settings)
        iterate = 0

        def tell(scores: Tensor) -> None:
            nonlocal iterate
            say({"iterate": iterate, "scores": scores.tolist()})
            iterate += 1

        found = optimize_prompt(self.student, rewards, ask.condition, spec, tell)
        document = found.document()
        about = tteo_provenance(ask.condition, self.student, spec)
        name = f"{self.student.teacher.name}-{slug(ask.condition)}-tteo-seed-{ask.seed}"
        say(
            {
                "before": picture(found.before, about, f"{name}-before.png"),
                "after": picture(found.after, about, f"{name}-after.png"),
                "label": ask.condition,
                **{key: document[key] for key in ("score_before", "score_after", "seconds")},
                "times": document["times_a_plain_sample"],
                "command": self.tteo_command(ask.condition, spec),
                **self.note_on(ask.condition),
            }
        )

    def wanted(self, condition: str, count: int) -> list[int] | list[str]:
        """A prompt as it is, or the number of a class, once for each image."""
        teacher = self.student.teacher
        if teacher.takes_prompts:
            return [condition] * count
        return [find_class(condition, teacher)] * count

    def named(self, wanted: int | str) -> tuple[str, str]:
        """Whether it is a prompt or a class, and how people call it."""
        if isinstance(wanted, str):
            return "prompt", wanted
        return "class", short_name(self.student.teacher.class_names[wanted])

    def sample_command(self, condition: str, count: int, spec: SamplerSpec) -> str:
        """The command that draws the same images."""
        kind = "--prompt" if self.student.teacher.takes_prompts else "--class"
        words = ["dimo", "sample", "--student", self.name, kind, condition]
        words += ["-n", str(count), "--seed", str(spec.seed)]
        if spec.teacher:
            words += ["--teacher", "--steps", str(spec.steps)]
        for flag, value in (("--temperature", spec.temperature), ("--r-init", spec.r_init)):
            words += [] if value is None else [flag, f"{value:g}"]
        return shlex.join([*words, *self.place()])

    def tteo_command(self, prompt: str, spec: TteoSpec) -> str:
        """The command that optimizes the same."""
        words = ["dimo", "tteo", self.name, "--prompt", prompt, "--seed", str(spec.seed)]
        words += ["--starts", str(spec.starts), "--iters", str(spec.iterations)]
        words += ["--rate", f"{spec.learning_rate:g}"]
        for name, weight in self.tteo.rewards.items():
            words += ["--reward", f"{name}={weight:g}"]
        return shlex.join([*words, *self.place()])

    def place(self) -> list[str]:
        """Where published files come from, as a flag."""
        return ["--local-dir", str(self.local_dir)] if self.local_dir else []


def unless_own(value: float | None, own: float) -> float | None:
    """A setting, or None where it is the student's own."""
    return None if value is None or abs(value - own) < 1e-6 else value


def example_prompts(teacher: Teacher) -> list[str]:
    """A few prompts to begin with."""
    if not isinstance(teacher.conditioner, PromptConditioner):
        return []
    if teacher.name in SHOWPIECES:
        return list(SHOWPIECES[teacher.name])
    return list(dict.fromkeys(teacher.conditioner.dataset))[:4] or list(EXAMPLES)


def frame(pixels: Pixels) -> str:
    """A picture on the way, for the page to show and not to keep."""
    image = Image.fromarray(enlarge(pixels[None], SMALLEST_SIDE)[0])
    return data_uri(image, "PNG" if min(image.size) < SMALL else "JPEG")


def picture(pixels: Pixels, about: Mapping[str, str], file: str) -> dict[str, str]:
    """A PNG that knows what made it, for the page to show and to save."""
    png = base64.b64encode(png_bytes(pixels, about)).decode()
    return {"src": f"data:image/png;base64,{png}", "file": file}
