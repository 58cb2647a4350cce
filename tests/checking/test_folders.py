"""`dimo check`: whatever was written is read again, and what is damaged is named."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimo_cli.data.shards import write_json, write_shard
from dimo_cli.files.writing import file_sha256
from dimo_cli.specs.data import DatasetIndex, Recipe, ShardEntry
from tests.helpers.runs import change_contents, copied

DAMAGE = b"\x01\x02\x03\x04"


@pytest.fixture
def run(finished_run, tmp_path):
    return copied(finished_run, tmp_path / "run")


@pytest.fixture
def found(dimo):
    """What a check says: its exit code, its kind, and the problem of each damaged file."""

    def check(path):
        done = dimo("check", path, "--json")
        said = json.loads(done.stdout)
        assert said["sound"] == (done.exit_code == 0)
        problems = {one["file"]: one["problem"] for one in said["damaged"]}
        return done.exit_code, said["kind"], problems

    return check


def flip(path):
    """Change four bytes in the middle of a file, as a bad disk does."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = DAMAGE
    path.write_bytes(content)


def poison(path):
    """Make one weight infinite; returns the hash of the file."""
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = torch.inf
    save_file(weights, path)
    return name, file_sha256(path)


def test_a_sound_run_is_said_to_be_sound(dimo, run, found):
    assert found(run) == (0, "run", {})
    done = dimo("check", run)
    assert done.exit_code == 0
    assert "Nothing is damaged in this run: " in done.stdout


def test_every_damaged_file_of_a_run_is_named(dimo, run, found):
    flip(run / "checkpoints" / "step-3" / "student.safetensors")
    flip(run / "checkpoints" / "step-6" / "state.pt")
    (run / "checkpoints" / "step-6" / "ema.safetensors").unlink()
    (run / "checkpoints" / "step-2" / "stray.bin").touch()
    flip(run / "student" / "model.safetensors")
    code, _, problems = found(run)
    assert code == 1
    assert problems == {
        "checkpoints/step-2/contents.json": "does not list stray.bin",
        "checkpoints/step-3/student.safetensors": "has other bytes than were written",
        "checkpoints/step-6/ema.safetensors": "is missing",
        "checkpoints/step-6/state.pt": "has other bytes than were written",
        "student/model.safetensors": "has other bytes than were written",
    }
    told = dimo("check", run)
    assert told.exit_code == 1
    assert "step-6/state.pt" in told.stdout
    assert "5 of" in told.stdout


def test_a_spec_that_cannot_be_read_and_a_checkpoint_of_another_run_are_damage(run, found):
    (run / "run.yaml").write_text("train: {steps: many}")
    change_contents(run, 6, run="f" * 32)
    problems = found(run)[2]
    assert "train.steps" in problems["run.yaml"]
    assert "of another run" in problems["checkpoints/step-6/contents.json"]


def test_weights_that_are_not_finite_are_damage_even_where_their_hash_is_known(run, found):
    folder = run / "student"
    name, sha256 = poison(folder / "model.safetensors")
    manifest = json.loads((folder / "dimo.json").read_text())
    (folder / "dimo.json").write_text(json.dumps(manifest | {"weights_sha256": sha256}))
    code, kind, problems = found(folder)
    assert (code, kind) == (1, "student")
    assert problems == {"model.safetensors": f"has weights that are not finite: {name}"}


@pytest.mark.parametrize("manifest", ["{", "{}"])
def test_a_student_without_a_sound_manifest_is_damaged(run, found, manifest):
    (run / "student" / "dimo.json").write_text(manifest)
    problems = found(run / "student")[2]
    assert "not a valid manifest" in problems["dimo.json"]
    assert "no manifest" in problems["model.safetensors"]


def test_one_checkpoint_is_checked_by_its_name(run, found):
    flip(run / "checkpoints" / "step-3" / "student.safetensors")
    assert found(f"{run}@last") == (0, "checkpoint", {})
    assert list(found(f"{run}@step-3")[2]) == ["student.safetensors"]


def test_a_built_in_student_is_checked_by_its_name(found):
    assert found("digits") == (0, "student", {})


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    recipe = Recipe(
        teacher="digits", revision="x", image_size=8, resize="-", length=64, groups=1, codes=17,
        condition="labels", shard_size=4,
    )  # fmt: skip
    entries = []
    for number in range(2):
        path = folder / f"shard-{number:05d}.safetensors"
        write_shard(path, torch.zeros(4, 64, 1, dtype=torch.uint8), torch.arange(4), {})
        entries.append(ShardEntry(file=path.name, images=4, sha256=file_sha256(path)))
    index = DatasetIndex(dimo="0", source="-", images=8, recipe=recipe, shards=tuple(entries))
    write_json(folder / "index.json", index.model_dump(mode="json"))
    return folder


def test_shards_are_compared_with_their_index(shards, found):
    assert found(shards) == (0, "encoded images", {})
    flip(shards / "shard-00000.safetensors")
    (shards / "shard-00001.safetensors").unlink()
    assert found(shards)[2] == {
        "shard-00000.safetensors": "has other bytes than were written",
        "shard-00001.safetensors": "is missing",
    }


def test_shards_that_nobody_finished_are_said(shards, found):
    (shards / "index.json").unlink()
    code, _, problems = found(shards)
    assert code == 1
    assert "not finished" in problems["index.json"]


def downloaded(cache, name, content, large):
    """A file in the Hub's cache: a blob under its hash, and a link to it under its name."""
    repository = cache / "models--owner--net"
    whole = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content))
    if not large:
        whole.update(content)
    blob = repository / "blobs" / whole.hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link = repository / "snapshots" / ("a" * 40) / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(blob)
    return blob


def test_downloads_are_compared_with_the_hashes_that_they_are_called_by(tmp_path, found):
    home = tmp_path / "hf"
    weights = downloaded(home / "hub", "model.safetensors", b"weights" * 9, large=True)
    config = downloaded(home / "hub", "config.json", b"{}  ", large=False)
    for place in (home, home / "hub", home / "hub" / "models--owner--net"):
        assert found(place) == (0, "cache of weights", {})
    flip(weights)
    flip(config)
    problems = found(home)[2]
    place = f"hub/models--owner--net/snapshots/{'a' * 40}"
    assert set(problems) == {f"{place}/model.safetensors", f"{place}/config.json"}


def test_what_dimo_made_of_downloads_is_read_again(tmp_path, found, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "hf" / "dimo" / "weights"
    folder.mkdir(parents=True)
    save_file({"mask": torch.full((2,), -torch.inf)}, folder / "a.safetensors")
    save_file({"w": torch.full((2,), torch.nan)}, folder / "b.safetensors")
    (folder / "c.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-1])
    for place, name in ((tmp_path / "hf", "dimo/weights/"), (folder, "")):
        code, kind, problems = found(place)
        assert (code, kind) == (1, "cache of weights")
        assert "not finite: w" in problems[f"{name}b.safetensors"]
        assert "cannot be read" in problems[f"{name}c.safetensors"]
        assert len(problems) == 2


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("nothing", 3, "does not exist"), (".", 2, "hashes dimo knows"), ("file", 2, "hashes dimo")],
)
def test_what_cannot_be_checked_is_said(dimo, tmp_path, name, code, words):
    (tmp_path / "file").touch()
    done = dimo("check", name)
    assert done.exit_code == code
    assert words in done.stderr
