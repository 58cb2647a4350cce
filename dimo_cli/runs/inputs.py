"""What a run reads, looked for before it starts: `--dry-run` refuses what the run would refuse."""

from __future__ import annotations

from dimo_cli.runs.distill import check_measurable_run
from dimo_cli.runs.prompts import check_prompts
from dimo_cli.runs.refine import check_refinable, real_tokens
from dimo_cli.runs.supplies import supplies_of
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.registry import load_skeleton


def check_inputs(spec: DistillSpec) -> list[str]:
    """Refuse a run whose prompts, real images or references are missing; nothing is downloaded.

    What it would download of datasets is said, a line for each.
    """
    data = None
    if isinstance(spec, RefineSpec):
        check_refinable(spec)
        data = real_tokens(spec, load_skeleton(spec.teacher))
    else:
        check_measurable_run(spec)
        supplies_of(spec, load_skeleton(spec.teacher))
    if data is None or not data.dataset.has_captions:
        return check_prompts(load_skeleton(spec.teacher), spec)
    return []
