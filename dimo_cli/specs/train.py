"""The loop of a training: how long, how much at a time, on what, and what to do if it diverges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dimo_cli.specs.base import AutoBool, Int, Real, Spec, or_auto


class TrainSpec(Spec):
    """The loop: how long, how many at a time, on what."""

    steps: Int = Field(1000, ge=1, le=10_000_000, description="Student updates")
    batch_size: Int = Field(64, ge=1, le=1_000_000, description="Samples per pass")
    accumulate: Int = Field(
        1,
        ge=1,
        le=10_000,
        description="Passes whose gradients are summed; several processes share their samples",
    )
    seed: Int = Field(0, ge=0, lt=2**31, description="Fixes every random draw of the run")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to run")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Autocast of the forwards; auto: bf16 on CUDA, fp32 elsewhere"
    )
    tf32: bool = Field(
        True, description="On CUDA, multiply what is left in fp32 with TF32: faster, to 3 digits"
    )
    compile: AutoBool = Field(
        "auto",
        description="torch.compile the networks block by block: faster steps after a first one of "
        "up to a minute; auto: on CUDA",
    )
    cudnn_attention: bool = Field(
        False,
        description="On CUDA, let torch choose cuDNN's fused attention, whose backward fails on "
        "Hopper cards for some networks; otherwise flash, memory-efficient or plain attention",
    )
    capture: AutoBool = Field(
        "auto",
        description="On CUDA, record a step once and replay it, so that the card does not wait for "
        "Python; auto: where a step allows it, up to 20 million weights; with more, where the card "
        "is found waiting and replays are faster. A recording holds as much memory as a step",
    )
    dropout: bool = Field(
        False,
        description="Keep the dropout that the teacher was trained with active in teacher, student "
        "and auxiliary",
    )
    micro_batch: Annotated[
        Literal["auto"] | Annotated[Int, Field(ge=1, le=1_000_000)],
        or_auto("auto or a whole number from 1 to 1,000,000"),
    ] = Field(
        "auto",
        description="Samples in memory at a time; auto: as many as fit on CUDA, `batch_size` on a "
        "CPU. It changes memory and time, not what is computed",
    )
    gradient_checkpointing: AutoBool = Field(
        "auto",
        description="Recompute activations in the backward pass: less memory, more time; auto: on "
        "CUDA, where not even one sample fits without",
    )
    log_every: Int = Field(10, ge=1, description="Steps between two lines of log.jsonl")
    checkpoint_every: Int = Field(100, ge=1, description="Steps between two checkpoints")
    keep_checkpoints: Int = Field(2, ge=1, description="Newest checkpoints kept beside the best")

    @property
    def recomputes(self) -> bool:
        """Whether activations are recomputed; what is left open is no."""
        return self.gradient_checkpointing is True

    @property
    def pass_size(self) -> int:
        """Samples of a pass at most; what is left open is `batch_size`."""
        return self.batch_size if self.micro_batch == "auto" else self.micro_batch

    def compiles(self, on_cuda: bool, sharded: bool = False) -> bool:
        """Whether blocks are compiled; those that are gathered from several ranks are not."""
        return on_cuda and not sharded if self.compile == "auto" else self.compile

    def is_half(self, on_cuda: bool) -> bool:
        """Whether forwards run in bf16."""
        return self.precision == "bf16" or (self.precision == "auto" and on_cuda)


class RecoverySpec(Spec):
    """What happens when a loss or a gradient is not finite."""

    max_skipped: Int = Field(10, ge=1, description="Skipped steps in a row before a rollback")
    max_rollbacks: Int = Field(3, ge=0, description="Rollbacks before the run gives up (exit 4)")
    learning_rate_factor: Real = Field(
        0.5, gt=0, le=1, description="Factor on both learning rates at each rollback"
    )
