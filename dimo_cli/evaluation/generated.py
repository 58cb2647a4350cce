"""Images that a network draws while they are measured: nothing of them is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dimo_cli.data.arrays import Batch, Images
from dimo_cli.sampling.samplers import build_sampler, compile_where_it_pays, condition, to_bytes
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target


class GeneratedImages(Images):
    """One image for each class or prompt; each batch has a seed of its own.

    So the images do not depend on how many processes share the work.
    """

    def __init__(
        self, target: Target, spec: SamplerSpec, wanted: Sequence[int] | Sequence[str]
    ) -> None:
        self.target, self.spec, self.wanted = target, spec, wanted
        self.sampler, self.protocol = build_sampler(target, spec)
        compile_where_it_pays(target, len(wanted))
        if target.teacher.takes_prompts:
            self.prompts = tuple(str(prompt) for prompt in wanted)

    def __len__(self) -> int:
        return len(self.wanted)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches of at most `size` images, which `start` has to be a multiple of."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, size):
            part = self.wanted[first : min(first + size, stop)]
            generator = torch.Generator(self.target.device).manual_seed(self.spec.seed + first)
            cond = condition(self.target.teacher, part).to(self.target.device)
            images = to_bytes(self.sampler(cond, generator))
            yield Batch(images, first, self.prompts[first : first + len(part)])
