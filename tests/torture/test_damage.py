"""Damage that fuzzing found, each of which ended in a traceback once."""

import json

import pytest

from dimo_cli.errors import MissingError
from dimo_cli.metrics.inception import load_inception
from dimo_cli.publishing.contents import carried
from dimo_cli.reporting.collect import collect
from dimo_cli.reporting.page import write_report
from tests.torture.targets_files import TORCH
from tests.torture.targets_runs import OUTCOME, PICTURE


def with_a_chunk_of_no_name(picture):
    """A PNG whose pixels are followed by a chunk that no PNG has."""
    end = picture.index(b"IEND")
    return picture[: end - 4] + b"\0\0\0\0\xef\xfb\xbeO" + picture[end + 4 :]


def cut_within_its_pixels(picture):
    """A PNG whose next chunk begins in the middle of its pixels."""
    at = picture.index(b"IDAT")
    return picture[: at - 4] + b"\0\0\0\4" + picture[at:]


@pytest.mark.parametrize("damage", [with_a_chunk_of_no_name, cut_within_its_pixels])
def test_a_picture_with_a_chunk_of_no_name_is_none(tmp_path, damage):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "outcome.json").write_text(json.dumps(OUTCOME))
    (tmp_path / "one" / "after.png").write_bytes(damage(PICTURE))
    page = write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a circle" in page
    if damage is cut_within_its_pixels:
        assert carried(tmp_path / "one" / "after.png") == ("cannot be read",)


@pytest.mark.parametrize("table", [1, "rows", {"a": 1}, True])
def test_a_closing_table_that_is_no_list_is_none(tmp_path, table):
    (tmp_path / "summary.json").write_text(json.dumps({"table": table}))
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert collect(tmp_path).rows == []


def test_an_archive_whose_names_are_no_text_is_no_network(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05.pth"
    first, _, rest = TORCH[0].rpartition(b"archive/byteorder")
    sound = first.rpartition(b"PK\x01\x02")
    flagged = bytearray(sound[2])
    flagged[4:6] = (0x800).to_bytes(2, "little")  # its name is said to be UTF-8
    path.write_bytes(sound[0] + sound[1] + bytes(flagged) + b"\xe1rchive/byteorder" + rest)
    with pytest.raises(MissingError, match="is no Inception network"):
        load_inception(path=path)
