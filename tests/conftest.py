"""Shared fixtures: golden numbers, small specs, and a CLI that runs in this process."""

import os
import signal
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.registry import load_teacher
from tests.helpers.fake_hub import FakeHub, let_the_client_log, serve
from tests.helpers.golden import GOLDEN, load_golden
from tests.helpers.rehearsing import no_rehearsal, short_rehearsals

# The networks of the tests are tiny: one thread each, and as many processes as there are cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A shell that starts this in the background has its children ignore both; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("DIMO_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _short_rehearsals():
    with short_rehearsals():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks():
    """No test is about a loss of power, and thousands of files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def unrehearsed(monkeypatch):
    """Runs take little memory, which nobody works out."""
    monkeypatch.setattr("dimo_cli.planning.memory.rehearse", no_rehearsal)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def golden():
    """Load a golden file: tensors or JSON."""

    def load(name):
        if name.startswith("metrics/") and (GOLDEN / "expected.json").exists():
            name = Path(name).name  # the numbers of the metrics alone
        try:
            return load_golden(name)
        except FileNotFoundError as error:
            pytest.skip(f"{error.filename} is not part of this golden folder")

    return load


@pytest.fixture
def teacher():
    return load_teacher("digits")


def small_spec(**groups):
    """A run of seconds: few steps, small batches, no closing table."""
    base = {
        "student": {"optimizer": {"learning_rate": 4e-4, "warmup_steps": 2}, "ema": {"decay": 0.9}},
        "auxiliary": {"optimizer": {"learning_rate": 2e-3, "warmup_steps": 2}},
        "train": {"steps": 6, "batch_size": 8, "checkpoint_every": 3, "log_every": 1},
        "monitor": {"fid_every": 0, "table_samples": 0, "preview_every": 1000, "preview_images": 2},
    }
    for name, values in groups.items():
        base[name] = {**base.get(name, {}), **values}
    return DistillSpec.model_validate(base)


class Silent:
    """A watcher that only remembers."""

    def __init__(self, fids=()):
        self.notes, self.records, self.previews, self.fids = [], [], [], list(fids)

    def on_start(self, step):
        self.started = step

    def on_step(self, step):
        pass

    def on_log(self, record):
        self.records.append(record)

    def on_preview(self, step, student):
        self.previews.append(step)

    def on_note(self, message):
        self.notes.append(message)

    def looks_at(self, step):
        return False

    def look(self, step, student):
        return {}

    def should_stop(self):
        return None

    def should_pause(self):
        return False

    def on_checkpoint(self, step, folder):
        pass

    def state(self):
        return {}

    def load_state(self, state):
        pass

    def measure_metric(self, step, student):
        return self.fids.pop(0)


@pytest.fixture
def dimo(tmp_path, monkeypatch):
    """Run `dimo ...` in an empty folder; the result has exit_code, stdout and stderr."""
    from dimo_cli.main import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        if "--dry-run" in arguments and arguments[0] in ("distill", "refine"):
            shorten_trials(monkeypatch)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def shorten_trials(monkeypatch):
    """Try a run with two steps and a few images: how long it takes is no matter here."""
    from dimo_cli.runs import trial

    monkeypatch.setattr(trial, "TRIED_FOR", 0.0)
    monkeypatch.setattr(trial, "TRIED_IMAGES", 8)
    monkeypatch.setattr(trial, "MATRIX", 64)
    monkeypatch.setattr(trial, "MOST_SAMPLES", 4)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a run of digits of six steps, the second the best. Copy it to change it."""
    from tests.helpers.runs import distilled

    folder = tmp_path_factory.mktemp("finished") / "a run"
    distilled(folder, fids=(1.0, 3.0, 2.0))
    return folder


@pytest.fixture(scope="session")
def unfinished_run(tmp_path_factory, finished_run):
    """The same run, as it was when it was killed after five of its steps."""
    from tests.helpers.runs import unfinished

    return unfinished(finished_run, tmp_path_factory.mktemp("unfinished") / "a run")


@pytest.fixture
def fake_hub(tmp_path_factory, monkeypatch):
    """An empty Hub on this machine, with caches of its own."""
    let_the_client_log()
    hub = FakeHub()
    server = serve(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def room_enough(monkeypatch):
    """A machine that has the memory that full-size teachers need, whose tiny stand-ins are run.

    That there is enough for a run need not be found out by rehearsing it.
    """
    monkeypatch.setattr("dimo_cli.planning.plan.lacking", lambda spec, launch: None)
    monkeypatch.setattr("dimo_cli.planning.plan.machine_memory", lambda: ("a large GPU", 2**40))
