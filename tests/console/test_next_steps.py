"""Every command that is printed as a next step is run, for each kind of run and with spaces."""

import os
import re
import shlex
import signal

import pytest

from dimo_cli.console import next_steps
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.specs.resolve import preset_names, refine_preset_names
from dimo_cli.students.names import builtin_students

RUN = "some runs/it's one"
SETTINGS = [
    part
    for setting in (
        *("train.steps=2", "train.batch_size=4", "train.log_every=1", "monitor.fid_every=0"),
        *("monitor.table_samples=0", "monitor.preview_every=100", "monitor.preview_images=2"),
    )
    for part in ("--set", setting)
]
STARTS = {
    "digits": ("distill", "--preset", "digits"),
    "shapes": ("distill", "--preset", "shapes"),
    "digits-gan": ("refine", "digits", "--gan"),
    "shapes-reward": ("refine", "shapes", "--preset", "shapes-reward"),
}


def commands_in(text):
    """All whole commands that a text shows between backticks."""
    return [shlex.split(found) for found in re.findall(r"`(dimo [^`]+)`", text)]


@pytest.fixture
def follow(dimo):
    """Run the one command that a text shows."""

    def run(text):
        (words,) = commands_in(text)
        done = dimo(*words[1:])
        assert done.exit_code == 0, (words, done.stderr)
        return done

    return run


@pytest.fixture
def stopped(dimo, monkeypatch):
    """Start a run that is interrupted after its first step."""

    def start(kind):
        log = RunWatcher.on_log

        def interrupt(watcher, record):
            log(watcher, record)
            os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as during:
            during.setattr(RunWatcher, "on_log", interrupt)
            return dimo(*STARTS[kind], *SETTINGS, "--out", RUN)

    return start


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow) if kind == "shapes-reward" else kind
        for kind in STARTS
    ],
)
def test_every_next_step_of_a_run_is_a_command_that_works(dimo, follow, stopped, tmp_path, kind):
    cut = stopped(kind)
    assert cut.exit_code == 130, cut.stderr
    (resume,) = commands_in(cut.stderr)
    assert resume[1:] == [STARTS[kind][0], "--resume", RUN]

    unfinished = dimo("sample", "--student", tmp_path / RUN, *what_to_draw(kind))
    assert unfinished.exit_code == 3
    assert commands_in(unfinished.stderr) == [resume]
    checkpoint = re.search(r"`([^`]+@last)`", unfinished.stderr)[1]
    assert dimo("sample", "--student", checkpoint, *what_to_draw(kind)).exit_code == 0

    assert dimo("report", RUN).exit_code == 0
    page = (tmp_path / RUN / "report.html").read_text()
    assert "--resume" in page
    assert "some runs/it" in page

    other = {"distill": "refine", "refine": "distill"}[resume[1]]
    wrong = dimo(other, "--resume", RUN, "--set", "train.log_every=2")
    assert wrong.exit_code == 2
    assert commands_in(wrong.stderr) == [[*resume, "--set", "train.log_every=2"]]

    done = follow(cut.stderr)
    follow(done.stderr)
    assert (tmp_path / "samples.png").is_file()

    taken = dimo(*STARTS[kind], *SETTINGS, "--out", RUN)
    assert taken.exit_code == 2
    finished = follow(taken.stderr)
    assert "is finished" in finished.stdout
    follow(finished.stderr)
    assert (tmp_path / RUN / "checkpoints" / "step-4").is_dir()


def what_to_draw(kind):
    return ("--prompt", "a red circle", "-n", 1) if kind.startswith("shapes") else ("-n", 1)


@pytest.mark.parametrize("name", ["digits", "digits-gan"])
def test_a_copied_preset_is_run_as_is_said(dimo, name):
    copied = dimo("presets", "cp", name, "my preset.yaml")
    (words,) = commands_in(copied.stderr)
    assert "my preset.yaml" in words
    planned = dimo(*words[1:], "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr


def test_a_preset_of_a_teacher_that_does_not_ship_leaves_the_student_open(dimo):
    names = [name for name in refine_preset_names() if name.split("-")[0] in preset_names()]
    name = next(name for name in names if name.split("-")[0] not in builtin_students())
    assert "dimo refine STUDENT --spec x.yaml" in dimo("presets", "cp", name, "x.yaml").stderr


def test_a_path_is_written_as_it_works_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert next_steps.from_here(tmp_path / "dd" / "ki2") == "dd/ki2"
    assert next_steps.from_here("dd/ki2") == "dd/ki2"
    assert next_steps.from_here(tmp_path.parent) == str(tmp_path.parent)
    assert next_steps.from_here("-x") == "./-x"


def test_words_are_quoted_as_a_shell_needs_it():
    told = shlex.split(next_steps.sample("a b", 'a "red" fox', 4).strip("`"))
    assert told == ["dimo", "sample", "--student", "a b", "--prompt", 'a "red" fox', "-n", "4"]
