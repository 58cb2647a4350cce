"""Runs what a page shows, scaled down, and compares it with what the page promises."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from typer.testing import CliRunner

from dimo_cli.main import app
from tests.docs.kinds import Kind, kind_of


class Stopped(Exception):
    """A command has come to where it needs something that is published."""


# Settings that make a run a matter of seconds, given the way a user could give them.
QUICK = {
    "DIMO_TRAIN__STEPS": "4",
    "DIMO_TRAIN__BATCH_SIZE": "8",
    "DIMO_MONITOR__FID_EVERY": "0",
    "DIMO_MONITOR__PREVIEW_IMAGES": "4",
    "DIMO_MONITOR__TEACHER_STEPS": "[1, 2]",
}
PREPARED = ".prepared"  # in a run folder that is there before a page begins


def trains(shown):
    """Whether a command really trains."""
    return kind_of(shown) is Kind.RUNS and shown.words[1] in ("distill", "refine")


def scaled(shown):
    """The words of a command, changed where it would take minutes or only work in full size."""
    words = shown.words[1:]
    if words[0] == "eval":
        words = with_fewer_images(words)
    if trains(shown):
        steps = "6" if "--resume" in words else "4"
        words = [re.sub(r"^train\.steps=\d+$", f"train.steps={steps}", word) for word in words]
        if "student.ema.post_hoc.every" not in shown.text:
            words = with_steps(words, steps)
        words = [
            re.sub(r"^monitor\.table_samples=[1-9]\d+$", "monitor.table_samples=100", word)
            for word in words
        ]
        if "--resume" in words and f"train.steps={steps}" not in words:
            words += ["--set", f"train.steps={steps}"]
    if trains(shown) and "--reward" in words:
        words += ["--set", "reward.watch_images=4"]
    if kind_of(shown) is Kind.PLANS and "--dry-run" not in words:
        words += ["--dry-run"]
    if words[0] == "sweep":
        words = with_steps(words, "2")
        words += ["--set", "train.batch_size=8", "--set", "monitor.fid_samples=100"]
    if words[0] == "arena":
        words += ["--set", "train.batch_size=4"]
    if words[0] == "doctor" and "--offline" not in words:
        words += ["--offline"]
    return words


def with_steps(words, steps):
    """No more steps than these, where they are asked for by `--steps`."""
    named = [None, *words]
    return [
        steps if before == "--steps" else word for before, word in zip(named, words, strict=False)
    ]


def with_fewer_images(words):
    """At most a hundred images, and gates that let as few pass."""
    found = list(words)
    for number, word in enumerate(words[:-1]):
        if word in ("-n", "--samples"):
            found[number + 1] = str(min(100, int(words[number + 1])))
        if word == "--max":
            found[number + 1] = re.sub(r"[\d.]+$", "1000", words[number + 1])
    return found


def run(shown, monkeypatch):
    """Run a command in this process, in the present folder."""
    with monkeypatch.context() as patch:
        for name, value in shown.variables.items():
            patch.setenv(name, value)
        if trains(shown):
            make_room(shown)
            for name, value in QUICK.items():
                patch.setenv(name, value)
            patch.setenv("DIMO_MONITOR__TABLE_SAMPLES", "100" if "digits" in shown.text else "0")
        words = shown.words[1:] if shown.is_refused else scaled(shown)
        if "--processes" in words and trains(shown):
            result = in_processes(words)
        else:
            result = CliRunner().invoke(app, words)
    if shown.file:
        Path(shown.file).write_text(result.stdout)
    return result


def in_processes(words):
    """Run a command as a shell does: it starts others by its own command line."""
    program = [sys.executable, "-m", "dimo_cli"]
    ended = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
    code, out, err = ended.returncode, ended.stdout, ended.stderr
    return SimpleNamespace(exit_code=code, stdout=out, stderr=err, exception=None)


def make_room(shown):
    """A page may make the very run that other pages find prepared."""
    words = shown.words
    if "--out" in words:
        folder = Path(words[words.index("--out") + 1])
        if (folder / PREPARED).exists():
            shutil.rmtree(folder)


def shape_of(text):
    """A text with all numbers alike and all spaces single."""
    return " ".join(re.sub(r"\d[\d.,]*k?", "#", text).split())


def check(shown, result):
    """Hold what a command did against its kind, and what it printed against the page."""
    kind, told = kind_of(shown), f"{shown}\n{result.stdout}\n{result.stderr}\n{result.exception!r}"
    if kind is Kind.NEEDS:
        assert isinstance(result.exception, Stopped), f"needs nothing published, or less: {told}"
        return
    assert not isinstance(result.exception, Stopped), f"needs something published: {told}"
    is_known = result.exception is None or isinstance(result.exception, SystemExit)
    assert is_known, told
    assert (result.exit_code != 0) == (kind is Kind.REFUSED), told
    printed = shape_of(result.stdout + result.stderr)
    for line in shown.output:
        assert shape_of(line) in printed, f"not printed: {line}\n{told}"
