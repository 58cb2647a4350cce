"""Pictures of a dataset of the Hub, read from its tables in their order.

In a Parquet file they are a column of bytes; in JSON lines a column names files of the dataset.
"""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from PIL import Image

from dimo_cli.data.source import CAPTION_COLUMNS, Source
from dimo_cli.errors import NotThere
from dimo_cli.files.pictures import Unfit, open_picture
from dimo_cli.files.tables import Row, columns_of, rows_of
from dimo_cli.hub.datasets import Dataset, Reference, choose_column, fetched, find_dataset, parsed
from dimo_cli.hub.prompts import cleaned
from dimo_cli.hub.published import HubFile
from dimo_cli.hub.store import HubStore

CLASS_COLUMNS = ("label", "cls", "class", "class_id")
PICTURE_COLUMNS = ("image", "jpg", "png", "img", "picture")
NAME_COLUMNS = ("file_name", "image", "file", "path")
NEAR = 1000  # rows that are rather read over than begun anew behind them


Words = Sequence[str | None]
"""The class or caption of each row of a file; None where it has none."""


class HubSource(Source):
    """Rows of the tables of a dataset at one commit."""

    def __init__(
        self, dataset: Dataset, column: str, words: Sequence[Sequence[str | None]]
    ) -> None:
        """`column` has the pictures; `words` are those of each file's rows, None where missing."""
        commit = dataset.reference.revision[:12]
        start = f"{dataset.reference.repo}@{commit}"
        names = [
            f"{start}/{file.path}:{row}"
            for file, rows in zip(dataset.files, words, strict=True)
            for row in range(len(rows))
        ]
        found = [word for rows in words for word in rows]
        any_word = next((word for word in found if word is not None), "")
        super().__init__(names, [any_word if word is None else word for word in found])
        self.dataset, self.column = dataset, column
        self.wordless = frozenset(row for row, word in enumerate(found) if word is None)
        self.starts = list(accumulate((len(rows) for rows in words), initial=0))
        self.rows: Iterator[Row] | None = None
        self.at = (0, 0)
        """File and row that come next."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rows": None}  # each process reads for itself

    def named(self, source: str) -> str:
        return str(self.dataset.reference)

    def open(self, index: int) -> Image.Image:
        if index in self.wordless:
            raise Unfit("neither class nor caption in its row")
        content = self.content(index)
        if content is None:
            raise Unfit("no picture in its row")
        file = self.dataset.files[bisect_right(self.starts, index) - 1]
        if file.path.endswith(".parquet"):
            return open_picture(io.BytesIO(content))
        return open_picture(self.beside(file.path, content.decode()))

    def content(self, index: int) -> bytes | None:
        """What a row has in the column of pictures; rows that follow each other are read once."""
        file = bisect_right(self.starts, index) - 1
        row = index - self.starts[file]
        if self.rows is None or self.at[0] != file or not 0 <= row - self.at[1] <= NEAR:
            table = fetched(self.dataset, self.dataset.files[file], lambda line: None)
            self.rows, self.at = rows_of(table, [self.column], row), (file, row)
        content: bytes | None = None
        for _ in range(row - self.at[1] + 1):
            (content,) = next(self.rows)
        self.at = (file, row + 1)
        return content

    def beside(self, table: str, name: str) -> Any:
        """A file of the dataset that a table names, downloaded if need be."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(table), name))
        if path.startswith(("/", "..")) or not path.isprintable():
            raise Unfit("a name that leads out of the dataset")
        reference = self.dataset.reference
        wanted = HubFile(reference.repo, path, reference.revision, repo_type="dataset")
        try:
            return HubStore().locate(wanted).path
        except NotThere:
            raise Unfit(f"no file `{path}` in the dataset") from None


def list_hub(source: str, captions: bool, say: Callable[[str], None]) -> HubSource:
    """The pictures of a dataset, with the classes or captions of one of its columns."""
    dataset = find_dataset(parsed(source))
    tables = [fetched(dataset, file, say) for file in dataset.files]
    kinds = columns_of(tables[0])
    reference = dataset.reference
    if captions:
        word = choose_column(reference, kinds, ("text",), CAPTION_COLUMNS)
    else:
        word = choose_column(reference, kinds, ("number", "text"), CLASS_COLUMNS)
    picture = column_of_pictures(reference, kinds, tables[0].suffix == ".parquet")
    dataset = replace(dataset, reference=replace(reference, column=word))
    words = [[cleaned(value) for (value,) in rows_of(table, [word])] for table in tables]
    return HubSource(dataset, picture, words)


def column_of_pictures(reference: Reference, kinds: dict[str, str], has_bytes: bool) -> str:
    """The column that has the pictures, or in JSON lines their names."""
    unnamed = replace(reference, column="")
    if has_bytes:
        return choose_column(unnamed, kinds, ("picture",), PICTURE_COLUMNS)
    named = next((name for name in NAME_COLUMNS if kinds.get(name) == "text"), "")
    return choose_column(replace(reference, column=named or NAME_COLUMNS[0]), kinds, ("text",), ())
