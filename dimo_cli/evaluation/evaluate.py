"""An evaluation from spec to results: networks and metrics around one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dimo_cli.data.arrays import Batch
from dimo_cli.distributed.ranks import as_first_says, is_first
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.cache import cache_file, read_cache, write_cache
from dimo_cli.evaluation.gates import check_limits
from dimo_cli.evaluation.readers import (
    SUITED,
    Readers,
    Say,
    build_readers,
    judge_of,
    reads_prompts,
)
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.evaluation.subjects import (
    ON_DISK,
    Opened,
    Subject,
    chosen_prompts,
    open_target,
    subject_of,
)
from dimo_cli.files.png import save_png
from dimo_cli.files.writing import check_empty, check_writable
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.emoji import HELD_OUT
from dimo_cli.metrics.geneval import check_tasks
from dimo_cli.metrics.geneval_folder import is_geneval_folder, read_folder, save_batch, start_folder
from dimo_cli.metrics.preferences import check_hps_count
from dimo_cli.metrics.prompts import PromptSet, load_prompts
from dimo_cli.metrics.protocol import Features, Result
from dimo_cli.specs.evaluate import EvalSpec, MetricName

OWN_PROMPTS: Mapping[MetricName, str] = {"hps": "hpsv2", "geneval": "geneval", "emoji": "emoji"}
# The embedded worlds have prompts of their own, and know no others.
OF_WORLDS: Mapping[str, Mapping[MetricName, str]] = {
    "shapes": {"geneval": "shapes"},
    "emoji": {"emoji": "emoji"},
}


def evaluate(
    spec: EvalSpec,
    store: HubStore,
    say: Say = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    use_cache: bool = True,
) -> Evaluation:
    """Measure what a spec asks for; an unchanged target is not measured twice."""
    images_to = Path(spec.save_images).expanduser() if spec.save_images else None
    if images_to is not None:
        check_writable(images_to, "--save-images")
        if is_first():  # another process may have begun to write
            check_empty(images_to)
    opened = open_target(spec, store, say)
    found: list[Evaluation] = []
    asked = groups(spec, opened, store)
    check_limits((*spec.maximum, *spec.minimum), [name for _, names in asked for name in names])
    for prompts, names in asked:
        subject = subject_of(opened, spec, prompts, store)
        check_counts(names, subject)
        path = cache_file(spec, subject, names, store)
        may_read = use_cache and images_to is None
        document = as_first_says(read_cache(path) if may_read and is_first() else None)
        if document is not None:
            found.append(replace(Evaluation.read(document), cached=True))
            continue
        readers, notes = build_readers(names, subject, spec, store, say)
        notes += judges_that_selected(names, subject)
        # Its own numbers begin at 0, as those of any other part do.
        folder = images_to / names[0] if images_to and len(asked) > 1 else images_to
        results = one_pass(subject, readers, folder, progress)
        results = [with_protocol(result, subject) for result in results]
        found.append(Evaluation(results, subject.facts, [*notes, *subject.images.notes()]))
        if is_first():
            write_cache(path, found[-1])
    return Evaluation(
        [result for part in found for result in part.results],
        found[0].subject,
        list(dict.fromkeys(note for part in found for note in part.notes)),
        all(part.cached for part in found),
    )


def judges_that_selected(names: Sequence[MetricName], subject: Subject) -> list[str]:
    """What is to be said of numbers by the very judge that the images were optimized for."""
    optimized_for = subject.facts.get("tteo", {}).get("rewards", {})
    return [
        f"{judge} is what TTEO raised and selected by: that it is higher now is no independent "
        "proof of better images."
        for judge in dict.fromkeys(judge_of(name, subject.domain) for name in names)
        if judge in optimized_for
    ]


def groups(
    spec: EvalSpec, opened: Opened, store: HubStore
) -> list[tuple[PromptSet | None, list[MetricName]]]:
    """The metrics by the prompts that they are measured on: one pass for each."""
    names = spec.metrics or SUITED.get(opened.domain, ("fid", "is", "pr"))
    given = chosen_prompts(spec.prompts, store) or prompts_within(opened.path)
    found: dict[str | None, tuple[PromptSet | None, list[MetricName]]] = {}
    for name in dict.fromkeys(names):
        if reads_prompts(name) and not opened.takes_prompts:
            raise SpecError(
                f"`{name}` compares images with prompts, and `{opened.domain}` takes classes."
            )
        prompts = prompts_for(name, opened.domain, given, store) if opened.path is None else given
        found.setdefault(prompts.name if prompts else None, (prompts, []))[1].append(name)
    refuse_unread_prompts("--prompts", given, [prompts for prompts, _ in found.values()])
    return list(found.values())


def prompts_for(
    name: MetricName, domain: str, given: PromptSet | None, store: HubStore
) -> PromptSet | None:
    """The prompts that a metric draws images of: its own benchmark's, or those that are given."""
    own = OF_WORLDS.get(domain, OWN_PROMPTS).get(name)
    if own and (given is None or given.name != own):
        return load_prompts(own, store)
    return given


