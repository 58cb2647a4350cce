"""What is to be encoded, shard by shard, and which of it is done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dimo_cli.data.images import class_labels
from dimo_cli.data.shards import FACTS, shard_path
from dimo_cli.data.source import RESIZE, Source
from dimo_cli.errors import SpecError
from dimo_cli.specs.data import EncodeSpec, Recipe
from dimo_cli.teachers.protocol import Teacher


@dataclass(frozen=True)
class Job:
    """Everything a process needs to encode its shards."""

    images: Source
    conditions: Tensor | list[str]
    """Labels [N] or captions."""
    recipe: Recipe
    out: Path
    batch: int
    strict: bool = False

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
        items = json.dumps([self.images.names[part], conditions, self.images.marks(rows)])
        digest = hashlib.sha256(items.encode()).hexdigest()
        return {"recipe": self.recipe.model_dump(mode="json"), "items": digest}

    def read(self, row: int) -> Tensor | str:
        """An image, or why it is skipped; one that is not to be skipped is refused."""
        if self.strict:
            return self.images.image(row, self.recipe.image_size)
        return self.images.image_or_reason(row, self.recipe.image_size)

    def condition_of(self, rows: Sequence[int]) -> Tensor | list[str]:
        """The labels or captions of some images, and of their mirror images beside them."""
        rows = [row for row in rows for _ in range(self.copies)]
        if isinstance(self.conditions, Tensor):
            return self.conditions[rows]
        return [self.conditions[row] for row in rows]

    @property
    def copies(self) -> int:
        """How often each image is there."""
        return 2 if self.recipe.flips else 1


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
        flips=spec.flips,
    )
    labels = torch.tensor([classes.get(word, 0) for word in images.words], dtype=torch.int32)
    conditions = images.words if captions else labels
    return Job(images, conditions, recipe, out, spec.batch, spec.strict), classes


def facts_of(path: Path) -> dict[str, Any]:
    """What a shard says of itself; nothing where it is not there, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            known = dict(json.loads((file.metadata() or {}).get(FACTS, "{}")))
            known["recipe"] = Recipe.model_validate(known["recipe"]).model_dump(mode="json")
            known["skipped"] = [(str(row), str(why)) for row, why in known.get("skipped", [])]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return known


def is_finished(job: Job, number: int, rows: range) -> bool:
    """Whether a shard is there and of the same images; one of another recipe is refused."""
    path = shard_path(job.out, number)
    known = facts_of(path)
    if not known:
        return False  # encode it
    facts = job.facts(rows)
    recipe, theirs = facts["recipe"], known["recipe"]
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
        number for number, rows in enumerate(job.shards()) if not is_finished(job, number, rows)
    ]


def mended(job: Job) -> list[int]:
    """Numbers of finished shards that skipped an image which can be read by now, or must be."""
    rows = {name: row for row, name in enumerate(job.images.names)}
    return [
        number
        for number in range(len(job.shards()))
        for name, _ in facts_of(shard_path(job.out, number)).get("skipped", ())
        if name in rows and isinstance(job.read(rows[name]), Tensor)
    ]
