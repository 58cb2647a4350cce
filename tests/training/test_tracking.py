"""Trackers get the numbers of a run, and can neither stop it nor learn more than them."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from accelerate.utils import LoggerType
from PIL import Image

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.monitor import MonitorSpec
from dimo_cli.training import tracking
from dimo_cli.training.tracking import check_tracker, has_login, wandb_settings
from tests.conftest import Silent
from tests.training.test_trainer import train

KEY = "deadbeef" * 5
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "TRACKIO_SPACE_ID", "NETRC",
             "TRACKIO_SERVER_URL")  # fmt: skip
PICTURE = np.full((8, 16, 3), 7, np.uint8)


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class FakeTracker(ModuleType):
    """The part of the interface of trackio and wandb that accelerate and dimo use."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.config, self.rows, self.asked, self.ended = Config(), {}, {}, 0
        self.pictures = {}

    def init(self, **asked):
        sys.stdout.write("a tracker greets")
        self.asked = asked
        return self

    def log(self, values, step):
        if "samples" in values:
            self.pictures[step] = values["samples"]
        else:
            self.rows[step] = values

    def Image(self, pixels):
        return ("an image of", pixels)

    def finish(self):
        self.ended += 1


class Config(dict):
    """Settings of a run, as both keep them."""

    def update(self, values, allow_val_change=True):
        super().update(values)


class Drawing(Silent):
    """Draws the same picture every time."""

    def on_preview(self, step, student):
        return PICTURE


def installed(monkeypatch, name):
    """A fake tracker that accelerate takes for installed."""
    fake = FakeTracker(name)
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType(name)])
    return fake


@pytest.fixture
def tracker(monkeypatch):
    return installed(monkeypatch, "trackio")


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "answers", lambda url: True)
    return installed(monkeypatch, "wandb")


def run(folder, watcher=None, tracker="trackio", **monitor):
    watcher = watcher or Silent()
    monitor = {"tracker": tracker, "preview_every": 2, **monitor}
    trainer = train(folder, watcher, monitor=monitor, train={"steps": 3})
    assert trainer.progress.step == 3
    return watcher


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_tracker_receives_every_line_of_the_log_and_the_settings(tracker, tmp_path, capsys):
    run(tmp_path / "mine")
    for record in logged(tmp_path / "mine"):
        numbers = {name: value for name, value in record.items() if value is not None}
        assert tracker.rows[record["step"]] == numbers
    assert tracker.asked["project"] == "dimo"
    assert tracker.asked["name"] == "mine"
    assert tracker.config["train.steps"] == 3
    assert tracker.ended
    assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_tells_its_tracker_so(tracker, tmp_path):
    train(tmp_path, train={"steps": 2})
    train(tmp_path, resume=True, monitor={"tracker": "trackio"}, train={"steps": 3})
    assert tracker.asked["resume"] == "allow"
    assert list(tracker.rows) == [3]


def test_a_tracker_that_fails_is_left_out_and_said_once(tracker, tmp_path):
    def fail(values, step):
        raise RuntimeError("the server hung up")

    tracker.log = fail
    _, note = run(tmp_path).notes
    assert "trackio failed and is left out: RuntimeError: the server hung up" in note
    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 3]


def test_a_tracker_that_ends_the_program_is_left_out_too(tracker, tmp_path):
    def leave(**asked):
        raise SystemExit(1)

    tracker.init = leave
    (note,) = run(tmp_path).notes
    assert "trackio failed and is left out: SystemExit" in note


def test_a_place_that_cannot_be_told_costs_the_tracker_and_not_the_run(wandb, tmp_path):
    type(wandb).url = property(lambda self: 1 / 0)
    try:
        (note,) = run(tmp_path, tracker="wandb").notes
    finally:
        del type(wandb).url
    assert "wandb failed and is left out: ZeroDivisionError" in note


def test_sample_grids_are_logged_as_pictures(tracker, tmp_path):
    run(tmp_path, Drawing())
    assert list(tracker.pictures) == [2, 3]
    assert tracker.pictures[2][1] is PICTURE


def test_a_picture_that_fails_is_said_once_and_ends_nothing(tracker, tmp_path):
    tracker.Image = None
    _, note = run(tmp_path, Drawing()).notes
    assert "trackio failed and is left out: TypeError" in note


def test_wandb_gets_project_entity_tags_and_pictures_and_its_address_is_said(wandb, tmp_path):
    wandb.url = "https://wandb.ai/team/faces/runs/abc"
    names = {"project": "faces", "entity": "team", "tags": ("digits", "first try")}
    watcher = run(tmp_path / "mine", Drawing(), "wandb", **names)
    asked = {name: wandb.asked[name] for name in ("project", "entity", "tags", "name")}
    assert asked == {
        "project": "faces", "entity": "team", "tags": ["digits", "first try"], "name": "mine"
    }  # fmt: skip
    assert watcher.notes == ["See the run at https://wandb.ai/team/faces/runs/abc."]
    assert wandb.pictures[2][0][1] is PICTURE


