"""`sample`: images in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

from PIL import Image

from dimo_cli.python.options import SamplerOptions, check_known
from dimo_cli.python.process import left_as_it_was
from dimo_cli.python.settings import as_texts, asked_for, named, named_folder
from dimo_cli.python.watching import Progress, view_of
from dimo_cli.sampling.interpolating import start_from_file
from dimo_cli.sampling.left_out import tell_left_out
from dimo_cli.sampling.samplers import chosen_conditions, sample_images
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.students.defaults import default_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.students.target import load_target

# Of whoever calls: between them are `sample`, its decorator, and what tells.
warn = partial(warnings.warn, stacklevel=4)


@left_as_it_was()
def sample(
    student: str | os.PathLike[str] | None = None,
    *,
    prompts: str | Sequence[str] = (),
    classes: int | str | Sequence[int | str] = (),
    count: int | None = None,
    init: str | os.PathLike[str] | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    **sampler: Unpack[SamplerOptions],
) -> list[Image.Image]:
    """Draw images as `dimo sample` does: the same seed gives the same pixels.

    `student` is a `Run`, a run folder (or `RUN@best`), a student folder or a Hub id; without one, a
    built-in student draws: `emoji` or `shapes` for prompts and `digits` for classes. With
    `teacher=True` its teacher draws, or that of a preset.

    A `UserWarning` names words of a prompt that the images do without.

    Prompts, or classes by number, WordNet id or name, are taken in turn for `count` images: as many
    as there are of them, or 16 where none is named. The tokens of the image `init` take the place
    of the random ones. `local_dir` has the published files of the teacher; nothing is downloaded.
    `progress` is as for `distill`.
    """
    check_known(sampler, SamplerOptions)
    own: dict[str, Any] = {
        "prompts": as_texts("prompts", prompts),
        "classes": as_texts("classes", classes),
        "init": init,
        "count": count,
    }
    if count is None and (named_ones := own["prompts"] or own["classes"]):
        own["count"] = len(named_ones)
    spec = asked_for(SampleSpec, own, sampler)
    name = named(student, "student") or default_student(spec.prompts)
    view = view_of(progress, "dimo: sample")
    try:
        options = LoadOptions(spec.sampler.teacher, named_folder(local_dir, "local_dir"), view.note)
        target = load_target(name, options, spec.sampler.teacher, bool(spec.prompts))
        if spec.init:
            target, _ = start_from_file(target, spec.init)
        wanted = chosen_conditions(target.teacher, spec)
        tell_left_out(target.teacher, spec.prompts, warn)
        advance = view.stage("sample", len(wanted))
        pixels, _ = sample_images(target, wanted, spec.sampler, advance)
    finally:
        view.stop()
    return [Image.fromarray(one) for one in pixels]
