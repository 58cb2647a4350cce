"""What a run's objectives learn from beside its networks: real images, and pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dimo_cli.data.shards import TokenDataset, builtin_dataset
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.engine.pairs import PairStore
from dimo_cli.hub.access import dimo_cache
from dimo_cli.sampling.samplers import condition
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.protocol import Cond, Teacher


class LabeledTokens:
    """A dataset of tokens with labels or captions, as the engine draws from it."""

    def __init__(self, dataset: TokenDataset, teacher: Teacher) -> None:
        self.dataset, self.teacher = dataset, teacher

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Cond]:
        tokens, wanted = self.dataset.draw(count, generator, rows)
        wanted = wanted.tolist() if isinstance(wanted, Tensor) else wanted
        return tokens.to(generator.device), condition(self.teacher, wanted).to(generator.device)


def images_of(folder: str | None, teacher: Teacher, setting: str) -> LabeledTokens:
    """The real images of a folder, or those that ship with a teacher."""
    if folder is None:
        return LabeledTokens(builtin_dataset(teacher.name, setting), teacher)
    return LabeledTokens(TokenDataset.open(Path(folder), teacher), teacher)


def supplies_of(
    spec: DistillSpec, teacher: Teacher, say: Callable[[str], None] = lambda line: None
) -> Supplies:
    """What the objectives of a spec say that they need; nothing is drawn yet."""
    needs = [objective.needs for objective in named_objectives(spec)]
    has_data = any(need.images == "data" for need in needs)
    data = images_of(spec.data, teacher, "data") if has_data else None
    return Supplies(data, pair_store(spec, teacher, say))


def pair_store(
    spec: DistillSpec, teacher: Teacher, say: Callable[[str], None] = lambda line: None
) -> PairStore:
    """The pairs that are kept on this machine."""
    return PairStore(teacher, spec, dimo_cache() / "pairs", say)


def distilling(
    spec: DistillSpec, teacher: Teacher, say: Callable[[str], None] = lambda line: None
) -> Callable[..., Distillation]:
    """What makes a distillation of a spec, with all that its objectives need."""
    return partial(Distillation, supplies=supplies_of(spec, teacher, say))
