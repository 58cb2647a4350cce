"""Settings of `loss` that no objective of a run reads: who sets them is told so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import TITLES, DistillSpec, LossSpec
from dimo_cli.specs.objectives import MASKED

OF_MASKED = ("weight", "reduction", "student_input", "auxiliary_temperature", "entropy_bonus")


def refuse_unread(spec: DistillSpec, origins: Mapping[str, str]) -> None:
    """Refuse such settings of a new run where whoever set them knew its objectives.

    What a preset says is for its own, and so is what a file says where a flag chose others. A whole
    spec, as `run.yaml`, says all that there is.
    """
    said = {
        path.split(".")[1]: origin for path, origin in origins.items() if path.startswith("loss.")
    }
    if said.keys() >= LossSpec.model_fields.keys():
        return
    chosen_by = origins.get("objectives" if spec.kinds else "distill_weight", ", line ")
    for name in unread(spec):
        origin = said.get(name, "preset ")
        is_below = ", line " in origin and ", line " not in chosen_by
        if not origin.startswith("preset ") and not is_below:
            run = f"a run of {', '.join(spec.kinds)}" if spec.kinds else "one without Di[M]O's loss"
            raise SpecError(
                f"`loss.{name}` (from {origin}) is set, and nothing in {run} reads it.",
                "Leave it out, or use an objective that reads it, such as dimo.",
            )


def unread(spec: DistillSpec) -> Iterator[str]:
    """The fields of `loss` that are not as usual and that no objective reads."""
    kinds, usual = set(spec.kinds), LossSpec()
    if not kinds <= TITLES.keys():
        return  # objectives of other packages may read any
    fields = [] if "dimo" in kinds else ["divergence"]
    fields += [] if kinds & set(MASKED) else OF_MASKED
    yield from (name for name in fields if getattr(spec.loss, name) != getattr(usual, name))
