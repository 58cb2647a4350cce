"""Options for several processes, and the way from a command to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.launch import LaunchSpec

PANEL = "Several GPUs"
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", help="GPUs of this machine, a process each.", rich_help_panel=PANEL),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", help="CPU processes instead of GPUs.", rich_help_panel=PANEL),
]
ShardOption = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Spread networks and optimizers over all GPUs (FSDP2).",
        rich_help_panel=PANEL,
    ),
]
NodesOption = Annotated[
    int,
    typer.Option("--nodes", help="Machines, with --gpus GPUs each.", rich_help_panel=PANEL),
]
NodeOption = Annotated[
    int,
    typer.Option(
        "--node",
        envvar="SLURM_NODEID",
        help="Which of the machines this is, from 0.",
        rich_help_panel=PANEL,
    ),
]
MainOption = Annotated[
    str | None,
    typer.Option(
        "--main",
        metavar="HOST:PORT",
        help="Where all reach the first machine.",
        rich_help_panel=PANEL,
    ),
]
VALUES = ("--gpus", "--processes", "--nodes", "--node", "--main")
FLAGS = ("--shard",)


def asked_for(**values: Any) -> LaunchSpec:
    """The processes that a command line asks for."""
    if values.get("nodes", 1) == 1:
        values["node"] = 0  # Slurm numbers its machines also where each has a job of its own
    return spec_from_flags(LaunchSpec, values)


def check_launch(launch: LaunchSpec, spec: DistillSpec, has_folder: bool) -> None:
    """Refuse what would only fail once the processes are there."""
    if launch.total == 1:
        return
    from dimo_cli.engine.sharding import check_shardable
    from dimo_cli.engine.share import divide

    divide(spec.train, 0, launch.total)
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


def carry_out(launch: LaunchSpec) -> bool:
    """Carry this command out in several processes, if that is asked for; else return False."""
    if launch.total == 1 and not launch.gpus:
        return False
    if "RANK" in os.environ:
        raise SpecError(
            "A launcher has started this process already, and `--gpus` and `--processes` would "
            "start more.",
            "Use one of the two.",
        )
    from dimo_cli.distributed.start import Ended, check_devices
    from dimo_cli.distributed.start import launch as start

    if launch.total == 1:
        check_devices(launch)
        return False
    try:
        start(launch, without_launch_options(sys.argv[1:]))
    except Ended as end:
        raise typer.Exit(end.exit_code) from None
    return True


def speaks() -> bool:
    """Whether this is no other than the first process of a job."""
    return os.environ.get("RANK", "0") in ("", "0")


@contextmanager
def agreed_folder(folder: Path) -> Iterator[Path]:
    """Join the processes of a job: they share one run folder, and the first alone speaks."""
    from dimo_cli.console.output import out
    from dimo_cli.distributed.ranks import as_first_says, joined_ranks

    if not speaks():
        out.silence()
    with joined_ranks():
        yield as_first_says(folder)


def without_launch_options(arguments: Sequence[str]) -> list[str]:
    """A command line as each process is to see it."""
    kept, skip = [], False
    for word in arguments:
        name, equals, _ = word.partition("=")
        if skip or name in FLAGS:
            skip = False
        elif name in VALUES:
            skip = not equals
        else:
            kept.append(word)
    return kept
