"""Real images as tokens: a folder of safetensors shards, read where it lies.

shard-00000.safetensors   tokens [N, L, G] in the smallest integer type, and labels [N] if any
shard-00000.json          captions, where images have these
index.json                recipe, counts and hashes: written when all shards are there
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.untrusted import first_problem, parse_json
from dimo_cli.files.writing import file_sha256, fsync_path
from dimo_cli.specs.data import DatasetIndex, Recipe
from dimo_cli.teachers.digits import training_tokens
from dimo_cli.teachers.protocol import Teacher

INDEX = "index.json"
FACTS = "dimo"  # where a shard says what it was made of
Captions = list[str]


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard's tokens are."""
    return folder / f"shard-{number:05d}.safetensors"


def token_dtype(codes: int) -> torch.dtype:
    """The smallest integer type for ids 0 to codes - 1."""
    for dtype in (torch.uint8, torch.int16):
        if codes - 1 <= torch.iinfo(dtype).max:
            return dtype
    return torch.int32


def put_in_place(temporary: Path, final: Path) -> None:
    """Rename a finished file into place, so that it is there whole or not at all."""
    fsync_path(temporary)
    temporary.replace(final)
    fsync_path(final.parent)


def write_shard(
    path: Path, tokens: Tensor, condition: Tensor | Captions, facts: Mapping[str, Any]
) -> None:
    """Write one shard; captions first, as the tokens' file is what says that it is finished."""
    tensors = {"tokens": tokens.contiguous()}
    if isinstance(condition, Tensor):
        tensors["labels"] = condition.to(torch.int32)
    else:
        write_json(path.with_suffix(".json"), condition)
    temporary = path.with_name(f".{path.name}.tmp")
    # One entry only: safetensors shuffles them, and equal shards are to be equal files.
    save_file(tensors, temporary, metadata={FACTS: json.dumps(facts)})
    put_in_place(temporary, path)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    put_in_place(temporary, path)


def read_index(folder: Path) -> DatasetIndex:
    """The index of a finished folder."""
    path = folder / INDEX
    if not path.is_file():
        begun = folder.is_dir() and any(folder.glob("shard-*.safetensors"))
        raise MissingError(
            f"`{folder}` is not finished: it has shards but no {INDEX}."
            if begun
            else f"`{folder}` holds no encoded images: there is no {INDEX}.",
            "Run the same `dimo data encode` again; finished shards are kept."
            if begun
            else "Make it with `dimo data encode SOURCE --preset NAME --out FOLDER`.",
        )
    try:
        return DatasetIndex.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        where, message = first_problem(error)
        raise MissingError(
            f"`{path}` is no valid index ({where}: {message}).",
            "Delete it and run the same `dimo data encode` again; finished shards are kept.",
        ) from None


