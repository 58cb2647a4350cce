"""`--processes` and `--gpus` start the processes, and a person notices one program."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dimo_cli.distributed.lifeline import Ending
from dimo_cli.distributed.reports import Report
from dimo_cli.distributed.start import conclude, launcher_arguments
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.training.checkpoint import CheckpointFolder
from tests.torture.test_ranks import started

PATIENCE = 300  # seconds, of a machine that others use as well
ALONE = ("unshare", "--map-root-user", "--net")  # where not even loopback is up


def can_be_without_network():
    """Whether a process of this machine may be cut off from its network."""
    return bool(shutil.which("unshare")) and not subprocess.run([*ALONE, "true"]).returncode


def short_run(steps, *sets):
    """A command line of a small run."""
    settings = (
        f"train.steps={steps}",
        "train.batch_size=8",
        "train.log_every=2",
        "monitor.table_samples=0",
        "monitor.fid_every=0",
        *sets,
    )
    flags = [word for setting in settings for word in ("--set", setting)]
    return ("distill", "--preset", "digits", "--out", "r", *flags)


def ended(process):
    output, talk = process.communicate(timeout=PATIENCE)
    return process.returncode, output, talk


def ranks_of(process):
    """The processes that a command started, as soon as both are there and train."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        children = psutil.Process(process.pid).children()
        found = [child for child in children if "dimo_cli" in child.cmdline()]
        if len(found) == 2:
            return sorted(found, key=lambda child: child.environ()["RANK"])
        time.sleep(0.05)


def wait_for(path, process):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_two_processes_speak_as_one_and_another_number_goes_on(tmp_path):
    code, output, talk = ended(started(tmp_path, *short_run(4), "--processes", "2"))
    assert code == 0, talk
    assert output.count("Student saved to") == talk.count("Training from step 0 to 4.") == 1
    assert "Traceback" not in talk
    (effort,) = map(json.loads, (tmp_path / "r" / "effort.jsonl").read_text().splitlines())
    assert "2 processes" in effort["hardware"]
    more = ("distill", "--resume", "r", "--set", "train.steps=6", "--json")
    code, output, talk = ended(started(tmp_path, *more))
    assert code == 0, talk
    assert json.loads(output)["student"] == "r/student"
    log = (tmp_path / "r" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 4, 6]


@pytest.mark.slow  # its arithmetic is that of `test_one_sharded_rank_trains_what_one_process_does`
def test_one_process_alone_is_sharded_where_that_is_asked_for(tmp_path):
    code, output, talk = ended(started(tmp_path, *short_run(2), "--processes", "1", "--shard"))
    assert code == 0, talk
    assert output.count("Student saved to") == 1
    pieces = list((tmp_path / "r" / "checkpoints").rglob("*-of-*.safetensors"))
    assert pieces, "a checkpoint of sharded networks is in pieces"


@pytest.mark.slow
def test_a_signal_reaches_all_processes_and_leaves_a_checkpoint(tmp_path):
    process = started(tmp_path, *short_run(100_000), "--processes", "2")
    wait_for(tmp_path / "r" / "log.jsonl", process)
    process.send_signal(signal.SIGTERM)
    code, _, talk = ended(process)
    assert code == 128 + signal.SIGTERM
    assert "dimo distill --resume r" in talk
    assert "Traceback" not in talk
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps()[-1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_with_a_sentence(tmp_path, rank):
    process = started(tmp_path, *short_run(100_000), "--processes", "2")
    wait_for(tmp_path / "r" / "log.jsonl", process)
    ranks_of(process)[rank].kill()
    code, _, talk = ended(process)
    assert code == 3, talk
    assert f"Process {rank} was killed (SIGKILL)" in talk
    assert "--resume" in talk
    assert "Traceback" not in talk


@pytest.mark.slow
def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path):
    call = ("eval", "all", "digits", "-n", "600", "--no-cache", "--json")
    code, one, talk = ended(started(tmp_path, *call))
    assert code == 0, talk
    code, two, talk = ended(started(tmp_path, *call, "--processes", "2"))
    assert code == 0, talk
    values = [
        {result["metric"]: result["value"] for result in json.loads(output)["results"]}
        for output in (one, two)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.slow
def test_a_failed_gate_is_the_exit_code_of_all(tmp_path):
    call = ("eval", "fid", "digits", "-n", "400", "--no-cache", "--max", "fid=0.001")
    code, _, talk = ended(started(tmp_path, *call, "--processes", "2"))
    assert code == 1
    assert talk.count("Gate failed") == 1
    assert "Traceback" not in talk


def are_gone(processes):
    """Whether all of them end within some seconds."""
    _, left = psutil.wait_procs(processes, timeout=20)
    return not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_after_a_time_of_grace(tmp_path):
    process = started(tmp_path, *short_run(100_000), "--processes", "2", "--grace", "1")
    wait_for(tmp_path / "r" / "log.jsonl", process)
    ranks = ranks_of(process)
    ranks[1].suspend()
    process.send_signal(signal.SIGTERM)
    code, _, talk = ended(process)
    assert code == 128 + signal.SIGTERM
    assert "Processes 0 and 1 had not ended 1 seconds after SIGTERM" in talk
    assert "--resume" in talk
    assert "Traceback" not in talk
    assert are_gone(ranks)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_of_which_a_process_hangs_ends_within_half_a_minute(tmp_path, capsys, rank, numbers):
    process = started(tmp_path, *short_run(100_000), "--processes", "2")
    wait_for(tmp_path / "r" / "log.jsonl", process)
    ranks = ranks_of(process)
    ranks[rank].suspend()
    asked = time.monotonic()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)
    code, _, talk = ended(process)
    took = time.monotonic() - asked
    with capsys.disabled():
        print(f"rank {rank} hangs: ended after {took:.1f} s")  # noqa: T201
    assert took < 30
    assert code == 128 + numbers[0]
    assert "Traceback" not in talk
    assert are_gone(ranks)


