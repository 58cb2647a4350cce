"""What `dimo runs` lists, shows and removes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dimo_cli.specs.base import Flag, Spec


class ListSpec(Spec):
    """One call of `dimo runs list`."""

    folder: Annotated[str, Flag(is_argument=True)] = Field(
        "runs", min_length=1, description="Folder that runs are looked for in, at any depth"
    )


class RemoveSpec(Spec):
    """One call of `dimo runs rm`."""

    runs: Annotated[tuple[str, ...], Flag(is_argument=True, completion="students")] = Field(
        ..., min_length=1, description="Folders of runs, which are deleted with all they hold"
    )
    yes: Annotated[bool, Flag(names=("--yes", "-y"))] = Field(
        False, description="Delete without asking"
    )
