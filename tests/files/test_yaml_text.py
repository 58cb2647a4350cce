"""YAML of strangers: plain values in the time that their number allows."""

import time

import pytest
import yaml

from dimo_cli.files.yaml_text import MOST_VALUES, parse_yaml
from dimo_cli.specs.resolve import presets_folder

HOSTILE = {
    "an alias": "a: &x [1]\nb: *x\n",
    "aliases of aliases": "a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "a merge of an alias": "a: &x {b: 1}\nc: {<<: *x}\n",
    "more values than any file has": "\n".join(f"k{n}:" for n in range(MOST_VALUES)),
    "a number whose reading takes the square of its length": "a: 1" + ":1" * 400_000,
    "a number of many digits": f"a: {'1' * 4000}",
    "binary data": f"a: !!binary {'A' * 4000}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_takes_long_or_becomes_large_is_refused(text):
    started = time.process_time()
    with pytest.raises(ValueError, match=r"aliases|more than|a number of"):
        parse_yaml(text)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("path", sorted(presets_folder().rglob("*.yaml")), ids=lambda p: p.stem)
def test_everything_else_is_read_as_before(path):
    text = path.read_text(encoding="utf-8")
    values, node = parse_yaml(text)
    assert values == yaml.safe_load(text)
    assert node.start_mark.line > 0


def test_a_file_of_nothing_has_no_values():
    assert parse_yaml("# nothing\n") == (None, None)
