"""Several ranks of one job, forked from the test: no second import of torch."""

import os
import socket
import sys
import time
import traceback

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import tests.helpers.forking  # noqa: F401
from dimo_cli.distributed.ranks import joined_ranks
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.checkpoint import CheckpointFolder
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec

DEADLINE = 900  # of a machine that others use as well
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Crew:
    """`world` ranks that all call `work(rank)`."""

    def __init__(self, world, work, **environment):
        job = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        self.pids = []
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ.update({**job, **own, **environment})
                os._exit(outcome(work, rank))
            self.pids.append(pid)

    def codes(self):
        """The exit codes of all ranks, negative where a signal ended one."""
        deadline, found = time.monotonic() + DEADLINE, {}
        while len(found) < len(self.pids):
            for pid in set(self.pids) - found.keys():
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    found[pid] = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return [found[pid] for pid in self.pids]


def outcome(work, rank):
    """The exit code of one rank's work."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    try:
        work(rank)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        return getattr(error, "exit_code", 1)
    return 0


def train(folder, resume=False, watcher=Silent, spec=None, **groups):
    """A small run, by as many ranks as there are."""
    with joined_ranks():
        trainer = Trainer(spec or small_spec(**groups), load_teacher("digits"), folder, watcher())
        trainer.run(resume)
        return trainer


def train_with(world, folder, resume=False, environment=None, **groups):
    """The same run by `world` ranks."""
    crew = Crew(world, lambda rank: train(folder, resume, **groups), **(environment or {}))
    assert crew.codes() == [0] * world


def newest(folder):
    """The newest checkpoint of a run."""
    checkpoints = CheckpointFolder(folder / "checkpoints")
    return checkpoints.path(checkpoints.steps()[-1])


def weights(folder, name):
    """A network of the newest checkpoint, whole, from whatever pieces there are."""
    path, found = newest(folder), {}
    for file in sorted(path.glob(f"{name}-*-of-*.safetensors")):
        for key, rows in load_file(file).items():
            found.setdefault(key, []).append(rows)
    whole = load_file(path / f"{name}.safetensors")
    return whole | {key: torch.cat(rows) for key, rows in found.items()}


def largest_difference(one, two):
    """Of all networks, the largest difference of a weight relative to its tensor's largest."""
    worst = 0.0
    for name in ("student", "auxiliary", "ema"):
        first, second = weights(one, name), weights(two, name)
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            scale = tensor.abs().max().clamp(min=1e-12)
            worst = max(worst, ((second[key] - tensor).abs().max() / scale).item())
    return worst
