"""Tables of strangers: read a row at a time, in little memory, and refused in a sentence."""

import random
import re
import subprocess
import sys
from contextlib import suppress

import pyarrow as pa
import pytest

from dimo_cli.errors import DimoError, MissingError
from dimo_cli.files import parquet_reader, tables
from dimo_cli.files.tables import columns_of, rows_of
from tests.helpers.tables import as_lines, as_parquet

PICTURE = {"bytes": b"\x89PNG", "path": "/etc/passwd"}
COLUMNS = {
    "text": ["a", "b", None, "ü\n"],
    "label": [1, 2, 3, None],
    "image": [PICTURE, {"bytes": None, "path": "/etc/passwd"}, None, PICTURE],
    "tags": [["a"], [], ["b"], None],
    "share": [0.5, 1.5, None, 2.0],
}
KINDS = {"text": "text", "label": "number", "image": "picture", "tags": "lists", "share": "other"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "train.parquet"
    path.write_bytes(as_parquet(COLUMNS, group=3))
    return path


def frames(path, *names, first=0):
    """What the reader writes, read in this process."""
    pieces = []
    parquet_reader.write_all(str(path), list(names), first, pieces.append)
    return b"".join(pieces)


def test_the_columns_have_kinds_and_the_rows_values(table):
    assert columns_of(table) == KINDS
    assert list(rows_of(table, ["text", "label", "image"], first=1)) == [
        (b"b", b"2", None),
        (None, b"3", None),
        (b"\xc3\xbc\n", None, b"\x89PNG"),
    ]


def test_json_lines_give_the_same(tmp_path):
    path = tmp_path / "train.jsonl"
    rows = [{"text": "a", "label": 1, "tags": []}, {"text": "\ud800", "label": 10**30}, {}]
    path.write_bytes(b"\xef\xbb\xbf" + as_lines(rows) + b"\n")
    assert columns_of(path) == {"text": "text", "label": "number", "tags": "lists"}
    assert list(rows_of(path, ["text", "label"])) == [(b"a", b"1"), (b"?", None), (None, None)]
    assert list(rows_of(path, ["text"], first=2)) == [(None,)]


@pytest.mark.parametrize("content", [b"[1]\n", b'{"a": 1}\n{"a"\n', b"\xff\n", b"[" * 100_000])
def test_a_line_that_is_no_object_is_refused_by_number(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(MissingError, match=r"line \d is no JSON object"):
        columns_of(path)


def test_a_line_without_an_end_is_not_read_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_LINE", 100)
    (tmp_path / "train.jsonl").write_bytes(b'{"a": "' + b"x" * 1000)
    with pytest.raises(MissingError, match="line 1 has more than"):
        columns_of(tmp_path / "train.jsonl")


def test_one_huge_text_for_many_rows_takes_little_memory_and_is_a_sentence(tmp_path):
    path = tmp_path / "bomb.parquet"
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), ["x" * 2 * 10**7])
    path.write_bytes(as_parquet({"text": once}, group=10_000, compression="zstd"))
    assert path.stat().st_size < 10_000
    with pytest.raises(MissingError, match="far more memory"):
        list(rows_of(path, ["text"]))
    assert peak_of_reader(path) < 1000


def peak_of_reader(path):
    """The most memory that the reader takes, in MiB; a small process starts it and looks."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    reader = (sys.executable, parquet_reader.__file__, str(path), '["text"]', "0")
    found = subprocess.run(
        [sys.executable, "-c", program, *reader], capture_output=True, check=True, text=True
    )
    return int(found.stdout) / 1024


def test_whatever_is_damaged_it_is_rows_or_a_sentence(table):
    sound, chance = table.read_bytes(), random.Random(0)
    broken = table.with_name("broken.parquet")
    refused = []
    for _ in range(4):
        content = bytearray(sound)
        for _ in range(chance.choice([1, 3, 30])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        broken.write_bytes(content)
        try:
            list(rows_of(broken, ["text", "image"]))
        except DimoError as error:
            refused.append(error.message)
    assert refused
    assert not any("Traceback" in told for told in refused)


@pytest.mark.slow
def test_hundreds_of_damaged_files_are_rows_or_sentences(table):
    sound, chance = table.read_bytes(), random.Random()
    broken = table.with_name("broken.parquet")
    for _ in range(120):
        content = bytearray(sound)
        for _ in range(chance.choice([1, 3, 30])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        broken.write_bytes(content[: chance.choice([None, None, chance.randrange(len(content))])])
        with suppress(DimoError):
            for names in (["text"], ["text", "image"], list(columns_of(broken))[:3]):
                list(rows_of(broken, names))


def test_a_value_of_no_sensible_size_is_as_if_it_were_not_there(table, monkeypatch):
    monkeypatch.setattr(parquet_reader, "MOST_VALUE", 3)
    assert b"\x89PNG" not in frames(table, "image")


def test_a_file_that_is_cut_short_is_refused(table, tmp_path):
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(MissingError) as caught:
        columns_of(cut)
    assert re.fullmatch(r"`cut.parquet` cannot be read: .*[^.]\.", caught.value.message)


def test_a_reader_that_crashes_is_a_sentence(table, tmp_path, monkeypatch):
    crash = tmp_path / "crash.py"
    crash.write_text('import os, sys\nsys.stdout.write(\'{"columns": {}}\\n\')\n'
                     "sys.stdout.flush()\nos.abort()\n")  # fmt: skip
    monkeypatch.setattr(parquet_reader, "__file__", str(crash))
    with pytest.raises(MissingError, match="it crashes what reads it"):
        list(rows_of(table, ["text"]))


def test_a_reader_that_nobody_listens_to_ends(table):
    for _ in rows_of(table, ["text"]):
        break