@pytest.mark.slow
def test_the_processes_of_a_job_end_with_their_launcher_and_leave_a_checkpoint(tmp_path):
    process = started(tmp_path, *short_run(100_000), "--processes", "2")
    wait_for(tmp_path / "r" / "log.jsonl", process)
    ranks = ranks_of(process)
    process.kill()
    assert are_gone(ranks)
    process.communicate(timeout=PATIENCE)
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps()[-1] > 0


@pytest.mark.slow
@pytest.mark.skipif(not can_be_without_network(), reason="makes a network of its own")
def test_a_machine_without_loopback_is_told_so_at_once(tmp_path):
    call = [sys.executable, "-m", "dimo_cli", *short_run(2), "--processes", "2"]
    began = time.monotonic()
    done = subprocess.run(
        [*ALONE, *call], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert time.monotonic() - began < 60
    assert done.returncode == 3
    assert "meet at 127.0.0.1, which this machine cannot use" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("--processes", "3"), "cannot be divided"),
        (("--grace", "5"), "`--grace` needs `--gpus`"),
        (("--gpus", "2", "--processes", "2"), "`--gpus`"),
        (("--gpus", "64"), "none that torch can use"),
        (("--gpus", "1", "--shard"), "none that torch can use"),
        (("--shard",), "`--shard` needs `--gpus`"),
        (("--shard", "--set", "train.compile=true", "--processes", "2"), "`train.compile`"),
        (("--shard", "--set", "train.compile=true", "--gpus", "1"), "`train.compile`"),
        (
            ("--shard", "--set", "student.ema.offload=true", "--processes", "2"),
            "`student.ema.offload`",
        ),
        (("--nodes", "2", "--gpus", "1"), "`--main HOST:PORT`"),
        (("--nodes", "2", "--gpus", "1", "--main", "first:1"), "the same run folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(dimo, monkeypatch, call, words):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    out = () if "--nodes" in call else ("--out", "r")
    result = dimo("distill", "--preset", "digits", *out, *call)
    assert result.exit_code in (2, 3)
    assert words in " ".join(result.stderr.split())
    assert not Path("r").exists()


def test_the_launcher_is_told_what_was_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    spec = LaunchSpec(gpus=8, nodes=2, node=1, main="first:29500", shard=True)
    told = launcher_arguments(spec, ["distill", "--resume", "r"])
    pairs = dict(zip(told[:-5:2], told[1:-5:2], strict=True))
    assert pairs["--num_processes"] == "16"
    assert pairs["--machine_rank"] == "1"
    assert (pairs["--main_process_ip"], pairs["--main_process_port"]) == ("first", "29500")
    assert Path(pairs["--config_file"]).name == "fsdp2.yaml"
    assert told[-5:] == ["--module", "dimo_cli", "distill", "--resume", "r"]
    assert int(pairs["--num_cpu_threads_per_process"]) == max(1, (os.cpu_count() or 1) // 8)


def test_of_several_reasons_the_first_that_is_one_is_said():
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failures = {rank: ProcessFailure(rank, 0, 3, "<none>") for rank in (0, 1)}
    reports = [
        Report(0, "Process 0 of 2 lost the others.", None, 3, is_follow_up=True),
        Report(1, "The disk is full.", "Make room.", 4, is_follow_up=False),
    ]
    with pytest.raises(Exception, match="The disk is full") as caught:
        conclude(ChildFailedError("dimo", failures), reports, Ending(Path(), 1.0))
    assert caught.value.exit_code == 4
