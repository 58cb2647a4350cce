"""Encode images into token shards: resumable, and shared among processes by shard number."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.data.images import RESIZE, Source, class_labels
from dimo_cli.data.shards import FACTS, INDEX, shard_path, token_dtype, write_json, write_shard
from dimo_cli.distributed.ranks import are_joined, from_all, is_first, own_rank
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.locking import LOCK, locked
from dimo_cli.files.writing import file_sha256, writing_to
from dimo_cli.specs.data import DatasetIndex, EncodeSpec, Recipe, ShardEntry
from dimo_cli.specs.distill import TeacherSource
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_teacher

RUN_AGAIN = "Mend that and run the same command again: finished shards are kept."


@dataclass(frozen=True)
class Job:
    """Everything a process needs to encode its shards."""

    images: Source
    conditions: Tensor | list[str]
    """Labels [N] or captions."""
    recipe: Recipe
    out: Path
    batch: int

    def shards(self) -> list[range]:
        """The images of each shard."""
        count, size = len(self.images), self.recipe.shard_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def facts(self, rows: range) -> dict[str, Any]:
        """What is written into a shard: the recipe, and a digest of which images it holds."""
        part = slice(rows.start, rows.stop)
        conditions = self.conditions[part]
        if isinstance(conditions, Tensor):
            conditions = conditions.tolist()
        items = json.dumps([self.images.names[part], conditions])
        digest = hashlib.sha256(items.encode()).hexdigest()
        return {"recipe": self.recipe.model_dump(mode="json"), "items": digest}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one call did; `index` is None while other processes are not done."""

    images: int
    shards: int
    kept: int
    index: DatasetIndex | None


def make_job(
    spec: EncodeSpec, images: Source, teacher: Teacher, architecture: dict[str, Any], out: Path
) -> tuple[Job, dict[str, int]]:
    """The job, and the class of each class word; unknown classes are refused here."""
    space, captions = teacher.space, teacher.takes_prompts
    classes = {} if captions else class_labels(images.words, teacher)
    recipe = Recipe(
        teacher=teacher.name,
        revision=teacher.revision,
        architecture=architecture,
        image_size=space.image_size,
        resize=RESIZE,
        length=space.length,
        groups=space.groups,
        codes=space.codes,
        condition="captions" if captions else "labels",
        shard_size=spec.shard_size,
    )
    labels = torch.tensor([classes.get(word, 0) for word in images.words], dtype=torch.int32)
    conditions = images.words if captions else labels
    return Job(images, conditions, recipe, out, spec.batch), classes


