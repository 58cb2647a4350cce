"""Encode images into token shards: resumable, and shared among processes by shard number."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.data.job import Job, facts_of, make_job, mended, unfinished
from dimo_cli.data.shards import (
    INDEX,
    SKIPPED,
    shard_path,
    token_dtype,
    write_json,
    write_shard,
)
from dimo_cli.data.source import Source
from dimo_cli.distributed.orphans import end_with_parent
from dimo_cli.distributed.ranks import are_joined, from_all, is_first, own_rank
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.locking import LOCK, locked
from dimo_cli.files.writing import file_sha256, tidy, whole_file, writing_to
from dimo_cli.specs.data import DatasetIndex, EncodeSpec, Recipe, ShardEntry
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_teacher

RUN_AGAIN = "Mend that and run the same command again: finished shards are kept."


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one call did; `index` is None while other processes are not done."""

    images: int
    """Of the source, those among them that were skipped."""
    shards: int
    kept: int
    index: DatasetIndex | None
    skipped: tuple[tuple[str, str], ...] = ()
    """Names of images that could not be encoded, each with the reason."""


@torch.inference_mode()
def encode_shard(
    job: Job, number: int, teacher: Teacher, device: str, advance: Callable[[int], None]
) -> None:
    """Encode one shard and write it whole; images that cannot be encoded are listed in it."""
    rows = job.shards()[number]
    facts = job.facts(rows)  # first: a file that is replaced from now on is another one
    parts: list[Tensor] = []
    skipped: dict[int, str] = {}
    for start in range(rows.start, rows.stop, job.batch):
        batch = range(start, min(start + job.batch, rows.stop))
        found = {row: job.read(row) for row in batch}
        skipped |= {row: why for row, why in found.items() if isinstance(why, str)}
        images = [image for image in found.values() if isinstance(image, Tensor)]
        if images:
            seen = with_mirrors(torch.stack(images)) if job.recipe.flips else torch.stack(images)
            parts.append(teacher.tokenizer.encode(seen.to(device)).cpu())
        advance(len(batch))
    nothing = torch.zeros(0, job.recipe.length, job.recipe.groups, dtype=torch.long)
    tokens = torch.cat(parts or [nothing]).to(token_dtype(job.recipe.codes))
    condition = job.condition_of([row for row in rows if row not in skipped])
    listed = [(job.images.names[row], why) for row, why in skipped.items()]
    if listed:
        facts["skipped"] = listed
    write_shard(shard_path(job.out, number), tokens, condition, facts)


def with_mirrors(images: Tensor) -> Tensor:
    """Each image [B, 3, H, W], and its mirror image after it."""
    return torch.stack([images, images.flip(-1)], 1).flatten(0, 1)


def write_index(
    job: Job, source: str, classes: dict[str, int]
) -> tuple[DatasetIndex | None, list[tuple[str, str]]]:
    """Write `index.json` if every shard is there, beside a list of the images that are not."""
    if unfinished(job):
        return None, []
    entries: list[ShardEntry] = []
    skipped: list[tuple[str, str]] = []
    for number, rows in enumerate(job.shards()):
        path = shard_path(job.out, number)
        lost = facts_of(path)["skipped"]
        skipped += lost
        if len(lost) < len(rows):
            images = (len(rows) - len(lost)) * job.copies
            entries.append(entry_of(path, images, job.recipe))
    if not entries:
        name, why = skipped[0]
        raise SpecError(
            f"None of the {len(skipped):,} images of `{source}` can be encoded: `{name}`: {why}.",
            "Convert them to RGB with 8 bits per channel, for example to PNG.",
        )
    index = DatasetIndex(
        dimo=__version__,
        source=source,
        images=sum(entry.images for entry in entries),
        skipped=len(skipped),
        recipe=job.recipe,
        classes=classes,
        shards=tuple(entries),
    )
    write_skipped(job.out / SKIPPED, skipped)
    write_json(job.out / INDEX, index.model_dump(mode="json"))
    return index, skipped


def entry_of(path: Path, images: int, recipe: Recipe) -> ShardEntry:
    """What the index says of a finished shard."""
    captions = path.with_suffix(".json") if recipe.condition == "captions" else None
    return ShardEntry(
        file=path.name,
        images=images,
        sha256=file_sha256(path),
        captions_sha256=file_sha256(captions) if captions else None,
    )


def write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """List what was skipped, a line for each; no file where nothing was."""
    if not skipped:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"image": name, "reason": why}) + "\n" for name, why in skipped]
    with whole_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


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
    in_job = world > 1
    own = locked(out, f"{LOCK}-{rank}") if in_job else nullcontext()
    with writing_to(out, RUN_AGAIN), locked(out, shared=in_job), own:
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
    todo = sorted({*unfinished(job), *mended(job)})
    numbers = range(rank, len(job.shards()), world)
    if world == 1:
        tidy(out)  # nobody else writes here; ranks of other machines may
    if todo:
        (out / INDEX).unlink(missing_ok=True)  # it comes back when all shards are there
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
    if is_first() or not are_joined():
        index, skipped = write_index(job, spec.source, classes)
        return Encoded(len(job.images), len(job.shards()), kept, index, tuple(skipped))
    return Encoded(len(job.images), len(job.shards()), kept, None)


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
    arguments = (job, list(numbers), source, processes, reports, os.getpid())
    workers = multiprocessing.spawn(work, arguments, nprocs=processes, join=False)
    assert workers is not None
    error: DimoError | None = None
    done = False
    try:
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
    finally:  # after Ctrl-C too
        for process in workers.processes:
            process.terminate()
            process.join()
    if error is not None:
        raise error


def worker_died(problem: Exception) -> MissingError:
    """The sentence for a process that was killed or crashed without a word."""
    return MissingError(
        f"A process that encoded images died ({problem}).",
        "If memory ran out, use fewer `--processes` or a smaller `--batch`; then run the same "
        "command again: finished shards are kept.",
    )


def work(
    rank: int,
    job: Job,
    numbers: Sequence[int],
    source: TeacherSource,
    world: int,
    reports: Any,
    parent: int,
) -> None:
    """One of several processes: encode every `world`-th of the shards."""
    end_with_parent(parent)
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
    except OSError as error:  # of the disk that the images are on
        what = f"{error.strerror or error}: `{error.filename or 'the images'}`."
        reports.put(MissingError(what, RUN_AGAIN))
