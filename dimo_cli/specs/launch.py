"""How many processes carry a command out, and where."""

from __future__ import annotations

from pydantic import Field, model_validator

from dimo_cli.specs.base import Int, Spec


class LaunchSpec(Spec):
    """The processes of one job; without --gpus and --processes it is this one alone."""

    gpus: Int | None = Field(None, ge=1, le=1024, description="GPUs of each machine")
    processes: Int | None = Field(None, ge=1, le=1024, description="CPU processes of each machine")
    nodes: Int = Field(1, ge=1, le=4096, description="Machines")
    node: Int = Field(0, ge=0, description="Which of the machines this is")
    main: str | None = Field(
        None, pattern=r"^[\w.-]+:[0-9]{1,5}$", description="HOST:PORT of the first machine"
    )
    shard: bool = Field(False, description="Spread networks and optimizers over all processes")

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
        if self.shard and self.total == 1:
            raise ValueError("`--shard` needs several processes: give `--gpus`")
        return self

    @model_validator(mode="after")
    def _machines(self) -> LaunchSpec:
        if self.nodes > 1 and not (self.gpus or self.processes):
            raise ValueError("`--nodes` needs `--gpus`, the GPUs of each machine")
        if self.nodes > 1 and self.main is None:
            raise ValueError(
                "`--nodes` needs `--main HOST:PORT`, where the first machine can be reached by all"
            )
        if self.node >= self.nodes:
            raise ValueError(f"`--node` is {self.node}, but {self.nodes} machines count from 0")
        return self
