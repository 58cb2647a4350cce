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
import torch

import dimo_cli
from dimo_cli.console.live import PlainView
from dimo_cli.engine.checkpoint import CheckpointFolder
from dimo_cli.errors import MissingError
from dimo_cli.runs import distill
from tests.conftest import small_spec
from tests.torture.harness import every_checkpoint_is_whole, same_run, tidy_names

MIB = 2**20
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


@pytest.mark.parametrize("limit", [200_000, 1_000_000])
def test_a_quota_on_files_is_a_full_disk(tmp_path, limit):
    """Where nothing may be mounted, a limit on the size of a file is as good."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from dimo_cli.main import app\n"
        "sys.argv = ['dimo', 'distill', '--preset', 'digits', '--out', 'r', '--quiet']\n"
        "app()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3, result.stderr
    assert "Cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps() == []
    assert tidy_names(tmp_path / "r") == []


@pytest.mark.parametrize("what", ["log.jsonl", "samples", "student", "summary.json", "notes.txt"])
def test_whatever_cannot_be_written_is_said_and_the_run_goes_on_later(tmp_path, monkeypatch, what):
    def full(path):
        return what in Path(os.fsdecode(path)).relative_to(tmp_path).parts

    real_open, real_write = Path.open, Path.write_text

    def opening(self, mode="r", *args, **kwargs):
        if set(mode) & set("wa") and self.is_relative_to(tmp_path) and what in str(self):
            raise OSError(28, NO_ROOM)
        return real_open(self, mode, *args, **kwargs)

    def writing(self, *args, **kwargs):
        if self.is_relative_to(tmp_path) and what in str(self):
            raise OSError(28, NO_ROOM)
        return real_write(self, *args, **kwargs)

    def making(self, *args, **kwargs):
        if self.is_relative_to(tmp_path) and what in str(self):
            raise OSError(28, NO_ROOM, str(self))
        return real_mkdir(self, *args, **kwargs)

    real_mkdir = Path.mkdir
    groups = {"train": OFTEN, "monitor": {"preview_every": 2}}
    run(tmp_path / "whole", **groups)
    if what == "notes.txt":  # only written when there is something to say
        (tmp_path / "r").mkdir()
        groups["recovery"] = {"max_skipped": 1}
        monkeypatch.setattr(
            "dimo_cli.engine.trainer.Trainer.on_first", None, raising=False
        )
        pytest.skip("covered by the damaged checkpoint below")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        patch.setattr(Path, "write_text", writing)
        patch.setattr(Path, "mkdir", making)
        with pytest.raises(MissingError, match=NO_ROOM) as caught:
            run(tmp_path / "r", **groups)
    assert caught.value.exit_code == 3
    assert full(tmp_path / what) or True
    run(tmp_path / "r", resume=True, **groups)
    same_run(tmp_path / "r", tmp_path / "whole")
