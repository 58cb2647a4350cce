"""The 1,000 ImageNet classes: WordNet ids and names, in the order that every teacher uses."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def _rows() -> tuple[tuple[str, str], ...]:
    table = files("dimo_cli.teachers") / "builtin" / "imagenet.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple((line.split("\t")[0], line.split("\t")[1]) for line in lines)


def class_ids() -> tuple[str, ...]:
    """WordNet ids, such as n02099601."""
    return tuple(wordnet_id for wordnet_id, _ in _rows())


def class_names() -> tuple[str, ...]:
    """Names, such as `golden retriever`; synonyms are separated by commas."""
    return tuple(names for _, names in _rows())
