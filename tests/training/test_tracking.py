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

import pytest
from accelerate.utils import LoggerType

from dimo_cli.errors import MissingError
from dimo_cli.training import tracking
from dimo_cli.training.tracking import check_tracker, has_login, wandb_settings
from tests.conftest import Silent
from tests.training.test_trainer import train

KEY = "deadbeef" * 5
VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "TRACKIO_SPACE_ID", "NETRC")


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class FakeTracker(ModuleType):
    """The part of trackio's interface that accelerate uses."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.config, self.rows, self.asked, self.ended = {}, {}, {}, 0

    def init(self, **asked):
        sys.stdout.write("a tracker greets")
        self.asked = asked
        return self

    def log(self, values, step):
        self.rows[step] = values

    def finish(self):
        self.ended += 1


@pytest.fixture
def tracker(monkeypatch):
    """A fake trackio that accelerate takes for installed."""
    fake = FakeTracker("trackio")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TRACKIO])
    return fake


def run(folder, watcher=None, **more):
    watcher = watcher or Silent()
    trainer = train(folder, watcher, monitor={"tracker": "trackio"}, train={"steps": 3}, **more)
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
    watcher = run(tmp_path)
    assert len(watcher.notes) == 1
    assert "trackio failed and is left out: RuntimeError: the server hung up" in watcher.notes[0]
    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 3]


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
    (note,) = run(tmp_path).notes
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
    settings = wandb_settings(tmp_path, 0, notes.append)
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
    assert wandb_settings(tmp_path, 7, lambda line: None)["id"] == "abc12345"
    assert "id" not in wandb_settings(tmp_path, 0, lambda line: None)


def test_tensorboard_shows_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, monitor={"tracker": "tensorboard"}, train={"steps": 2})
    train(tmp_path, resume=True, monitor={"tracker": "tensorboard"}, train={"steps": 3})
    events = EventAccumulator(str(tmp_path / "dimo"))
    events.Reload()
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


def test_trackio_keeps_the_log_on_this_machine(tmp_path):
    pytest.importorskip("trackio", reason="extra `trackio`")
    folder = real_run(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "kept"))
    with sqlite3.connect(tmp_path / "kept" / "dimo.db") as kept:
        rows = dict(kept.execute("select step, metrics from metrics where run_name = 'digits'"))
    for record in logged(folder):
        assert json.loads(rows[record["step"]])["divergence"] == record["divergence"]
