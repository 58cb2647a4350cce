"""Tables as people publish them on the Hub."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as parquet

DATASET = "datasets/owner/words"


def as_parquet(columns, group=2, **settings):
    """Bytes of a Parquet file; `columns` are lists by name."""
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, row_group_size=group, **settings)
    return buffer.getvalue()


def as_lines(rows):
    """Bytes of a file of JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def publish(hub, files, repo=DATASET):
    """A dataset of these files, whose bytes or columns are given by path."""
    for path, content in files.items():
        hub.add(repo, path, content if isinstance(content, bytes) else as_parquet(content))
    return hub
