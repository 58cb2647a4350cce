"""Full disks, folders that cannot be written to, clocks that jump: exit 3 and nothing lost."""

import ast
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

import dimo_cli
from dimo_cli.console.live import PlainView
from dimo_cli.errors import MissingError
from dimo_cli.files.writing import TEMPORARY
from dimo_cli.runs.distill import distill
from dimo_cli.training.checkpoint import CheckpointFolder
from tests.conftest import small_spec
from tests.torture.harness import every_checkpoint_is_whole, same_run, tidy_names

OFTEN = {"steps": 6, "batch_size": 8, "checkpoint_every": 1, "log_every": 1}
NO_ROOM = "No space left on device"


def run(folder, resume=False, **groups):
    talk = []
    result = distill(small_spec(**groups), folder, PlainView(talk.append), resume)
    return result, talk


@contextmanager
def mounted(folder, *options):
    """A file system of its own at a folder; skipped where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# A checkpoint of digits has six megabytes: the disk is full at the first, the second, ...
@pytest.mark.parametrize("size", [1, 4, 9, 15])
def test_a_disk_that_fills_up_ends_a_run_that_can_go_on_elsewhere(tmp_path, size):
    with mounted(tmp_path / "disk", f"size={size}m") as disk:
        with pytest.raises(MissingError) as caught:
            run(disk / "r", train={**OFTEN, "keep_checkpoints": 5})
        assert caught.value.exit_code == 3
        assert "Cannot write" in caught.value.message
        every_checkpoint_is_whole(disk / "r")
        assert tidy_names(disk / "r") == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        run(disk / "r", resume=True, train={**OFTEN, "keep_checkpoints": 5})
        run(tmp_path / "whole", train={**OFTEN, "keep_checkpoints": 5})
        same_run(disk / "r", tmp_path / "whole")


def test_a_full_disk_is_exit_3_with_a_sentence_of_the_real_program(tmp_path):
    with mounted(tmp_path / "disk", "size=9m") as disk:
        result = subprocess.run(
            [sys.executable, "-m", "dimo_cli", "distill", "--preset", "digits", "--out", "r",
             "--set", "train.checkpoint_every=1", "--set", "train.batch_size=8"],
            cwd=disk, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 3, result.stderr
        assert NO_ROOM in result.stderr or "failed" in result.stderr
        assert "--resume" in result.stderr
        assert "Traceback" not in result.stderr
        every_checkpoint_is_whole(disk / "r")


@pytest.mark.parametrize(
    ("limit", "steps"), [pytest.param(200_000, [], marks=pytest.mark.slow), (1_000_000, [0])]
)
def test_a_quota_on_files_is_a_full_disk(tmp_path, limit, steps):
    """Where nothing may be mounted, a limit on the size of a file is as good."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from dimo_cli.main import app\n"
        "sys.argv = ['dimo', 'distill', '--preset', 'digits', '--out', 'r', '--quiet']\n"
        "sys.argv += ['--set', 'train.checkpoint_every=2', '--set', 'train.batch_size=8']\n"
        "app()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3, result.stderr
    assert "Cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps() == steps
    assert tidy_names(tmp_path / "r") == []


def full(*_args, **_kwargs):
    raise OSError(28, NO_ROOM)


def full_for_safetensors(*_args, **_kwargs):
    raise SafetensorError(f"Error while serializing: I/O error: {NO_ROOM} (os error 28)")


@pytest.mark.parametrize(
    ("place", "fails"),
    [
        ("dimo_cli.runs.distill.to_yaml", full),
        ("dimo_cli.training.trainer.Trainer.log", full),
        ("dimo_cli.training.checkpoint.torch.save", full),
        ("dimo_cli.training.checkpoint.save_file", full_for_safetensors),
        ("dimo_cli.students.folder.save_file", full_for_safetensors),
        ("dimo_cli.runs.distill.RunResult.summary", full),
    ],
)
def test_whatever_cannot_be_written_is_said_and_made_up_for_later(
    tmp_path, monkeypatch, place, fails
):
    run(tmp_path / "whole", train=OFTEN)
    with monkeypatch.context() as patch:
        patch.setattr(place, fails)
        with pytest.raises(MissingError, match=NO_ROOM) as caught:
            run(tmp_path / "r", train=OFTEN)
    assert caught.value.exit_code == 3
    assert "--resume" in caught.value.hint
    assert tidy_names(tmp_path / "r") in ([], [".tmp-student"])
    run(tmp_path / "r", resume=(tmp_path / "r" / "run.yaml").exists(), train=OFTEN)
    same_run(tmp_path / "r", tmp_path / "whole")
    assert tidy_names(tmp_path / "r") == []


@contextmanager
def read_only(folder):
    """A folder that cannot be written to: by its mode, or for root by a mount."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    mounts = [["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]]
    if any(
        subprocess.run(["mount", *m], capture_output=True, check=False).returncode for m in mounts
    ):
        pytest.skip("root, and without the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    "call",
    [
        ("distill", "--preset", "digits", "--out", "box/r"),
        ("distill", "--resume", "box/old", "--set", "train.steps=3"),
        ("refine", "digits", "--gan", "--out", "box/r"),
        ("tteo", "shapes", "--prompt", "a red circle", "--out", "box/r"),
        ("data", "encode", "photos", "--preset", "digits", "--out", "box/r"),
        ("sample", "-n", 1, "--grid", "box/grid.png"),
        ("export", "digits", "--out", "box/new.pt2"),
    ],
    ids=lambda call: " ".join(map(str, call[:2])),
)
def test_a_read_only_folder_is_said_and_nothing_is_left(dimo, tmp_path, call):
    (tmp_path / "photos" / "one").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "one" / "1.png")
    box = tmp_path / "box"
    run(box / "old", train={**OFTEN, "steps": 2})
    before = sorted(path.name for path in box.rglob("*"))
    with read_only(box):
        result = dimo(*call, "--json")
    assert result.exit_code == 3, result.stderr
    problem = json.loads(result.stdout)["error"]
    assert "box" in problem
    assert "ead-only" in problem or "denied" in problem
    assert sorted(path.name for path in box.rglob("*")) == before


def test_a_clock_that_jumps_changes_neither_weights_nor_durations(tmp_path, monkeypatch):
    run(tmp_path / "whole", train=OFTEN)
    days = iter([86_400.0, -9e6, 9e9] * 10_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(days))
    run(tmp_path / "r", train=OFTEN)
    same_run(tmp_path / "r", tmp_path / "whole")
    lines = (tmp_path / "r" / "log.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["images_per_second"] for line in lines]
    assert all(0 < speed < 1e6 for speed in speeds)


def test_no_duration_is_taken_from_a_clock_that_can_be_set():
    """Wall-clock time is for people to read; a difference of two of them may be anything."""
    found = []
    for path in Path(dimo_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_time = isinstance(node, ast.Attribute) and node.attr == "time"
            if is_time and isinstance(node.value, ast.Name) and node.value.id == "time":
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_a_run_that_goes_on_takes_away_what_its_killed_process_left(tmp_path):
    run(tmp_path / "r", train={**OFTEN, "steps": 2})
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    (tmp_path / "r" / f".log.jsonl.{ended.pid}-0af3{TEMPORARY}").touch()
    run(tmp_path / "r", resume=True, train={**OFTEN, "steps": 3})
    assert tidy_names(tmp_path / "r") == []
