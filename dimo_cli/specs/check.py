"""What is read again by `dimo check`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dimo_cli.specs.base import Flag, Spec


class CheckSpec(Spec):
    """One call of `dimo check`."""

    path: Annotated[str, Flag(is_argument=True, completion="students")] = Field(
        ...,
        min_length=1,
        description="Folder of a run (RUN@best, RUN@last, RUN@step-N: of one checkpoint), of a "
        "student, of encoded images, or a cache of weights",
    )
