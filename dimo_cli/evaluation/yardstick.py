"""A number of `dimo eval` for generators in memory: what a run measures on its way and at its end.

Networks, prompts and real images are loaded once; every generator is then drawn from alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from dimo_cli.data.arrays import Batch, Images
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.evaluation.cache import content_at, row_file, tensors_hash
from dimo_cli.evaluation.evaluate import OWN_PROMPTS, prompts_for, read, refuse_unread_prompts
from dimo_cli.evaluation.readers import SUITED, Say, build_readers
from dimo_cli.evaluation.subjects import Subject, chosen_prompts
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import write_whole_text
from dimo_cli.hub.datasets import is_reference
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.accuracy import Accuracy
from dimo_cli.metrics.inception import VARIABLE
from dimo_cli.metrics.per_image import PromptMetric
from dimo_cli.metrics.protocol import Metric, Result
from dimo_cli.metrics.references import network_facts
from dimo_cli.run_folder.effort import hardware_name
from dimo_cli.sampling.samplers import Sampler, clock, condition, images_at_once, to_bytes
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec, MetricName, ResizeName
from dimo_cli.specs.metrics import NEIGHBORS, TITLES, WITH_PROMPTS, WITH_REFERENCE, RunMetric
from dimo_cli.specs.monitor import MonitorSpec
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import EMBEDDED, load_skeleton

SEED = 20_000
AT_ONCE = 250  # images of a batch at most: part of what decides them
CONDITIONS = 64  # of the first images: what the teacher's encoder makes of a class or a prompt
NOT_MEASURED = "or measure nothing: `--set monitor.fid_every=0 --set monitor.table_samples=0`."


@dataclass(frozen=True)
class Measurement:
    """A number of a generator and everything needed to measure it again."""

    metric: str
    """Name with its sample count, such as `fid5k`: without it, a number says nothing."""
    value: float
    images: int
    seconds_per_image: float
    facts: dict[str, Any]
    """What it was compared with and what looked at the images."""
    seed: int
    sampler: dict[str, Any]
    accuracy: float | None = None
    """Share of images of the class they were drawn as, where a network can tell."""
    details: dict[str, Any] = field(default_factory=dict)
    cached: bool = False
    """Whether the number is of an earlier run; the time is not."""

    def as_dict(self) -> dict[str, Any]:
        """The measurement as JSON-ready values."""
        return {
            "metric": self.metric,
            "value": self.value,
            "images": self.images,
            **({} if self.accuracy is None else {"accuracy": self.accuracy}),
            "seconds_per_image": self.seconds_per_image,
            **self.facts,
            "seed": self.seed,
            "sampler": self.sampler,
            **({"details": self.details} if self.details else {}),
            **({"cached": True} if self.cached else {}),
        }


class Stream(Images):
    """What a sampler draws for classes or prompts, from one stream of random numbers, timed."""

    def __init__(
        self, teacher: Teacher, wanted: Sequence[int] | Sequence[str], device: torch.device
    ) -> None:
        self.teacher, self.wanted, self.device = teacher, wanted, device
        self.sampler: Sampler | None = None
        self.seconds = 0.0
        if teacher.takes_prompts:
            self.prompts = tuple(str(prompt) for prompt in wanted)

    def __len__(self) -> int:
        return len(self.wanted)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """All images from the first on: the stream cannot begin in its middle."""
        assert self.sampler is not None, "a sampler is set before anything is drawn"
        assert (start, stop) == (0, None)
        generator = torch.Generator(self.device).manual_seed(SEED)
        for first in range(0, len(self), size):
            part = self.wanted[first : first + size]
            started = clock(self.device)
            pictures = self.sampler(condition(self.teacher, part).to(self.device), generator)
            self.seconds += clock(self.device) - started
            prompts = self.prompts[first : first + size]
            labels = () if prompts else tuple(int(label) for label in part)
            yield Batch(to_bytes(pictures), first, prompts, labels)


class Yardstick:
    """The number that a run is held against, ready to be taken of any generator of its teacher."""

    def __init__(
        self, spec: DistillSpec, teacher: Teacher, device: torch.device, say: Say = lambda _: None
    ) -> None:
        """`teacher` has its prompts already; what is missing or cannot be read is said here."""
        self.monitor, self.teacher, self.device = spec.monitor, teacher, device
        self.metric: RunMetric = spec.monitor.metric
        self.measured: MetricName = measured_by(self.metric)
        local_dir = Path(spec.teacher.local_dir) if spec.teacher.local_dir else None
        store = HubStore(local_dir=local_dir, say=say)
        given = chosen_prompts(spec.monitor.prompts, store)
        self.prompts = prompts_for(self.measured, teacher.name, given, store)
        refuse_unread_prompts("monitor.prompts", given, [self.prompts])
        self.own_prompts = spec.condition.prompts
        asked = EvalSpec(
            target=teacher.name, metrics=(self.measured,), reference=spec.monitor.reference
        )
        subject = self.subject(spec.monitor.fid_samples)
        self.readers, notes = build_readers(asked.metrics, subject, asked, store, say)
        for note in notes:
            say(note)
        self.try_networks()
        self.accuracy = self.add_accuracy()

    def try_networks(self) -> None:
        """Show every network a gray image: one that looks at no such size says so now."""
        side = self.teacher.space.image_size
        gray = torch.full((1, 3, side, side), 127, dtype=torch.uint8, device=self.device)
        with torch.inference_mode():
            for network, _ in self.readers:
                if network is not None:
                    network(gray)

    def add_accuracy(self) -> Accuracy | None:
        """Also count how many images are of their class, where a network tells the same ones."""
        for network, metrics in self.readers:
            classes = None if self.teacher.takes_prompts else len(self.teacher.class_names)
            if network is not None and network.classes == classes:
                accuracy = Accuracy(network)
                metrics.append(accuracy)
                return accuracy
        return None

    def measure(
        self,
        sampler: Sampler,
        *,
        images: int,
        protocol: dict[str, Any],
        progress: Callable[[int], None] = lambda count: None,
    ) -> Measurement:
        """The number of a sampler, in one pass over images that are drawn for it."""
        subject = self.subject(images)
        stream = subject.images
        assert isinstance(stream, Stream)
        stream.sampler = sampler
        for metric in self.metrics():
            metric.restart(len(stream))
        for batch in stream.batches(subject.batch_size):
            read(batch, self.readers, self.device)
            progress(len(batch))
        result = self.result()
        return Measurement(
            metric=result.metric,
            value=result.value,
            images=len(stream),
            seconds_per_image=stream.seconds / len(stream),
            facts={**facts_of(result), **self.about_prompts(result)},
            seed=SEED,
            sampler=protocol,
            accuracy=self.accuracy.results()[0].value if self.accuracy else None,
            details=result.details,
        )

    def measure_once(
        self,
        sampler: Sampler,
        *,
        images: int,
        protocol: dict[str, Any],
        progress: Callable[[int], None] = lambda count: None,
    ) -> Measurement:
        """As `measure`, but a number that is known from earlier is not found again.

        How fast a sampler is depends on the moment: that is measured anew, on one batch.
        """
        path = row_file(self.facts(images, protocol))
        if (known := read_row(path)) is not None:
            progress(known.images)
            return replace(known, seconds_per_image=self.time(sampler, images), cached=True)
        found = self.measure(sampler, images=images, protocol=protocol, progress=progress)
        write_row(path, found)
        return found

    def knows(self, images: int, protocol: dict[str, Any]) -> bool:
        """Whether a row of the teacher is kept from an earlier run."""
        return read_row(row_file(self.facts(images, protocol))) is not None

    def time(self, sampler: Sampler, images: int) -> float:
        """Seconds for each image of a whole batch."""
        subject = self.subject(images)
        stream = subject.images
        assert isinstance(stream, Stream)
        stream.sampler = sampler
        count = len(next(stream.batches(subject.batch_size)))
        return stream.seconds / count

    def facts(self, images: int, protocol: dict[str, Any]) -> dict[str, Any]:
        """All that decides the number of a sampler, which names a student by its weights."""
        teacher, wanted = self.teacher, self.wanted(images)
        networks = [network_facts(network) for network, _ in self.readers if network is not None]
        judges = [metric.judge() for metric in self.metrics() if isinstance(metric, PromptMetric)]
        parts = {"backbone": teacher.backbone, "tokenizer": teacher.tokenizer}
        seen = condition(teacher, wanted[:CONDITIONS]).tensors
        return {
            "hardware": hardware_name(self.device, 1),
            "teacher": f"{teacher.name}@{teacher.revision}",
            "weights": {name: tensors_hash(part.state_dict()) for name, part in parts.items()},
            "conditions": tensors_hash(seen),
            "null": tensors_hash(teacher.conditioner.null(1).tensors),
            "wanted": wanted,
            "batch": self.subject(images).batch_size,
            "seed": SEED,
            "sampler": protocol,
            "metric": self.metric,
            "networks": [*networks, *judges],
            "reference": content_at(self.monitor.reference),
            "prompts": content_at(self.monitor.prompts),
            "inception": content_at(os.environ.get(VARIABLE)),
        }

    def metrics(self) -> Iterator[Metric]:
        """Everything that counts images."""
        return (metric for _, metrics in self.readers for metric in metrics)

    def result(self) -> Result:
        """The number that was asked for, of those that are measured with it."""
        results = [r for m in self.metrics() if m is not self.accuracy for r in m.results()]
        if self.metric in NEIGHBORS:
            return next(r for r in results if r.metric.startswith(self.metric))
        return results[0]

    def count(self, images: int) -> int:
        """How many images are measured where so many are asked for."""
        return len(self.wanted(images))

    def wanted(self, images: int) -> list[int] | list[str]:
        """Classes or prompts in turn; of a benchmark all prompts."""
        if not self.teacher.takes_prompts:
            return [index % len(self.teacher.class_names) for index in range(images)]
        if self.prompts is not None and self.measured in OWN_PROMPTS:
            return list(self.prompts.prompts_of(0, self.prompts.num_images))
        assert isinstance(self.teacher.conditioner, PromptConditioner)
        known = self.prompts.prompts if self.prompts else self.teacher.conditioner.dataset
        return [known[index % len(known)] for index in range(images)]

    def subject(self, images: int) -> Subject:
        """What is measured, as an evaluation sees it."""
        return Subject(
            images=Stream(self.teacher, self.wanted(images), self.device),
            batch_size=min(AT_ONCE, images_at_once(self.teacher)),
            facts={},
            domain=self.teacher.name,
            takes_prompts=self.teacher.takes_prompts,
            device=self.device,
            prompts=self.prompts,
        )

    def about_prompts(self, result: Result) -> dict[str, Any]:
        """Which prompts the images are of, where there are any and the number does not say it."""
        if not self.teacher.takes_prompts or "prompt_set" in result.protocol:
            return {}
        if self.prompts is not None:
            return {key: short(value) for key, value in self.prompts.protocol().items()}
        if self.own_prompts is not None:
            own = self.own_prompts
            return {"prompts": own if is_reference(own) else Path(own).stem}
        embedded = self.teacher.name in EMBEDDED
        return {"prompts": f"captions of {self.teacher.name}" if embedded else "those of the run"}


def read_row(path: Path) -> Measurement | None:
    """A measurement that was kept; None where there is none, or a damaged one."""
    try:
        row = Measurement(**parse_json(read_text(path, MOST_DOCUMENT)))
    except (OSError, ValueError, TypeError, SpecError):
        return None
    numbers = (row.value, row.seconds_per_image)
    is_whole = isinstance(row.metric, str) and isinstance(row.sampler, dict)
    return row if is_whole and all(isinstance(n, float) for n in numbers) else None


def write_row(path: Path, row: Measurement) -> None:
    """Keep a measurement; where that cannot be, it is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(path, json.dumps(asdict(row)))
    except (OSError, TypeError):
        return


