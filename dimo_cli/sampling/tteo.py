"""Test-time embedding optimization of prompts: load, optimize, keep, and say what it cost."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.engine.tteo import Optimized, optimize_embeddings, render, start_embeddings
from dimo_cli.errors import NotFinite, SpecError
from dimo_cli.files.png import Pixels, save_png
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import whole_file, write_whole_text
from dimo_cli.rewards.protocol import Reward
from dimo_cli.run_folder.effort import rate
from dimo_cli.sampling.samplers import clock, to_pixels
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.student import Student
from dimo_cli.teachers.decoding import check_images
from dimo_cli.teachers.protocol import Cond

OUTCOME = "outcome.json"
# The numbers of an outcome that its summary tells.
NUMBERS = ("score_before", "score_best_of_n", "score_after", "seconds", "times_a_plain_sample")


@dataclass(frozen=True)
class Outcome:
    """A prompt before and after."""

    prompt: str
    before: Pixels
    """The first start as plain sampling would have it [H, W, 3]."""
    after: Pixels
    """The image of the chosen iterate of the chosen start [H, W, 3]."""
    found: Optimized
    rewards_before: dict[str, float]
    rewards_after: dict[str, float]
    seconds: float
    seconds_plain: float
    """What one plain sample took."""

    def document(self) -> dict[str, Any]:
        """The outcome as one JSON document."""
        return {
            "prompt": self.prompt,
            "score_before": float(self.found.trace[0, 0]),
            "score_best_of_n": float(self.found.trace[0].max()),
            "score_after": float(self.found.scores[self.found.best]),
            "rewards_before": self.rewards_before,
            "rewards_after": self.rewards_after,
            "start": self.found.best,
            "trace": self.found.trace.tolist(),
            "seconds": round(self.seconds, 4),
            "seconds_plain_sample": round(self.seconds_plain, 4),
            "times_a_plain_sample": round(rate(self.seconds, self.seconds_plain), 2),
        }


def settled(student: Student, spec: TteoSpec) -> TteoSpec:
    """A spec with its rewards and its step size: its own, or those that suit the teacher."""
    if not student.teacher.takes_prompts:
        raise SpecError(
            f"`{student.teacher.name}` takes classes, and rewards read prompts.",
            "Optimize a student of a text teacher.",
        )
    student.check_one_step("test-time optimization is of the input of a single pass")
    student.check_no_latent("here one image is improved, whose latent would be another each time")
    suited = student.teacher.tteo
    chosen: dict[str, Any] = {} if spec.rewards else {"rewards": dict(suited.rewards)}
    if "learning_rate" not in spec.model_fields_set:
        chosen["learning_rate"] = suited.learning_rate
    return spec.model_copy(update=chosen)


def optimize_prompt(
    student: Student,
    rewards: Mapping[str, tuple[Reward, float]],
    prompt: str,
    spec: TteoSpec,
    on_iterate: Callable[[Tensor], None] = lambda scores: None,
) -> Outcome:
    """Optimize the input embeddings of one prompt from several starts at once."""
    teacher, backbone = student.teacher, student.backbone
    device = next(backbone.parameters()).device
    cond = repeated(teacher.conditioner.prompts([prompt]), spec.starts).to(device)
    texts = {name: reward.prepare(cond.texts) for name, (reward, _) in rewards.items()}

    def each(images: Tensor) -> dict[str, Tensor]:
        return {name: reward(images, texts[name]) for name, (reward, _) in rewards.items()}

    def score(images: Tensor) -> Tensor:
        weighted = [rewards[name][1] * value for name, value in each(images).items()]
        return torch.stack(weighted).sum(0)

    @torch.no_grad()
    def told(image: Tensor) -> dict[str, float]:
        """The rewards of one image [1, 3, H, W]."""
        return {
            name: float(reward(image, texts[name][:1])) for name, (reward, _) in rewards.items()
        }

    start = start_embeddings(
        backbone,
        teacher.space,
        teacher.tokenizer,
        student.manifest.init,
        spec.starts,
        torch.Generator(device).manual_seed(spec.seed),
    )
    first = slice(0, 1)
    render(backbone, teacher.tokenizer, cond[first], start[first], spec)  # warm, so not timed
    began = clock(device)
    before = render(backbone, teacher.tokenizer, cond[first], start[first], spec)
    plain = clock(device) - began
    began = clock(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
        found = optimize_embeddings(
            backbone, teacher.tokenizer, cond, start, score, spec, on_iterate
        )
    chosen = slice(found.best, found.best + 1)
    after = found.images[chosen]
    if spec.decode == "argmax":
        after = render(backbone, teacher.tokenizer, cond[chosen], found.embeddings[chosen], spec)
    seconds = clock(device) - began
    check_images(torch.cat([before, found.images[chosen], after]), teacher)
    if not found.scores.isfinite().all():
        raise NotFinite(
            f"The rewards {', '.join(rewards)} of these images are not finite.",
            "Choose other rewards with `--reward`.",
        )
    return Outcome(
        prompt,
        to_pixels(before)[0],
        to_pixels(after)[0],
        found,
        told(before),
        told(after),
        seconds,
        plain,
    )


def repeated(cond: Cond, count: int) -> Cond:
    """One condition, `count` times."""
    tensors = {name: t.expand(count, *t.shape[1:]) for name, t in cond.tensors.items()}
    return Cond(tensors, cond.texts * count)


def folder_name(prompt: str, student: Student, spec: TteoSpec) -> str:
    """A name that any file system takes, and that no other prompt, student or setting has."""
    facts = json.dumps([prompt, student.manifest.weights_sha256, spec.model_dump(mode="json")])
    return f"{slug(prompt)}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def slug(prompt: str) -> str:
    """A prompt as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "prompt"


def provenance(prompt: str, student: Student, spec: TteoSpec) -> dict[str, str]:
    """What the files of an outcome say about themselves."""
    return {
        "dimo.version": __version__,
        "dimo.student": student.manifest.weights_sha256,
        "dimo.prompt": prompt,
        "dimo.tteo": spec.model_dump_json(),
    }


def keep(
    outcome: Outcome,
    student: Student,
    spec: TteoSpec,
    folder: Path,
    origins: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write pictures, trace and the embeddings that make the picture again in one pass.

    `origins` says who set which value of the spec; the report shows it. Returns what a later call
    will read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = provenance(outcome.prompt, student, spec)
    save_png(outcome.before, folder / "before.png", facts)
    save_png(outcome.after, folder / "after.png", facts)
    best = outcome.found.best
    chosen = outcome.found.embeddings[best : best + 1].contiguous().cpu()
    with whole_file(folder / "embeddings.safetensors") as temporary:
        save_file({"embeddings": chosen}, temporary, facts)
    told = {} if origins is None else {"origins": dict(origins)}
    document = {**outcome.document(), **told}
    text = json.dumps(document, indent=2)
    write_whole_text(folder / OUTCOME, text + "\n")  # last: what has it is finished
    return document


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """The outcome in a prompt's folder; None where it is not complete, or cannot be read."""
    try:
        found = parse_json(read_text(folder / OUTCOME, MOST_DOCUMENT))
    except (OSError, ValueError, SpecError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        return None
    is_whole = all(type(found.get(name)) in (int, float) for name in NUMBERS)
    return found if is_whole else None