def refuse_unread_prompts(
    setting: str, given: PromptSet | None, read: Sequence[PromptSet | None]
) -> None:
    """Refuse prompts that are given where every metric is of a benchmark of its own."""
    if given is not None and given not in read:
        own = ", ".join(f"`{prompts.name}`" for prompts in read if prompts)
        raise SpecError(
            f"`{setting}` is `{given.name}`, and nothing would read it: what is measured has "
            f"prompts of its own, {own}.",
            "Leave it out, or measure what takes any prompts, such as `clip`.",
        )


def check_counts(names: Sequence[MetricName], subject: Subject) -> None:
    """Refuse images that are too few for a benchmark, before networks are loaded."""
    prompts, count = subject.prompts, len(subject.images)
    if prompts is None:
        return
    if "hps" in names and prompts.name == OWN_PROMPTS["hps"]:
        check_hps_count(prompts, count)
    tasks = [task for task in dict.fromkeys(prompts.tags) if task != HELD_OUT]
    for name in names:
        if name in ("geneval", "emoji") and prompts.requests:
            tags = [prompts.tags[prompts.prompt_number(image)] for image in range(count)]
            check_tasks(name, tasks, tags)


def prompts_within(path: Path | None) -> PromptSet | None:
    """The prompts of a folder in GenEval's layout."""
    return read_folder(path)[0] if path and is_geneval_folder(path) else None


def export_geneval(
    spec: EvalSpec, folder: Path, store: HubStore, say: Say, progress: Callable[[int, int], None]
) -> int:
    """Draw GenEval's images into the layout of the original tool; returns how many there are."""
    opened = open_target(spec, store, say)
    if opened.path is not None:
        raise SpecError(f"`{opened.path}` has images already: name a student or a teacher.")
    prompts = chosen_prompts(spec.prompts, store)
    if prompts is None or not opened.takes_prompts:
        raise SpecError(
            f"GenEval's images are drawn from prompts; `{opened.domain}` takes classes."
        )
    subject = subject_of(opened, spec, prompts, store)
    start_folder(folder, prompts)
    for batch in subject.images.batches(subject.batch_size):
        save_batch(folder, prompts, batch)
        progress(batch.first + len(batch), len(subject.images))
    return len(subject.images)


def one_pass(
    subject: Subject,
    readers: Readers,
    folder: Path | None,
    progress: Callable[[int, int], None],
) -> list[Result]:
    """Send every image of this rank's share through each network once; then the numbers."""
    start, stop = share(len(subject.images), subject.batch_size)
    done = 0
    for batch in subject.images.batches(subject.batch_size, start, stop):
        read(batch, readers, subject.device)
        if folder is not None:
            save_images(folder, batch.images, batch.first)
        done += len(batch)
        progress(done, stop - start)
    metrics = [metric for _, part in readers for metric in part]
    for metric in metrics:
        metric.reduce()
    return [result for metric in metrics for result in metric.results()]


def read(batch: Batch, readers: Readers, device: torch.device) -> None:
    """Send a batch through each network once, and its features to the metrics on it."""
    images = batch.images.to(device)
    batch = replace(batch, images=images)
    with torch.inference_mode():
        for network, metrics in readers:
            features = network(images) if network else Features(images.new_empty(0))
            for metric in metrics:
                metric.add(features, batch)


def share(total: int, batch: int) -> tuple[int, int]:
    """This rank's part of the images: whole batches, so that their seeds do not change."""
    if not dist.is_initialized():
        return 0, total
    batches, rank, world = math.ceil(total / batch), dist.get_rank(), dist.get_world_size()
    start, stop = (batches * number // world * batch for number in (rank, rank + 1))
    return start, min(total, stop)


def with_protocol(result: Result, subject: Subject) -> Result:
    """A result with what every protocol has."""
    protocol: dict[str, Any] = {"images": len(subject.images), **result.protocol}
    if "crop" in subject.facts:  # of the images, and of a folder that they are compared with
        protocol["crop"] = subject.facts["crop"]
    if subject.prompts is not None:
        protocol |= subject.prompts.protocol()
    elif subject.takes_prompts and subject.domain != ON_DISK:
        protocol |= {"prompts": f"captions of {subject.domain}"}
    return replace(result, protocol=protocol)


def save_images(folder: Path, images: torch.Tensor, first: int) -> None:
    """Keep images as PNG files, named by their numbers."""
    for number, image in enumerate(images.cpu().permute(0, 2, 3, 1).numpy(), start=first):
        name = f"{number:06d}.png"
        save_png(image, folder / name, {}, "Choose another folder with `--save-images`.")