def measured_by(metric: RunMetric) -> MetricName:
    """The metric of `dimo eval` that a number comes from."""
    return "pr" if metric in NEIGHBORS else metric  # type: ignore[return-value]


def short(value: Any) -> Any:
    """A value; of a hash its beginning, which is enough to tell files apart."""
    return value[:16] if isinstance(value, str) and len(value) == 64 else value


def facts_of(result: Result) -> dict[str, Any]:
    """What a number depends on beside its images, with the network's facts among the others."""
    protocol = dict(result.protocol)
    network = protocol.pop("network", None)
    for told_elsewhere in ("images", "reference_images"):
        protocol.pop(told_elsewhere, None)
    if isinstance(network, dict):
        protocol |= {"features": network["name"], "features_sha256": network["sha256"]}
        if network["resize"] in get_args(ResizeName):  # else there is one way only
            protocol["resize"] = network["resize"]
    elif network is not None:
        protocol["network"] = network
    return {key: short(value) for key, value in protocol.items()}


def check_measurable(spec: DistillSpec) -> None:
    """Refuse a run whose number nobody can measure, before anything large is loaded."""
    monitor = spec.monitor
    if not monitor.measures:
        return
    if monitor.metric in WITH_PROMPTS or monitor.prompts is not None:
        check_takes_prompts(spec)
    if monitor.metric == "geneval" and spec.teacher.name != "shapes" and monitor.prompts is None:
        raise MissingError(
            f"GenEval has no prompts of its own for `{spec.teacher.name}`.",
            "Download `prompts/evaluation_metadata.jsonl` of https://github.com/djghosh13/geneval "
            f"and set `monitor.prompts=geneval=FILE`, {NOT_MEASURED}",
        )
    if monitor.metric == "emoji" and spec.teacher.name != "emoji":
        raise SpecError(
            f"`monitor.metric` is emoji, which is about pictures of the teacher `emoji`, and this "
            f"one is `{spec.teacher.name}`.",
            f"Choose another of {', '.join(TITLES)}, {NOT_MEASURED}",
        )
    if monitor.metric in WITH_REFERENCE:
        check_reference(monitor, spec.teacher.name)


