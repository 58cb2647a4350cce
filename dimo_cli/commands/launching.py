"""Options for several processes, and the way from a command to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dimo_cli.commands.parameters import Fields, fields_of
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.specs.flags import Given
from dimo_cli.specs.launch import LaunchSpec

if TYPE_CHECKING:
    from dimo_cli.specs.distill import DistillSpec

ON_THIS_MACHINE = Fields(only=("gpus", "processes"))


def asked_for(given: Given[LaunchSpec]) -> LaunchSpec:
    """The processes that a command line asks for."""
    # Slurm numbers its machines also where each has a job of its own.
    of_slurm = str(given.get("node", 0)) == os.environ.get("SLURM_NODEID")
    return given.spec({"node": 0} if of_slurm and given.get("nodes", 1) == 1 else None)


def check_launch(launch: LaunchSpec, spec: DistillSpec, has_folder: bool) -> None:
    """Refuse what would only fail once the processes are there."""
    if launch.total == 1 and not launch.shard:
        return
    from dimo_cli.engine.sharding import check_shardable
    from dimo_cli.engine.share import divide

    divide(spec.train, 0, launch.total, spec.least_pass)
    if launch.gpus and spec.train.device == "cpu":
        raise SpecError(
            "`--gpus` is given, but `train.device` is cpu.", "Use `--processes`, or another device."
        )
    if launch.processes and spec.train.device == "cuda":
        raise SpecError(
            "`--processes` are on CPUs, but `train.device` is cuda.", "Use `--gpus` instead."
        )
    if launch.shard:
        check_shardable(spec)
    if launch.nodes > 1 and not has_folder:
        raise SpecError(
            "With `--nodes`, all machines have to use the same run folder.",
            "Name one that all of them see with `--out`.",
        )


def start_processes(launch: LaunchSpec) -> bool:
    """Carry this command out in processes of their own, if need be; else return False."""
    if launch.total == 1 and not launch.gpus and not launch.shard:
        return False
    if "RANK" in os.environ:
        raise SpecError(
            "A launcher has started this process already, and `--gpus` and `--processes` would "
            "start more.",
            "Use one of the two.",
        )
    from dimo_cli.distributed.start import Ended, check_devices
    from dimo_cli.distributed.start import launch as start

    if launch.total == 1 and not launch.shard:  # FSDP2 wants a launcher even for one
        check_devices(launch)
        return False
    try:
        start(launch, without_launch_options(sys.argv[1:]))
    except Ended as end:
        raise typer.Exit(end.exit_code) from None
    return True


def in_processes() -> bool:
    """Whether this is one of several processes of a job."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def speaks() -> bool:
    """Whether this is no other than the first process of a job."""
    return os.environ.get("RANK", "0") in ("", "0")


@contextmanager
def agreed_folder(folder: Path) -> Iterator[Path]:
    """Join the processes of a job: they share one run folder, and the first alone speaks."""
    from dimo_cli.distributed.ranks import as_first_says, joined_ranks

    if not speaks():
        out.silence()
    with joined_ranks():
        yield as_first_says(folder)


def without_launch_options(arguments: Sequence[str]) -> list[str]:
    """A command line as each process is to see it."""
    takes_value = {
        name: field.info.annotation is not bool
        for field in fields_of(LaunchSpec)
        for name in field.names
    }
    kept, skip = [], False
    for word in arguments:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name in takes_value:
            skip = takes_value[name] and not equals
        else:
            kept.append(word)
    return kept
