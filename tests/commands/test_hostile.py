"""Every command on a stranger's folder: its texts come out as text, wherever they come from."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from dimo_cli.files.writing import file_sha256
from dimo_cli.main import app, main
from dimo_cli.students.folder import BUILTIN
from tests.helpers.hostile import HOSTILE, assert_harmless, assert_one_message

NAME = "maker/digits-1step"
ATTACK = HOSTILE.replace("\ud800", "")  # no file in UTF-8 holds half a character
FOLDER = "o\x1b[2J\x1b]52;c;eA==\x07\u202e[red]\n::error::x"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student that draws, one whose manifest is refused for each of its parts, and a run."""
    base = tmp_path_factory.mktemp("strangers")
    good = shutil.copytree(BUILTIN["digits"], base / FOLDER)
    manifest = json.loads((good / "dimo.json").read_text())
    for key in ("revision", "license", "family"):
        manifest["teacher"][key] = ATTACK
    manifest["training"]["method"] = manifest["dimo_version"] = ATTACK
    manifest["weights_sha256"] = file_sha256(good / "model.safetensors")
    (good / "dimo.json").write_text(json.dumps(manifest))
    (good / "preview.png").unlink()
    refused = {
        "unknown-teacher": {**manifest, "teacher": {**manifest["teacher"], "name": ATTACK}},
        "unknown-key": {**manifest, ATTACK: 1},
        "unknown-kind": {**manifest, "init": {"mask_ratio": {"kind": ATTACK}}},
        "no-number": {**manifest, "temperature": ATTACK},
        "other-weights": {**manifest, "weights_sha256": ATTACK},
    }
    for name, document in refused.items():
        (base / name).mkdir()
        shutil.copy(good / "model.safetensors", base / name)
        (base / name / "dimo.json").write_text(json.dumps(document))
    run = base / "run"
    shutil.copytree(good, run / "student")
    (run / "run.yaml").write_text(json.dumps({ATTACK: ATTACK}))
    (run / "log.jsonl").write_text(json.dumps({"step": 1, ATTACK: 1.0}))
    (run / "notes.txt").write_text(ATTACK)
    (run / "effort.jsonl").write_text(
        json.dumps({"first_step": 0, "last_step": 1, "seconds": 1, "hardware": ATTACK})
    )
    evaluation = {
        "dimo": ATTACK, "subject": {"target": ATTACK, ATTACK: ATTACK}, "values": {ATTACK: 1.0},
        "results": [{"metric": ATTACK, "value": 1.0, "protocol": {ATTACK: ATTACK}, "details": {}}],
        "notes": [ATTACK], "cached": False,
    }  # fmt: skip
    (base / "e.json").write_text(json.dumps(evaluation))
    (base / "bad.yaml").write_text(json.dumps({ATTACK: {ATTACK: ATTACK}}))
    return base


COMMANDS = {
    "sample": ("sample", "--student", FOLDER, "-n", "1"),
    "sample --teacher": ("sample", "--student", FOLDER, "-n", "1", "--teacher", "--steps", "1"),
    "compare": ("compare", FOLDER, "digits", "-n", "1"),
    "eval --compare": ("eval", "--compare", "e.json", "e.json"),
    "eval": ("eval", "is", FOLDER, "-n", "16", "--no-cache", "--github", "--max", "is=0"),
    "push": ("push", FOLDER, NAME, "--dry-run"),
    "push --metrics": ("push", FOLDER, NAME, "--dry-run", "--metrics", "e.json"),
    "push a run": ("push", "run", NAME, "--dry-run"),
    "report": ("report", "run"),
    "doctor": ("doctor", "--folder", FOLDER, "--offline"),
    "distill --spec": ("distill", "--spec", "bad.yaml"),
    "distill --resume": ("distill", "--resume", "run"),
    "spec check": ("spec", "check", "bad.yaml"),
    "refine": ("refine", "unknown-teacher", "--gan"),
    "no such command": (ATTACK,),
    "no such option": ("sample", f"--{ATTACK}"),
    "no such class": ("sample", "--student", FOLDER, "--class", ATTACK),
    "no such student": ("sample", "--student", ATTACK),
    "no such file": ("eval", "--compare", ATTACK, ATTACK),
    **{
        f"{what} {name}": (*call, name)
        for name in ("unknown-teacher", "unknown-key", "unknown-kind", "no-number", "other-weights")
        for what, call in (("sample", ("sample", "--student")), ("export", ("export",)))
    },
}


def orders_of_github_removed(text):
    """Without the one annotation that dimo writes itself."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("::error title=dimo"))


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=name) for name, words in COMMANDS.items()]
)
def test_no_command_passes_on_an_order(dimo, folders, monkeypatch, tmp_path, words):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for flags in ((), ("--json",)):
        result = dimo(*words, *flags)
        assert isinstance(result.exception, SystemExit | None), result.exception
        told = orders_of_github_removed(result.stderr)
        assert_one_message(told)
        assert_one_message(result.stdout)
        if flags and result.stdout:
            json.loads(result.stdout)


def test_a_traceback_that_was_asked_for_holds_no_order(folders, monkeypatch, capfd):
    """DIMO_DEBUG=1 shows what the program itself would otherwise put into a sentence."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("DIMO_DEBUG", "1")
    monkeypatch.setattr(app, "rich_markup_mode", app.rich_markup_mode)  # which `main` sets
    monkeypatch.setattr(sys, "argv", ["dimo", "sample", "--student", "unknown-teacher"])
    for stream in ("stdout", "stderr"):  # which `main` takes the place of
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    with pytest.raises(SystemExit):
        main()
    told = capfd.readouterr().err
    assert "Traceback" in told
    assert_harmless(told)


def test_a_report_of_a_strangers_run_is_only_its_own(dimo, folders, monkeypatch):
    monkeypatch.chdir(folders)
    assert dimo("report", "run", "--out", "page.html").exit_code == 0
    page = Path("page.html").read_text()
    assert "\x1b" not in page
    assert "\u202e" not in page
