"""Runs of a second, from Python and from the command line."""

import pytest

from dimo_cli import distill

QUICK = {
    "train.batch_size": 8,
    "train.log_every": 1,
    "train.checkpoint_every": 3,
    "monitor.fid_every": 0,
    "monitor.table_samples": 0,
    "monitor.preview_every": 2,
    "monitor.preview_images": 2,
}
RUINOUS = {
    "student.optimizer.learning_rate": 1.0,
    "student.optimizer.warmup_steps": 0,
    "monitor.stop_on": ["collapse"],
}
FLAGS = [word for path, value in QUICK.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(here):
    """Distill digits in few steps; more settings may be given."""

    def run(steps=4, **arguments):
        settings = {**QUICK, **arguments.pop("set", {})}
        return distill("digits", steps=steps, set=settings, **arguments)

    return run