class TokenDataset:
    """Images as tokens with their labels or captions; rows are read when they are asked for."""

    def __init__(
        self,
        tokens: Sequence[Tensor],
        conditions: Sequence[Tensor | Captions],
        recipe: Recipe | None = None,
    ) -> None:
        """Shards of tokens [N, L, G], each with labels [N] or N captions."""
        for part, condition in zip(tokens, conditions, strict=True):
            if len(part) != len(condition):
                raise ValueError(f"{len(part)} images, but {len(condition)} conditions")
        self.tokens, self.conditions, self.recipe = list(tokens), list(conditions), recipe
        self.ends = torch.tensor(list(accumulate(len(part) for part in tokens)), dtype=torch.long)

    @classmethod
    def open(
        cls, folder: Path, teacher: Teacher | None = None, verify: bool = False
    ) -> TokenDataset:
        """The dataset of a finished folder, memory-mapped, and refused if not for `teacher`.

        `verify` reads every shard and compares its hash.
        """
        index = read_index(folder)
        tokens: list[Tensor] = []
        conditions: list[Tensor | Captions] = []
        for entry in index.shards:
            path = folder / entry.file
            try:
                part, condition = read_shard(path, index.recipe.condition == "captions")
                whole = len(part) == entry.images and fits(part, condition, index.recipe)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError):
                whole = False
            if not whole or (verify and file_sha256(path) != entry.sha256):
                raise MissingError(
                    f"`{path}` is missing or damaged.",
                    "Delete it and run the same `dimo data encode` again; the others are kept.",
                )
            tokens.append(part)
            conditions.append(condition)
        dataset = cls(tokens, conditions, index.recipe)
        if teacher is not None:
            dataset.check(teacher)
        return dataset

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def has_captions(self) -> bool:
        """Whether images come with captions; otherwise with labels."""
        return bool(self.conditions) and not isinstance(self.conditions[0], Tensor)

    def first_captions(self, count: int) -> list[str]:
        """Some captions, from the first on."""
        parts = [part for part in self.conditions if not isinstance(part, Tensor)]
        return [caption for part in parts for caption in part[:count]][:count]

    def rows(self, indices: Tensor) -> tuple[Tensor, Tensor | Captions]:
        """Tokens [B, L, G] of some images, with their labels [B] or captions, on their device."""
        places = indices.cpu()
        shards = torch.searchsorted(self.ends, places, right=True)
        starts = torch.cat([self.ends.new_zeros(1), self.ends])[shards]
        pairs = list(zip(shards.tolist(), (places - starts).tolist(), strict=True))
        tokens = torch.stack([self.tokens[shard][row] for shard, row in pairs]).long()
        conditions = [self.conditions[shard][row] for shard, row in pairs]
        if self.has_captions:
            return tokens.to(indices.device), [str(caption) for caption in conditions]
        labels = torch.tensor([int(label) for label in conditions])
        return tokens.to(indices.device), labels.to(indices.device)

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor | Captions]:
        """Some `rows` of `count` random images, as `rows`, on the generator's device."""
        chosen = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        return self.rows(chosen[rows])

    def check(self, teacher: Teacher) -> None:
        """Refuse images that were encoded for another teacher."""
        space, recipe = teacher.space, self.recipe
        if recipe is not None and recipe.teacher != teacher.name:
            raise SpecError(
                f"These images were encoded for `{recipe.teacher}`, not for `{teacher.name}`.",
                f"Encode them again with a preset of `{teacher.name}`: `dimo data encode`.",
            )
        shape = tuple(self.tokens[0].shape[1:])
        if shape != (space.length, space.groups):
            raise SpecError(
                f"These images have {shape[0]} x {shape[1]} tokens each, but `{teacher.name}` has "
                f"{space.length} x {space.groups}."
            )
        if self.has_captions != teacher.takes_prompts:
            have, want = ("captions", "labels") if self.has_captions else ("labels", "captions")
            raise SpecError(f"These images have {have}, but `{teacher.name}` needs {want}.")
        labels = [part for part in self.conditions if isinstance(part, Tensor)]
        if labels and max(int(part.max()) for part in labels) >= len(teacher.class_names):
            raise SpecError(
                f"These images have labels beyond the {len(teacher.class_names)} classes of "
                f"`{teacher.name}`.",
                "Encode them again: `dimo data encode`.",
            )


def read_shard(path: Path, captions: bool) -> tuple[Tensor, Tensor | Captions]:
    """Tokens of a shard, memory-mapped, and its labels or captions."""
    tensors = load_file(path)
    if captions:
        text = path.with_suffix(".json").read_text(encoding="utf-8")
        return tensors["tokens"], list(parse_json(text))
    return tensors["tokens"], tensors["labels"]


def fits(tokens: Tensor, condition: Tensor | Captions, recipe: Recipe) -> bool:
    """Whether a shard holds ids of the recipe, and a label or a caption for each image."""
    if tokens.is_floating_point() or tokens.shape[1:] != (recipe.length, recipe.groups):
        return False
    if len(condition) != len(tokens) or tokens.min() < 0 or tokens.max() >= recipe.codes:
        return False
    if isinstance(condition, Tensor):
        is_whole = condition.ndim == 1 and not condition.is_floating_point()
        return is_whole and int(condition.min()) >= 0
    return all(isinstance(caption, str) for caption in condition)


def builtin_dataset(teacher: str) -> TokenDataset:
    """The real images that ship with a teacher, where any do."""
    if teacher != "digits":
        raise SpecError(
            f"No real images ship with `{teacher}`.",
            f"Encode your own: `dimo data encode SOURCE --preset {teacher} --out FOLDER`, then set "
            "`gan.data` to that folder.",
        )
    tokens, labels = training_tokens()
    return TokenDataset([tokens], [labels])
