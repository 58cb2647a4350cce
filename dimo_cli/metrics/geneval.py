"""GenEval: whether a picture shows the objects, counts, colors and places its prompt asks for.

The rules are pure: detections in, verdict out. They take part in no detection, so that golden
verdicts, another detector, or the ground truth of rendered scenes can be judged by the same lines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics.geneval_requests import Request, Wanted
from dimo_cli.metrics.per_image import PromptMetric
from dimo_cli.metrics.protocol import Result
from dimo_cli.metrics.shapes import is_true
from dimo_cli.teachers.shapes.world import SIDE

if TYPE_CHECKING:  # prompt sets are made of the requests below
    from dimo_cli.metrics.prompts import PromptSet

Box = tuple[float, float, float, float]
NO_OFFSET = 1e-3  # pixels: less than this is no offset at all


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One object that a detector found."""

    box: Box
    """Left, top, right and bottom in pixels; y grows downwards."""
    score: float
    mask: NDArray[np.bool_] | None = None
    """Its pixels [H, W], where the detector gives them."""


Detections = Mapping[str, Sequence[Detection]]
"""What was found in an image, by the name of its class."""
ColorsOf = Callable[[str, Sequence[Detection]], list[str]]
"""The color of each of some objects of a class."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the benchmark."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    """Overlap from which the weaker of two objects is dropped; at 1 none is."""
    position_threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image is as asked, and what is wrong with it."""

    reasons: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons


def area(box: Box) -> float:
    """Pixels of a box whose edges both belong to it."""
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0


def relations(a: Box, b: Box, slack: float) -> set[str]:
    """On which sides of b object a is: none if they are at one place, up to two.

    The offset of the centers, less `slack` times both sizes, must point that way by more than half
    of the whole offset.
    """
    corners = np.array([a, b]).reshape(2, 2, 2)
    whole = np.subtract(*corners.mean(1))
    sizes = np.abs(corners[:, 1] - corners[:, 0]).sum(0)
    beyond = np.maximum(np.abs(whole) - slack * sizes, 0) * np.sign(whole)
    if (np.abs(beyond) < NO_OFFSET).all():
        return set()
    dx, dy = beyond / np.linalg.norm(whole)
    sides = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return {side for side, share in sides.items() if share > 0.5}


def keep(found: Detections, tag: str, rules: Rules) -> dict[str, list[Detection]]:
    """The detections that count, by class, the surest first; classes without any are left out."""
    threshold = rules.counting_threshold if tag == "counting" else rules.threshold
    kept: dict[str, list[Detection]] = {}
    for name, objects in found.items():
        sure = [thing for thing in objects if thing.score > threshold]
        for thing in sorted(sure, key=lambda thing: -thing.score)[: rules.max_objects]:
            others = kept.get(name, [])
            if rules.max_overlap == 1 or all(
                overlap(thing.box, other.box) < rules.max_overlap for other in others
            ):
                kept.setdefault(name, []).append(thing)
    return kept


def judge(
    request: Request, kept: Detections, colors_of: ColorsOf, rules: Rules | None = None
) -> Verdict:
    """Whether kept detections are what was asked for; of a class more may be there than asked."""
    rules = rules or Rules()
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for wanted in request.include:
        group = kept.get(wanted.name, ())[: wanted.count]
        reason = find_fault(wanted, group, groups, colors_of, rules)
        groups.append(None if reason else group)
        reasons += [reason] if reason else []
    for unwanted in request.exclude:
        count = len(kept.get(unwanted.name, ()))
        if count >= unwanted.count:
            reasons.append(f"{count} x {unwanted.name}, which must be below {unwanted.count}")
    return Verdict(tuple(reasons))


def find_fault(
    wanted: Wanted,
    group: Sequence[Detection],
    earlier: Sequence[Sequence[Detection] | None],
    colors_of: ColorsOf,
    rules: Rules,
) -> str | None:
    """What is wrong with the objects found for one entry; None if they are as asked."""
    if len(group) < wanted.count:
        return f"{len(group)} of {wanted.count} x {wanted.name}"
    if wanted.color:
        colors = colors_of(wanted.name, group)
        if colors.count(wanted.color) < wanted.count:
            return f"{wanted.name} is {', '.join(colors)}, not {wanted.color}"
    if wanted.position:
        side, target = wanted.position
        others = earlier[target]
        if others is None:
            return f"{wanted.name} has nothing to be {side}"
        for thing in group:
            for other in others:
                if side not in relations(thing.box, other.box, rules.position_threshold):
                    return f"{wanted.name} is not {side} what it should be"
    return None


def task_scores(tags: Iterable[str], correct: Iterable[float]) -> dict[str, float]:
    """Share of correct images by task, and `overall`, the plain mean over the tasks."""
    hits: dict[str, list[float]] = {}
    for tag, value in zip(tags, correct, strict=True):
        hits.setdefault(tag, []).append(value)
    by_task = {tag: float(np.mean(values)) for tag, values in hits.items()}
    return {**by_task, "overall": float(np.mean(list(by_task.values())))}


