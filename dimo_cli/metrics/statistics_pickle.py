"""Pickles of feature statistics, read without running what is in them.

A pickle is a program: loading a foreign one can do anything. This reader allows containers, numbers
and numpy arrays, and refuses every other name. Before that it looks at the program: what could fill
memory or never end, though it names nothing, is refused as well.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

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


# All that containers, text, numbers and arrays are pickled with, in any protocol.
OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE
    BUILD NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE
    SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND
    APPENDS EMPTY_DICT SETITEM SETITEMS
    DICT LIST UNICODE PUT GET INT LONG FLOAT BYTEARRAY8 NEWOBJ
    """.split()  # noqa: SIM905 - a list of forty strings says no more
)
FILLED_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
MOST_OPCODES = 100_000


class StatisticsUnpickler(pickle.Unpickler):
    """Refuses every name but those of arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for `{module}.{name}`")
        return super().find_class(module, name)


def check_program(data: bytes) -> None:
    """Refuse what no pickle of arrays does: other opcodes, far places, tuples of tuples of tuples.

    A tuple that is used twice could hold itself twice, and so on: a few bytes then take ages.
    """
    filled: set[int] = set()
    places, before = 0, ""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in OPCODES or number >= MOST_OPCODES:
            raise pickle.UnpicklingError(f"it does what no pickle of arrays does ({name})")
        if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            place = places if name == "MEMOIZE" else int(argument or 0)
            if place > number:
                raise pickle.UnpicklingError(f"it remembers something at the place {place:,}")
            (filled.add if before in FILLED_TUPLES else filled.discard)(place)
            places += 1
        if name in ("GET", "BINGET", "LONG_BINGET") and argument in filled:
            raise pickle.UnpicklingError("it uses a tuple twice")
        before = name


def read_statistics_pickle(path: Path) -> dict[str, Any]:
    """The dictionary of a pickle of arrays."""
    try:
        data = path.read_bytes()
        check_program(data)
        content = StatisticsUnpickler(io.BytesIO(data)).load()
        refuse_empty_promises(content, len(data))
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


def refuse_empty_promises(content: Any, size: int) -> None:
    """Refuse arrays that are larger than the file they come from."""
    waiting, seen = [content], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray) and item.nbytes > size:
            raise pickle.UnpicklingError(f"an array claims {item.nbytes:,} bytes of {size:,}")
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
