"""How many processes carry a command out, and where."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec

PANEL = "Several GPUs"


class LaunchSpec(Spec):
    """The processes of one job; without --gpus and --processes it is this one alone."""

    gpus: Annotated[Int | None, Flag(panel=PANEL)] = Field(
        None, ge=1, le=1024, description="GPUs of each machine, a process each"
    )
    shard: Annotated[bool, Flag(panel=PANEL)] = Field(
        False, description="Spread networks and optimizers over all GPUs (FSDP2)"
    )
    processes: Annotated[Int | None, Flag(panel=PANEL)] = Field(
        None, ge=1, le=1024, description="CPU processes of each machine, instead of GPUs"
    )
    nodes: Annotated[Int, Flag(panel=PANEL)] = Field(
        1, ge=1, le=4096, description="Machines, with --gpus GPUs each"
    )
    node: Annotated[Int, Flag(panel=PANEL, variable="SLURM_NODEID")] = Field(
        0, ge=0, description="Which of the machines this is, from 0"
    )
    main: Annotated[str | None, Flag(panel=PANEL, metavar="HOST:PORT")] = Field(
        None,
        pattern=r"^[\w.-]+:[0-9]{1,5}$",
        description="Where all reach the first machine, as HOST:PORT",
    )
    grace: Annotated[Real, Flag(panel=PANEL, metavar="SECONDS")] = Field(
        10.0,
        ge=0,
        le=86_400,
        description="Seconds after Ctrl-C or SIGTERM until processes that hang are killed",
    )

    @property
    def on_each(self) -> int:
        """Processes of one machine."""
        return self.gpus or self.processes or 1

    @property
    def total(self) -> int:
        """Processes of all machines."""
        return self.on_each * self.nodes

    @model_validator(mode="after")
    def _one_kind(self) -> LaunchSpec:
        if self.gpus and self.processes:
            raise ValueError("`--gpus` and `--processes` exclude each other: the latter is on CPUs")
        if self.shard and not (self.gpus or self.processes):
            raise ValueError("`--shard` needs `--gpus`, over which it spreads what is trained")
        if "grace" in self.model_fields_set and not (self.gpus or self.processes):
            raise ValueError("`--grace` needs `--gpus` or `--processes`, which it waits for")
        return self

    @model_validator(mode="after")
    def _machines(self) -> LaunchSpec:
        if self.nodes > 1 and not (self.gpus or self.processes):
            raise ValueError("`--nodes` needs `--gpus`, the GPUs of each machine")
        if self.nodes > 1 and self.main is None:
            raise ValueError(
                "`--nodes` needs `--main HOST:PORT`, where the first machine can be reached by all"
            )
        if self.main is not None and self.nodes == 1:
            raise ValueError("`--main` needs `--nodes`, the machines that are to reach it")
        if self.main is not None and not 1 <= int(self.main.rpartition(":")[2]) <= 65_535:
            raise ValueError(f"`--main` is {self.main}, but ports go from 1 to 65535")
        if self.node >= self.nodes:
            raise ValueError(
                f"`--node` is {self.node}, but machines count from 0, and there "
                f"{'is' if self.nodes == 1 else 'are'} {self.nodes}: see `--nodes`"
            )
        return self
