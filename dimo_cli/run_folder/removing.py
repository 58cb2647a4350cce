"""A run folder deleted, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from dimo_cli.errors import SpecError
from dimo_cli.files.locking import LOCK, locked, refuse_if_locked
from dimo_cli.run_folder.listing import OTHER_MARKS, RUN_SPEC, check_run, is_run


def check_removable(run: Path) -> None:
    """Refuse to delete what is no run folder, is in use, or holds more than one run."""
    check_run(run)
    if run.is_symlink():
        raise SpecError(
            f"`{run}` is a link.", f"Name the folder that it leads to: `{run.resolve()}`."
        )
    if Path.cwd().is_relative_to(run.resolve()):
        raise SpecError(f"`{run}` is the folder that you are in.", "Go up first, with `cd ..`.")
    for inner in run.rglob(RUN_SPEC):
        if inner.parent != run and is_run(inner.parent):
            raise SpecError(
                f"`{run}` has another run in it: `{inner.parent}`.",
                "Move that out, or remove it first.",
            )
    refuse_if_locked(run)


def remove_run(run: Path) -> None:
    """Delete a run folder while no other process can start in it.

    What marks it as a run goes last: one that was deleted by half can be deleted again.
    """
    check_removable(run)
    with locked(run):
        last = {run / name for name in (RUN_SPEC, *OTHER_MARKS)}
        # The lock goes when it is let go: without it another run could start in what is left.
        inside = [path for path in run.iterdir() if path.name != LOCK]
        for path in sorted(inside, key=lambda path: (path in last, path.name == RUN_SPEC)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    run.rmdir()