def check_tasks(name: str, tasks: Sequence[str], tags: Sequence[str]) -> None:
    """Refuse images, by their tags, that are not of all tasks."""
    missing = [task for task in tasks if task not in tags]
    if missing:
        raise SpecError(
            f"`{name}` has no image of the task `{missing[0]}`, and its overall score is the mean "
            f"over {len(tasks)} tasks.",
            "Measure all prompts of the benchmark.",
        )


def summarize(
    name: str,
    tasks: Sequence[str],
    tags: Sequence[str],
    prompts: Sequence[object],
    correct: Sequence[float],
    protocol: dict[str, Any],
) -> list[Result]:
    """The overall score and one of each task, from the verdict, tag and prompt of each image."""
    check_tasks(name, tasks, tags)
    scores = task_scores(tags, correct)
    solved = {prompt for prompt, value in zip(prompts, correct, strict=True) if value}
    protocol = {**protocol, "images": len(tags), "prompts": len(set(prompts))}
    details = {
        "tasks": {task: scores[task] for task in tasks},
        "correct_images": float(np.mean(correct)),
        "correct_prompts": len(solved) / len(set(prompts)),
    }
    counts = {task: sum(tag == task for tag in tags) for task in tasks}
    return [Result(name, scores["overall"], protocol, details)] + [
        Result(f"{name}_{task}", scores[task], protocol, {"images": counts[task]}) for task in tasks
    ]


class TaskMetric(PromptMetric):
    """Verdicts on the images of a prompt set, as scores of its six tasks and overall."""

    def __init__(self, name: str, prompts: PromptSet, protocol: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.prompts, self.protocol = name, prompts, protocol

    def judge(self) -> dict[str, Any]:
        return self.protocol

    @abstractmethod
    def verdicts(self, requests: Sequence[Any], batch: Batch) -> list[bool]:
        """Whether each image is what its request says."""

    def score(self, batch: Batch) -> list[float]:
        self.prompts.check(batch.first, batch.prompts)
        numbers = [self.prompts.prompt_number(batch.first + i) for i in range(len(batch))]
        requests = [self.prompts.requests[number] for number in numbers]
        return [float(correct) for correct in self.verdicts(requests, batch)]

    def results(self) -> list[Result]:
        images = self.scores.numbers()
        rows = [self.prompts.prompt_number(image) for image in images]
        return summarize(
            self.name,
            tuple(dict.fromkeys(self.prompts.tags)),
            [self.prompts.tags[row] for row in rows],
            rows,
            self.scores.tensor().tolist(),
            {**self.protocol, **self.prompts.protocol()},
        )


class DetectionSource(Protocol):
    """Where detections come from: a detector that finds objects and names their colors."""

    name: str
    """What it is; it becomes part of the metric's name, for scores of two detectors differ."""

    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two scores to be comparable: names and hashes of networks."""

    def detect(self, image: Tensor) -> Detections:
        """The objects in an image of bytes [3, H, W]."""

    def colors(self, image: Tensor, name: str, objects: Sequence[Detection]) -> list[str]:
        """The color, one of `COLORS`, of each of these objects of one class."""


class GenEval(TaskMetric):
    """The benchmark with a detector that is named in its results."""

    def __init__(
        self, source: DetectionSource, prompts: PromptSet, rules: Rules | None = None
    ) -> None:
        self.source, self.rules = source, rules or Rules()
        protocol = {**source.protocol(), "rules": asdict(self.rules)}
        super().__init__(f"geneval_{source.name}", prompts, protocol)

    def verdicts(self, requests: Sequence[Request], batch: Batch) -> list[bool]:
        return [self.verdict(*pair).correct for pair in zip(requests, batch.images, strict=True)]

    def verdict(self, request: Request, image: Tensor) -> Verdict:
        """Whether one image of bytes [3, H, W] is what was asked for, and why not."""
        kept = keep(self.source.detect(image), request.tag, self.rules)
        return judge(
            request,
            kept,
            lambda name, objects: self.source.colors(image, name, objects),
            self.rules,
        )


class ShapesGenEval(TaskMetric):
    """The six tasks on pictures of `shapes`, read exactly: no detector is in between."""

    def __init__(self, prompts: PromptSet) -> None:
        super().__init__("geneval_shapes", prompts, {"detector": "exact verifier of shapes"})

    def verdicts(self, requests: Sequence[Any], batch: Batch) -> list[bool]:
        height, width = batch.images.shape[-2:]
        if (height, width) != (SIDE, SIDE):
            raise SpecError(
                f"`{self.name}` reads pictures of {SIDE} x {SIDE} pixels, not {width} x {height}."
            )
        pictures = batch.images.cpu().permute(0, 2, 3, 1).numpy()
        return [is_true(scene, picture) for scene, picture in zip(requests, pictures, strict=True)]
