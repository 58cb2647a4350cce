"""Prompts of a dataset of the Hub: one column becomes, once, a text file with one prompt per line.

The file is in dimo's cache, named after the commit: whatever reads a file of prompts can read it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dimo_cli.errors import SpecError, counted, size
from dimo_cli.files.tables import columns_of, rows_of
from dimo_cli.files.writing import whole_file
from dimo_cli.hub.datasets import (
    Dataset,
    choose_column,
    fetched,
    find_dataset,
    folder_of,
    is_reference,
    parsed,
)
from dimo_cli.hub.problems import disk_full
from dimo_cli.hub.store import cached_path

Say = Callable[[str], None]

USUAL = ("prompt", "caption", "text")  # columns that are meant where none is named
FORMAT = 1  # of what becomes of a text: under another number everything is read again
MOST_CHARACTERS = 10_000  # of a prompt: text encoders read some hundreds
MOST_PROMPTS = 2 * 2**30  # bytes of all of them
MOST_ROWS = 100_000_000  # some bytes can stand for any number of equal ones
# Control characters, what turns the direction of writing, and halves of characters.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")


def prompt_file(text: str, say: Say = lambda line: None) -> tuple[Path, str]:
    """The prompts that a reference means as a text file, and the reference with what was chosen:
    the column and the commit.
    """
    dataset = find_dataset(parsed(text))
    if dataset.reference.column and kept_at(dataset).is_file():
        return kept_at(dataset), str(dataset.reference)
    dataset = with_column(dataset, columns_of(fetched(dataset, dataset.files[0], say)))
    path = kept_at(dataset)
    if not path.is_file():
        keep(dataset, path, say)
    return path, str(dataset.reference)


def look_for_prompts(text: str) -> Dataset:
    """The files that a reference means; what can be told without a download is refused here."""
    dataset = find_dataset(parsed(text))
    first = cached_path(dataset.hub_file(dataset.files[0]))
    return with_column(dataset, columns_of(first)) if first else dataset


def pinned_prompts(text: str | None, say: Say = lambda line: None) -> str | None:
    """What names prompts; a dataset of the Hub is named by its column and its commit."""
    return prompt_file(text, say)[1] if text is not None and is_reference(text) else text


def with_column(dataset: Dataset, kinds: dict[str, str]) -> Dataset:
    """The dataset with the column of its prompts."""
    name = choose_column(dataset.reference, kinds, ("text",), USUAL)
    return replace(dataset, reference=replace(dataset.reference, column=name))


def kept_at(dataset: Dataset) -> Path:
    """Where the text file of a dataset's prompts is, or will be."""
    reference = dataset.reference
    what = [FORMAT, reference.column, [[file.path, file.sha256] for file in dataset.files]]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    return folder_of(reference.repo) / f"{reference.revision[:12]}-{digest[:16]}.txt"


def keep(dataset: Dataset, path: Path, say: Say) -> None:
    """Read all prompts of a dataset, a few at a time, into a text file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            count, left_out = write_prompts(dataset, temporary, say)
            if not count:
                raise SpecError(
                    f"The column `{dataset.reference.column}` of `{dataset.reference.repo}` holds "
                    "no prompts.",
                    "Name another column or another part of the dataset.",
                )
    except OSError as error:
        if error.errno == 28:
            raise disk_full(path.parent) from error
        raise
    lost = f"; {left_out:,} blank, too long or unreadable ones were left out" if left_out else ""
    say(f"{counted(count, 'prompt')} of {dataset.reference}{lost}.")


def write_prompts(dataset: Dataset, path: Path, say: Say) -> tuple[int, int]:
    """Write a dataset's prompts; how many there are, and how many were left out."""
    written = count = left_out = 0
    with path.open("wb") as file:
        for table in dataset.files:
            for (value,) in rows_of(fetched(dataset, table, say), [dataset.reference.column]):
                prompt = cleaned(value)
                if prompt is None:
                    left_out += 1
                else:
                    count += 1
                    written += file.write(prompt.encode() + b"\n")
                if written > MOST_PROMPTS or count + left_out > MOST_ROWS:
                    raise SpecError(
                        f"`{dataset.reference}` has more than {size(MOST_PROMPTS)} of prompts, or "
                        f"more than {MOST_ROWS:,} rows.",
                        "Name a part of the dataset: one of its files.",
                    )
    return count, left_out


def cleaned(value: bytes | None) -> str | None:
    """A prompt on one line without what cannot be seen; None of what is none."""
    if value is None or len(value) > 4 * MOST_CHARACTERS:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    text = " ".join(UNSEEN.sub(" ", text).split())
    return text if text and len(text) <= MOST_CHARACTERS else None
