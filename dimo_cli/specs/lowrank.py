"""One call of `dimo merge` or `dimo extract`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dimo_cli.specs.base import Flag, Int, Spec
from dimo_cli.specs.lora import HIGHEST_RANK, Targets

PLACES = (
    "Run folder (RUN@best, RUN@last, RUN@step-N: a checkpoint of it), student folder, or Hub id"
)
Student = Annotated[
    str,
    Flag(is_argument=True, completion="students"),
    Field(min_length=1, description=PLACES),
]


class MergeSpec(Spec):
    """Adapters added to the weights that they are beside."""

    student: Student


class ExtractSpec(Spec):
    """Adapters in the place of a student's own weights."""

    student: Student
    rank: Int = Field(64, ge=1, le=HIGHEST_RANK, description="Rank of the adapters")
    targets: Targets = Field(
        ("attention", "mlp"),
        description="Which linear maps of the blocks get an adapter: attention, mlp, all, or "
        "regular expressions of whole names",
    )