def is_finished(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a shard is there and of the same images; one of another recipe is refused."""
    try:
        with safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {}).get(FACTS, "{}"))
            theirs = dict(known["recipe"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return False  # not there, or damaged: encode it
    recipe = facts["recipe"]
    if recipe["condition"] == "captions" and not path.with_suffix(".json").is_file():
        return False
    different = [key for key in recipe if theirs.get(key) != recipe[key]]
    if different:
        key = different[0]
        raise SpecError(
            f"`{path.parent}` has shards of another recipe: `{key}` is {theirs.get(key)!r} there "
            f"and {recipe[key]!r} now.",
            "Choose another folder with --out, or delete that one.",
        )
    return bool(known.get("items") == facts["items"])


def unfinished(job: Job) -> list[int]:
    """Numbers of the shards that are still to be encoded."""
    return [
        number
        for number, rows in enumerate(job.shards())
        if not is_finished(shard_path(job.out, number), job.facts(rows))
    ]


@torch.inference_mode()
def encode_shard(
    job: Job, number: int, teacher: Teacher, device: str, advance: Callable[[int], None]
) -> None:
    """Encode one shard and write it whole."""
    rows = job.shards()[number]
    parts: list[Tensor] = []
    for start in range(rows.start, rows.stop, job.batch):
        batch = range(start, min(start + job.batch, rows.stop))
        images = torch.stack([job.images.image(row, job.recipe.image_size) for row in batch])
        parts.append(teacher.tokenizer.encode(images.to(device)).cpu())
        advance(len(batch))
    tokens = torch.cat(parts).to(token_dtype(job.recipe.codes))
    condition = job.conditions[rows.start : rows.stop]
    write_shard(shard_path(job.out, number), tokens, condition, job.facts(rows))


def write_index(job: Job, source: str, classes: dict[str, int]) -> DatasetIndex | None:
    """Write `index.json` if every shard is there."""
    if unfinished(job):
        return None
    paths = [shard_path(job.out, number) for number in range(len(job.shards()))]
    entries = [
        ShardEntry(file=path.name, images=len(rows), sha256=file_sha256(path))
        for path, rows in zip(paths, job.shards(), strict=True)
    ]
    index = DatasetIndex(
        dimo=__version__,
        source=source,
        images=len(job.images),
        recipe=job.recipe,
        classes=classes,
        shards=tuple(entries),
    )
    write_json(job.out / INDEX, index.model_dump(mode="json"))
    return index


def device_of(rank: int) -> str:
    """One GPU a process, in turn, where there are any."""
    count = torch.cuda.device_count()
    return f"cuda:{rank % count}" if count else "cpu"


def encode(
    spec: EncodeSpec,
    images: Source,
    teacher: Teacher,
    source: TeacherSource,
    out: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> Encoded:
    """Encode what is not yet encoded, in this process or in several of its own."""
    rank, world = own_rank()
    if world > 1 and spec.processes > 1:
        raise SpecError(
            f"`--processes` is {spec.processes}, but a launcher started {world} processes already.",
            "Use one of the two.",
        )
    job, classes = make_job(spec, images, teacher, source.architecture, out)
    # A launcher's processes share the folder; each rank is there once.
    with writing_to(out, RUN_AGAIN), locked(out, f"{LOCK}-{rank}"):
        return encode_share(spec, job, classes, teacher, source, advance)


def encode_share(
    spec: EncodeSpec,
    job: Job,
    classes: dict[str, int],
    teacher: Teacher,
    source: TeacherSource,
    advance: Callable[[int], None],
) -> Encoded:
    """Encode what this rank is to do, and write the index if nothing is left."""
    (rank, world), out = own_rank(), job.out
    todo = unfinished(job)
    if todo:
        (out / INDEX).unlink(missing_ok=True)  # it comes back when all shards are there
    numbers = range(rank, len(job.shards()), world)
    mine = [number for number in todo if number in numbers]
    advance(sum(len(job.shards()[number]) for number in numbers if number not in todo))
    processes = min(spec.processes, len(mine))
    if processes > 1:
        encode_in_processes(job, mine, source, processes, advance)
    else:
        device = device_of(rank)
        teacher.tokenizer.to(device)
        for number in mine:
            encode_shard(job, number, teacher, device, advance)
    kept = sum(from_all(len(numbers) - len(mine)))  # by when all of them are done
    index = write_index(job, spec.source, classes) if is_first() or not are_joined() else None
    return Encoded(len(job.images), len(job.shards()), kept, index)


def encode_in_processes(
    job: Job,
    numbers: Sequence[int],
    source: TeacherSource,
    processes: int,
    advance: Callable[[int], None],
) -> None:
    """Share shards among new processes; the first error of one of them ends them all."""
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    arguments = (job, list(numbers), source, processes, reports)
    workers = multiprocessing.spawn(work, arguments, nprocs=processes, join=False)
    assert workers is not None
    error: DimoError | None = None
    done = False
    while not done and error is None:
        try:
            done = workers.join(timeout=0.1)
        except multiprocessing.ProcessExitedException as problem:  # it also ended the others
            error = worker_died(problem)
        while not reports.empty():
            report = reports.get()
            if isinstance(report, DimoError):
                error = report
            else:
                advance(report)
    if error is not None:
        for process in workers.processes:
            process.terminate()
            process.join()
        raise error


def worker_died(problem: Exception) -> MissingError:
    """The sentence for a process that was killed or crashed without a word."""
    return MissingError(
        f"A process that encoded images died ({problem}).",
        "If memory ran out, use fewer `--processes` or a smaller `--batch`; then run the same "
        "command again: finished shards are kept.",
    )


def work(
    rank: int, job: Job, numbers: Sequence[int], source: TeacherSource, world: int, reports: Any
) -> None:
    """One of several processes: encode every `world`-th of the shards."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    try:
        teacher = load_teacher(source, with_backbone=False)
        device = device_of(rank)
        teacher.tokenizer.to(device)
        with writing_to(job.out, RUN_AGAIN):
            for number in numbers[rank::world]:
                encode_shard(job, number, teacher, device, reports.put)
    except DimoError as error:
        reports.put(error)
