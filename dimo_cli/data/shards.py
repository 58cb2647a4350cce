"""Real images as tokens: a folder of safetensors shards, read where it lies.

shard-00000.safetensors   tokens [N, L, G] in the smallest integer type, and labels [N] if any
shard-00000.json          captions, where images have these
index.json                recipe, counts and hashes: written when all shards are there
skipped.jsonl             images of the source that could not be encoded, where there were any
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, MOST_PROMPTS, read_text
from dimo_cli.files.untrusted import first_problem, parse_json
from dimo_cli.files.writing import file_sha256, whole_file
from dimo_cli.specs.data import DatasetIndex, Recipe, ShardEntry
from dimo_cli.teachers import digits
from dimo_cli.teachers.emoji import real as emoji
from dimo_cli.teachers.protocol import Teacher

INDEX = "index.json"
SKIPPED = "skipped.jsonl"
FACTS = "dimo"  # where a shard says what it was made of
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
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


def write_shard(
    path: Path, tokens: Tensor, condition: Tensor | Captions, facts: Mapping[str, Any]
) -> None:
    """Write one shard; captions first, as the tokens' file is what says that it is finished."""
    tensors = {"tokens": tokens.contiguous()}
    if isinstance(condition, Tensor):
        tensors["labels"] = condition.to(torch.int32)
    else:
        write_json(path.with_suffix(".json"), condition)
    with whole_file(path) as temporary:
        # One entry only: safetensors shuffles them, and equal shards are to be equal files.
        save_file(tensors, temporary, metadata={FACTS: json.dumps(facts)})


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole, or not at all."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    with whole_file(path) as temporary:
        # What of a file's name is no UTF-8 is escaped, as JSON has it.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


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
        return DatasetIndex.model_validate_json(read_text(path, MOST_DOCUMENT))
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
    def open(cls, folder: Path, teacher: Teacher | None = None) -> TokenDataset:
        """The dataset of a finished folder, memory-mapped, and refused if not for `teacher`.

        Every file is read once and its hash compared, so that no run trains on damaged images.
        """
        index = read_index(folder)
        with ThreadPoolExecutor(os.cpu_count() or 1, "hash") as pool:
            shards = pool.map(lambda entry: sound_shard(folder, entry, index.recipe), index.shards)
            tokens, conditions = zip(*shards, strict=True)
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


def sound_shard(
    folder: Path, entry: ShardEntry, recipe: Recipe
) -> tuple[Tensor, Tensor | Captions]:
    """Tokens of a shard and its labels or captions, as they were written; else refused."""
    path = folder / entry.file
    captions = path.with_suffix(".json")
    check_hash(path, entry.sha256)
    if entry.captions_sha256 is not None:
        check_hash(captions, entry.captions_sha256)
    try:
        tokens, condition = read_shard(path, recipe.condition == "captions")
        problem = mismatch(tokens, condition, entry.images, recipe)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise damaged(path, f"it is no shard ({type(error).__name__})") from error
    if problem:
        raise damaged(path, problem)
    return tokens, condition


def check_hash(path: Path, expected: str) -> None:
    """Refuse a file whose bytes are not those that were written."""
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror})") from error
    if digest != expected:
        raise damaged(path, f"its hash is not the one in `{INDEX}`")


def damaged(path: Path, why: str) -> MissingError:
    """The sentence for a file of a folder that is not as it was written."""
    return MissingError(
        f"`{path}` is missing or damaged: {why}.",
        "Delete it and run the same `dimo data encode` again; the others are kept.",
    )


def read_shard(path: Path, captions: bool) -> tuple[Tensor, Tensor | Captions]:
    """Tokens of a shard, memory-mapped, and its labels or captions."""
    tensors = load_file(path)
    if captions:
        text = read_text(path.with_suffix(".json"), MOST_PROMPTS)
        return tensors["tokens"], list(parse_json(text))
    return tensors["tokens"], tensors["labels"]


def is_empty(path: Path) -> bool:
    """Whether a shard has no image, since all of its own were skipped: no index lists it."""
    try:
        with safe_open(path, "pt") as file:
            return bool(file.get_slice("tokens").get_shape()[0] == 0)
    except (OSError, SafetensorError):
        return False


def mismatch(tokens: Tensor, condition: Tensor | Captions, images: int, recipe: Recipe) -> str:
    """Why a shard does not hold ids of the recipe with a label or a caption each; else nothing."""
    if tokens.dtype not in INTEGERS:
        return f"its tokens are of {tokens.dtype}, not whole numbers"
    if tokens.shape != (images, recipe.length, recipe.groups):
        wanted = [images, recipe.length, recipe.groups]
        return f"its tokens have the shape {list(tokens.shape)}, not {wanted}"
    # As Python's integers: 256 codes are one more than a byte can say.
    if int(tokens.min()) < 0 or int(tokens.max()) >= recipe.codes:
        return f"it has ids that are not among the {recipe.codes:,} of its recipe"
    if not isinstance(condition, Tensor):
        is_whole = len(condition) == images and all(isinstance(text, str) for text in condition)
        return "" if is_whole else "its captions are not one text for each image"
    if condition.dtype not in INTEGERS or condition.shape != (images,) or int(condition.min()) < 0:
        return "its labels are not one class for each image"
    return ""


BUILTIN: Mapping[str, Callable[[], tuple[Tensor, Tensor | Captions]]] = {
    "digits": digits.training_tokens,
    "emoji": emoji.training_tokens,
}


def builtin_dataset(teacher: str, setting: str = "gan.data") -> TokenDataset:
    """The real images that ship with a teacher, where any do; `setting` is where others go."""
    if teacher not in BUILTIN:
        raise SpecError(
            f"No real images ship with `{teacher}`.",
            f"Encode your own: `dimo data encode SOURCE --preset {teacher} --out FOLDER`, then set "
            f"`{setting}` to that folder.",
        )
    tokens, conditions = BUILTIN[teacher]()
    return TokenDataset([tokens], [conditions])