def test_a_run_that_wandb_keeps_offline_says_how_to_send_it(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    (note,) = run(tmp_path / "my run", tracker="wandb").notes
    assert note == "Send the run to W&B later with `wandb sync 'my run/wandb'/offline-run-*`."
    wandb.disabled = True
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (note,) = run(tmp_path / "other", tracker="wandb").notes
    assert "keeps nothing" in note


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, "with `trackio show --project 'all digits'`."),
        ({"TRACKIO_SPACE_ID": "you/space"}, "at https://huggingface.co/spaces/you/space."),
        ({"TRACKIO_SERVER_URL": "http://here:1?write_token=secret"}, "at http://here:1."),
    ],
)
def test_where_a_run_of_trackio_is_is_said(tracker, tmp_path, monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracking, "answers", lambda url: True)
    (note,) = run(tmp_path, project="all digits", tags=("small",)).notes
    assert note == f"See the run {place}"
    assert tracker.asked["project"] == "all digits"
    assert "small" in tracker.config["monitor.tags"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"project": "a/b"}, "project"),
        ({"project": ""}, "project"),
        ({"project": "runs_system"}, "_system"),
        ({"entity": "me too", "tracker": "wandb"}, "entity"),
        ({"entity": "me", "tracker": "trackio"}, "TRACKIO_SPACE_ID"),
        ({"tags": ["x"], "tracker": "tensorboard"}, "tags"),
        ({"tags": ["x" * 65]}, "at most 64"),
    ],
)
def test_names_that_a_tracker_would_refuse_are_refused_at_once(wrong, words):
    with pytest.raises(SpecError, match=words):
        spec_from_flags(MonitorSpec, wrong)


def test_what_a_tracker_says_never_shows_a_key(tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    def refuse(**asked):
        raise ValueError(f"the key {KEY} is not valid")

    tracker.init = refuse
    (note,) = run(tmp_path).notes
    assert "the key *** is not valid" in note
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


def test_a_tracker_that_does_not_end_is_left_alone(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    ended = threading.Event()
    tracker.finish = lambda: ended.wait(30)
    started = time.monotonic()
    _, note = run(tmp_path).notes
    ended.set()
    assert "still sending" in note
    assert time.monotonic() - started < 25


def test_a_server_that_is_away_costs_a_sentence(tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "you/space")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (note,) = run(tmp_path).notes
    assert "http://127.0.0.1:9 cannot be reached" in note
    assert tracker.asked == {}


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(dimo, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for more in ((), ("--dry-run",)):
        result = dimo("distill", "--preset", "digits", "--set", "monitor.tracker=wandb", *more)
        assert result.exit_code == 3
        assert "pip install 'dimo-cli[wandb]'" in result.stderr
    check_tracker("none")
    with pytest.raises(MissingError):
        check_tracker("trackio")


@pytest.mark.parametrize(
    ("variables", "is_there", "offline"),
    [
        ({}, True, "no login"),
        ({"WANDB_API_KEY": KEY}, True, None),
        ({"WANDB_API_KEY": KEY}, False, "cannot be reached"),
        ({"WANDB_MODE": "online"}, False, None),
    ],
)
def test_wandb_is_offline_where_it_would_ask_or_wait(
    tmp_path, monkeypatch, variables, is_there, offline
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracking, "answers", lambda url: is_there)
    notes = []
    settings = wandb_settings(MonitorSpec(), tmp_path, 0, notes.append)
    assert settings.get("mode") == ("offline" if offline else None)
    assert (offline in notes[0]) if offline else not notes


def test_a_login_is_found_where_wandb_keeps_it(tmp_path, monkeypatch):
    assert not has_login("https://api.wandb.ai")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_login("https://api.wandb.ai")
    assert not has_login("https://wandb.example.org")


def test_a_continued_run_is_the_same_one_at_wandb(tmp_path):
    (tmp_path / "wandb" / "offline-run-20260101_120000-abc12345").mkdir(parents=True)
    monitor = MonitorSpec()
    assert wandb_settings(monitor, tmp_path, 7, lambda line: None)["id"] == "abc12345"
    assert "id" not in wandb_settings(monitor, tmp_path, 0, lambda line: None)


def test_tensorboard_shows_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, Drawing(), monitor={"tracker": "tensorboard"}, train={"steps": 2})
    train(tmp_path, resume=True, monitor={"tracker": "tensorboard"}, train={"steps": 3})
    events = EventAccumulator(str(tmp_path / "dimo"))
    events.Reload()
    assert "samples" in events.Tags()["images"]
    shown = {event.step: event.value for event in events.Scalars("divergence")}
    for record in logged(tmp_path):
        assert shown[record["step"]] == pytest.approx(record["divergence"], rel=1e-6)


def real_run(folder, tracker, **variables):
    """A run of the program itself, as a tracker may write the last of it when it ends."""
    settings = ("train.steps=2", "train.batch_size=4", "train.log_every=1", "monitor.fid_every=0",
                "monitor.table_samples=0", f"monitor.tracker={tracker}")  # fmt: skip
    sets = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "dimo_cli", "distill", "--preset", "digits", *sets, "--json"],
        env={**os.environ, **variables}, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["run"] == "runs/digits"
    return folder / "runs" / "digits"


def test_wandb_keeps_the_log_offline(tmp_path):
    pytest.importorskip("wandb", reason="extra `wandb`")
    folder = real_run(tmp_path, "wandb", HF_TOKEN=KEY)
    (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    for record in logged(folder):
        assert str(record["auxiliary_loss"])[:10].encode() in content
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


@pytest.mark.slow
def test_trackio_keeps_the_log_on_this_machine(tmp_path):
    pytest.importorskip("trackio", reason="extra `trackio`")
    folder = real_run(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "kept"))
    with sqlite3.connect(tmp_path / "kept" / "dimo.db") as kept:
        found = kept.execute("select step, metrics from metrics where run_name = 'digits'")
        rows = {step: text for step, text in found if "divergence" in json.loads(text)}
    for record in logged(folder):
        assert json.loads(rows[record["step"]])["divergence"] == record["divergence"]
    (picture,) = (tmp_path / "kept").rglob("*.png")
    assert Image.open(picture).size == Image.open(folder / "samples" / "step-000002.png").size
