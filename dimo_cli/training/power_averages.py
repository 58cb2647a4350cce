"""Two power-function averages beside the usual one, and their snapshots in the run folder."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from dimo_cli.distributed.ranks import is_first
from dimo_cli.engine.lora import own_copy, trained_part
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.power_ema import exponent_of, power_decay
from dimo_cli.files.writing import whole_file
from dimo_cli.run_folder.snapshots import PARTS, list_snapshots, snapshot_path, snapshot_steps
from dimo_cli.specs.averaging import EmaSpec
from dimo_cli.teachers.protocol import Backbone


class PowerAverages:
    """Two averages of a network, where a run keeps them; else none, and nothing is done."""

    def __init__(self, spec: EmaSpec, network: Backbone, run: Path) -> None:
        self.every, self.lengths, self.run = spec.post_hoc.every, spec.post_hoc.lengths, run
        home = "cpu" if spec.offload else None
        self.averages: list[Ema] = []
        if self.every is not None:
            self.averages = [Ema(own_copy(network), network, home) for _ in PARTS]

    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps of them."""
        pairs = zip(PARTS, self.averages, strict=False)
        return {f"{part}_average": trained_part(ema.network) for part, ema in pairs}

    def update(self, step: int) -> None:
        """Take in the weights after a step, the first of which is 1; also after a skipped one."""
        for length, ema in zip(self.lengths, self.averages, strict=False):
            ema.update(power_decay(exponent_of(length), step))

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether it is time for a snapshot."""
        return self.every is not None and (step % self.every == 0 or is_last)

    def keep(self, step: int, is_last: bool) -> None:
        """Write a snapshot where one is due.

        In float32: what half precision rounds off would come back many times over, as other
        lengths are sums with large terms of either sign.
        """
        if not (self.is_due(step, is_last) and is_first()):
            return
        tensors = {
            f"{part}/{name}": weight.detach().float().cpu().contiguous()
            for part, ema in zip(PARTS, self.averages, strict=True)
            for name, weight in moving(ema)
        }
        path = snapshot_path(self.run, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            save_file(tensors, temporary)
        list_snapshots(self.run, self.lengths, path)

    def forget_after(self, step: int) -> None:
        """Delete the snapshots of steps that are trained again; for the first rank alone."""
        later = [known for known in snapshot_steps(self.run) if known > step]
        if self.every is None or not later:
            return
        for known in later:
            snapshot_path(self.run, known).unlink()
        list_snapshots(self.run, self.lengths)


def moving(ema: Ema) -> list[tuple[str, nn.Parameter]]:
    """The averaged weights that are trained; the others stay the teacher's."""
    trained = {name for name, weight in ema.source.named_parameters() if weight.requires_grad}
    return [(name, mean) for name, mean in ema.network.named_parameters() if name in trained]
