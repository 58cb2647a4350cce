"""Killed at any moment and resumed, a run ends with the weights of one that was left alone."""

import pytest

from tests.torture.harness import (
    Fork,
    Program,
    killed_often,
    same_run,
    seconds_to_start,
    tidy_names,
)

OFTEN = {"steps": 16, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}
KILLS = 25


def test_three_kills_change_nothing(tmp_path):
    Fork(tmp_path / "whole", train=OFTEN).finish()
    run = tmp_path / "killed"
    told = killed_often(lambda: Fork(run, train=OFTEN), run, kills=3, seed=4, start_up=0.2)
    assert "while it writes a checkpoint" in told
    same_run(tmp_path / "whole", run)
    assert tidy_names(run) == []


def test_a_run_that_is_killed_before_its_first_checkpoint_starts_again(tmp_path):
    run = tmp_path / "killed"
    fork = Fork(run, train=OFTEN)
    while not (run / "run.yaml").exists():
        assert fork.is_running()
    fork.kill()
    assert not any((run / "checkpoints").glob("step-*"))
    Fork(run, train=OFTEN).finish()
    Fork(tmp_path / "whole", train=OFTEN).finish()
    same_run(tmp_path / "whole", run)
    assert "starts again" in (run / "notes.txt").read_text()


@pytest.mark.slow
def test_25_kills_of_the_real_program_change_nothing(tmp_path):
    settings = (
        "train.steps=240",
        "train.batch_size=8",
        "train.checkpoint_every=2",
        "train.log_every=1",
        "monitor.fid_every=50",
        "monitor.fid_samples=100",
        "monitor.table_samples=0",
        "monitor.preview_every=7",
    )
    whole = Program(tmp_path / "whole", *settings)
    start_up = seconds_to_start(whole, tmp_path / "whole")
    whole.finish()
    run = tmp_path / "killed"
    told = killed_often(lambda: Program(run, *settings), run, KILLS, seed=2, start_up=start_up)
    print({moment: told.count(moment) for moment in sorted(set(told))})  # noqa: T201
    assert told.count("while it writes a checkpoint") >= 8
    same_run(tmp_path / "whole", run)
    assert tidy_names(run) == []
