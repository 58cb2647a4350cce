"""Pickles of feature statistics, read without running what is in them.

A pickle is a program: loading a foreign one can do anything. This reader allows containers, numbers
and numpy arrays, and refuses every other name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from dimo_cli.errors import SpecError

# What pickled arrays and numbers are put together from, in numpy 1 and in numpy 2.
ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        *(
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (
                ("multiarray", "_reconstruct"),
                ("multiarray", "scalar"),
                ("numeric", "_frombuffer"),
            )
        ),
    }
)


class StatisticsUnpickler(pickle.Unpickler):
    """Refuses every name but those of arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for `{module}.{name}`")
        return super().find_class(module, name)


def read_statistics_pickle(path: Path) -> dict[str, Any]:
    """The dictionary of a pickle of arrays."""
    try:
        with path.open("rb") as file:
            content = StatisticsUnpickler(file).load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise SpecError(
            f"`{path}` is no pickle of feature statistics: {reason}.",
            "Only dictionaries of numpy arrays are read; convert it to an npz with `mu` and "
            "`sigma`.",
        ) from error
    if not isinstance(content, dict):
        raise SpecError(f"`{path}` holds {type(content).__name__}, not a dictionary of statistics.")
    return content
