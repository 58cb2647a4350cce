"""A folder that has what the pages take for granted, and a machine that reaches no network."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save

from dimo_cli.console.live import PlainView
from dimo_cli.hub.access import Located
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.prompts import GENEVAL_COUNTS
from dimo_cli.planning import memory
from dimo_cli.planning.rehearsal import PURPOSES, Rehearsed
from dimo_cli.rewards.registry import REWARDS
from dimo_cli.runs.distill import distill
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.folder import BUILTIN
from dimo_cli.teachers.families import FAMILIES
from dimo_cli.teachers.registry import EMBEDDED, blueprint_of
from tests.conftest import shorten_trials, small_spec
from tests.docs.running import PREPARED, Stopped
from tests.helpers.rehearsing import remembered

PICTURES = (
    "photos/a",
    "photos/b",
    "imagenet/train/n01440764/a",
    "imagenet/train/n02099601/b",
    "shards/n01440764/a",
)
PUBLISHED_STUDENTS = ("maskgit", "maskbit", "maskgen-l", "meissonic")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """What is there before a page's first command: runs, images, prompts."""
    folder = tmp_path_factory.mktemp("prepared")
    spec = small_spec(monitor={"table_samples": 100, "teacher_steps": (1, 2)})
    distill(spec, folder / "runs" / "digits", PlainView(lambda line: None))
    shutil.copytree(folder / "runs" / "digits", folder / "runs" / "digits-2")
    shutil.copytree(BUILTIN["shapes"], folder / "runs" / "shapes")
    for name in PUBLISHED_STUDENTS:
        write_published_student(folder / "runs" / name, name)
    for run in (folder / "runs").iterdir():
        (run / PREPARED).touch()
    draws = np.random.default_rng(0)
    for name in PICTURES:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text("a photo of noise\n")
    Image.fromarray(draws.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(
        folder / "my-digit.png"
    )
    (folder / "prompts.txt").write_text("two red circles above a blue square\na green triangle\n")
    write_geneval(folder)
    return folder


def write_geneval(folder):
    """The prompts of GenEval as far as their number goes, and what its tool finds for a few."""
    rows = [
        {"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": f"{tag} {number}"}
        for tag, count in GENEVAL_COUNTS.items()
        for number in range(count)
    ]
    lines = [
        {"filename": f"{n}.png", "tag": r["tag"], "correct": True, "metadata": json.dumps(r)}
        for n, r in enumerate(rows)
    ]
    for name, found in (("evaluation_metadata", rows), ("results", lines)):
        text = "".join(json.dumps(line) + "\n" for line in found)
        (folder / f"{name}.jsonl").write_text(text)


def write_published_student(folder, name):
    """A student of a published teacher that is whole as far as it can be told without weights."""
    assert name in FAMILIES
    blueprint, weights = blueprint_of(TeacherSource(name=name)), save({})
    manifest = json.loads((BUILTIN["shapes"] / "dimo.json").read_text())
    manifest["teacher"] |= {"name": name, "family": blueprint.family, "license": blueprint.license}
    manifest["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    folder.mkdir(parents=True)
    (folder / "dimo.json").write_text(json.dumps(manifest))
    (folder / "model.safetensors").write_bytes(weights)


def rehearse_small(teacher, *settings):
    """A rehearsal where it is short: of full size, whose numbers no page is held to, it is none."""
    if teacher.name in FAMILIES:
        return Rehearsed(dict.fromkeys(PURPOSES, 2**33), dict.fromkeys(PURPOSES, 0))
    return remembered()(teacher, *settings)


@pytest.fixture
def registries():
    """Teachers and rewards that a page registers are forgotten after it."""
    known = [(registry, dict(registry)) for registry in (EMBEDDED, REWARDS)]
    yield
    for registry, before in known:
        registry.clear()
        registry.update(before)


@pytest.fixture
def machine(registries, room_enough, prepared, tmp_path, tmp_path_factory, monkeypatch):
    """A fresh copy of the prepared folder to be in, on a machine with memory but no network."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shorten_trials(monkeypatch)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def stop(*arguments):
        raise Stopped

    def locate(store, file):
        if store.local_dir is None or store.local_dir.name == "weights":
            stop()
        return Located(store.locate_locally(file, store.local_dir))

    monkeypatch.setattr(HubStore, "locate", locate)
    monkeypatch.setattr("dimo_cli.metrics.inception.download_file", stop)
    monkeypatch.setattr("dimo_cli.metrics.inception.find_file", lambda path: None)
    monkeypatch.setattr("dimo_cli.evaluation.subjects.EMBEDDED_SAMPLES", 100)
    monkeypatch.setattr("dimo_cli.runs.inputs.check_inputs", lambda spec: [])
    monkeypatch.setattr("dimo_cli.hub.datasets.listing", stop)
    monkeypatch.setattr(memory, "rehearse", rehearse_small)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=2**40))
    monkeypatch.setattr("dimo_cli.play.server.serve", lambda *page: page[-1]())
    return tmp_path
