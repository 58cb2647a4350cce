"""Pictures of a dataset of the Hub become tokens: of one commit, read in order, the odd skipped."""

import json
import pickle

import pytest
import torch
from PIL import Image

from dimo_cli.data.images import open_source
from dimo_cli.data.shards import TokenDataset
from dimo_cli.data.source import prepare
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.teachers.digits import training_tokens
from tests.helpers.fake_hub import COMMIT
from tests.helpers.pictures import pictures, png
from tests.helpers.tables import DATASET, as_lines, publish

DIGITS = ("--preset", "digits", "--out", "tokens", "--json")
IMAGES, LABELS = pictures(6)


def stored(images):
    return [{"bytes": png(image), "path": "/etc/passwd"} for image in images]


@pytest.fixture
def hub(fake_hub):
    """Six digits in two files, as the package `datasets` writes them."""
    halves = (slice(0, 3), slice(3, 6))
    files = {
        f"data/train-0000{n}-of-00002.parquet": {
            "image": stored(IMAGES[half]),
            "label": LABELS[half],
        }
        for n, half in enumerate(halves)
    }
    return publish(fake_hub, files)


def test_pictures_and_classes_become_tokens_and_the_index_names_the_commit(dimo, hub, tmp_path):
    done = dimo("data", "encode", "hub:owner/words:label", *DIGITS, "--shard-size", "4")
    assert done.exit_code == 0, done.stderr
    tokens, labels = TokenDataset.open(tmp_path / "tokens").rows(torch.arange(6))
    assert torch.equal(tokens, training_tokens()[0][:6])
    assert labels.tolist() == LABELS
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    assert index["source"] == f"hub:owner/words:label@{COMMIT}"


def test_any_order_gives_the_same_pictures_also_in_another_process(hub):
    source = open_source("hub:owner/words", captions=False)
    assert source.words == [str(label) for label in LABELS]
    assert source.names[4] == f"owner/words@{COMMIT[:12]}/data/train-00001-of-00002.parquet:1"
    other = pickle.loads(pickle.dumps(source))
    for index in (5, 0, 1, 1, 4):
        assert torch.equal(other.image(index, 8), prepare(IMAGES[index], 8))


def test_the_name_alone_is_the_same_dataset(hub):
    assert len(open_source("owner/words", captions=False)) == 6
    with pytest.raises(MissingError, match="no folder or file") as caught:
        open_source("nothing.here", captions=False)
    assert "hub:OWNER/NAME" in caught.value.hint


def test_what_is_no_picture_or_has_no_class_is_skipped_and_listed(dimo, fake_hub, tmp_path):
    column = stored(IMAGES[:4])
    column[1]["bytes"] = b"%!PS-Adobe-3.0 EPSF-3.0"
    column[2]["bytes"] = None
    publish(fake_hub, {"train.parquet": {"image": column, "label": [*LABELS[:3], None]}})
    done = dimo("data", "encode", "hub:owner/words", *DIGITS)
    assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "tokens" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [
        "no readable image",
        "no picture in its row",
        "neither class nor caption in its row",
    ]
    assert json.loads(done.stdout)["images"] == 1


def test_captions_come_from_the_column_that_is_named(fake_hub):
    columns = {"image": [png(image) for image in IMAGES[:1]], "en": ["a\nfox"], "de": ["Fuchs"]}
    publish(fake_hub, {"train.parquet": columns})
    assert open_source("hub:owner/words:en", captions=True).words == ["a fox"]
    with pytest.raises(SpecError, match="several columns of texts: `en`, `de`"):
        open_source("hub:owner/words", captions=True)


def test_json_lines_name_pictures_beside_them(fake_hub):
    names = ("one.png", "gone.png", "../../secret.png", "/etc/passwd")
    rows = [{"file_name": name, "text": "a digit"} for name in names]
    publish(fake_hub, {"train/metadata.jsonl": as_lines(rows), "train/one.png": png(IMAGES[0])})
    source = open_source("hub:owner/words", captions=True)
    found = [source.image_or_reason(index, 8) for index in range(4)]
    assert torch.equal(found[0], prepare(IMAGES[0], 8))
    assert found[1:] == [
        "no file `train/gone.png` in the dataset",
        "a name that leads out of the dataset",
        "a name that leads out of the dataset",
    ]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"label": [1]}, "no column of pictures"),
        ({"image": [b"x"], "share": [0.5]}, "no column of numbers or texts"),
        ({"image": [b"x"], "other": [b"x"], "label": [1]}, None),
        ({"a": [b"x"], "b": [b"x"], "label": [1]}, "several columns of pictures: `a`, `b`"),
    ],
)
def test_a_table_of_other_columns_is_said_with_what_it_has(fake_hub, columns, told):
    publish(fake_hub, {"train.parquet": columns})
    if told is None:
        assert len(open_source("hub:owner/words", captions=False)) == 1
        return
    with pytest.raises(SpecError, match=told):
        open_source("hub:owner/words", captions=False)


def test_a_file_that_is_damaged_behind_its_labels_ends_it(hub):
    source = open_source("hub:owner/words", captions=False)
    file = source.dataset.files[1]
    content = bytearray(hub.files[DATASET, file.path])
    content[4:40] = bytes(36)
    commit = hub.push(DATASET, {file.path: bytes(content)})
    damaged = open_source(f"hub:owner/words@{commit}", captions=False)
    with pytest.raises(MissingError, match="cannot be read"):
        damaged.image_or_reason(3, 8)


def test_a_picture_of_any_size_is_brought_to_that_of_the_teacher(fake_hub):
    publish(
        fake_hub, {"train.parquet": {"image": stored([Image.new("RGB", (40, 30))]), "cls": [3]}}
    )
    source = open_source("hub:owner/words", captions=False)
    assert source.image(0, 8).shape == (3, 8, 8)