def check_takes_prompts(spec: DistillSpec) -> None:
    """Refuse what reads prompts for a teacher that takes classes."""
    monitor = spec.monitor
    if load_skeleton(spec.teacher).takes_prompts:
        return
    if monitor.metric in WITH_PROMPTS:
        raise SpecError(
            f"`monitor.metric` is {monitor.metric}, which compares images with prompts, and "
            f"`{spec.teacher.name}` takes classes.",
            "Choose one of "
            f"{', '.join(name for name in TITLES if name not in WITH_PROMPTS)}, {NOT_MEASURED}",
        )
    raise SpecError(
        f"`monitor.prompts` is set, but `{spec.teacher.name}` takes classes.", "Leave it out."
    )


def check_reference(monitor: MonitorSpec, teacher: str) -> None:
    """Refuse a number that has no real images to compare with."""
    given, title = monitor.reference, TITLES[monitor.metric]
    how = (
        "Set `monitor.reference=FILE` (statistics of ADM, clean-fid or EDM2, or of "
        f"`dimo eval ref build`, or a folder of real images), {NOT_MEASURED}"
    )
    if given in SUITED or given is None:
        named = teacher if given is None else given
        if monitor.metric == "fdd" or named not in SUITED:
            raise MissingError(f"{title} has no built-in reference for `{named}`.", how)
    elif not Path(given).expanduser().exists():
        raise MissingError(f"`monitor.reference` is `{given}`, which does not exist.", how)
