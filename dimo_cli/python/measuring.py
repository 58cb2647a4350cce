"""`evaluate`: the numbers of `dimo eval`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from dimo_cli.console.live import View
from dimo_cli.evaluation.evaluate import evaluate as measure
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.hub.store import HubStore
from dimo_cli.python.options import EvalOptions, check_known
from dimo_cli.python.process import left_as_it_was
from dimo_cli.python.settings import as_texts, asked_for, named, named_folder
from dimo_cli.python.watching import Progress, view_of
from dimo_cli.specs.evaluate import EvalSpec


@left_as_it_was()
def evaluate(
    target: str | os.PathLike[str],
    metrics: str | Sequence[str] = (),
    *,
    use_cache: bool = True,
    local_dir: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    **options: Unpack[EvalOptions],
) -> Evaluation:
    """Measure a student, a teacher or a folder of images, as `dimo eval` does.

    `target` is a `Run`, a run folder (or `RUN@best`), a student folder, a Hub id, a built-in
    student, a preset with `teacher=True`, or images on disk. `metrics` are names such as "fid";
    none stands for all that suit the target.

    `result["fid"]` is a number, `result.values` has all of them by their full names, and
    `result.results` has each with its protocol. What was measured before is not measured again,
    unless `use_cache` is false. `local_dir` has published files; nothing is downloaded. `progress`
    is as for `distill`.
    """
    check_known(options, EvalOptions)
    names = [name.replace("-", "_") for name in as_texts("metrics", metrics)]
    own: dict[str, Any] = {"target": named(target, "target"), "metrics": names}
    fields = EvalSpec.model_fields
    own |= {name: value for name, value in options.items() if name in fields}
    sampler = {name: value for name, value in options.items() if name not in fields}
    spec = asked_for(EvalSpec, own, sampler)
    view = view_of(progress, f"dimo: measure {spec.target}")
    place = named_folder(local_dir, "local_dir")
    store = HubStore(Path(place) if place else None, say=view.note)
    try:
        return measure(spec, store, view.note, Counting(view), use_cache)
    finally:
        view.stop()


class Counting:
    """Tells a view how many images are measured; of how many, is known with the first."""

    def __init__(self, view: View) -> None:
        self.view, self.before = view, 0
        self.advance: Callable[[int], None] | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.advance is None or done <= self.before:  # another pass has begun
            self.advance, self.before = self.view.stage("measure", total), 0
        self.advance(done - self.before)
        self.before = done
