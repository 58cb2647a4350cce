"""Pickles of feature statistics, read without running what is in them.

A pickle is a program: loading a foreign one can do anything. This reader allows containers, numbers
and numpy arrays, and refuses every other name. No numpy object is built by the pickle itself: what
it says of an array is written down, looked at, and only then made an array of its own bytes. Before
that the program is looked at: what could fill memory or never end, though it names nothing, is
refused as well.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dimo_cli.errors import DimoError, SpecError
from dimo_cli.files.reading import MOST_STATISTICS, read_bytes

DTYPE = re.compile(r"[fiu][1248]")
ORDERS = {"<": "<", ">": ">", "|": "<", "=": "<"}


class PickledDtype:
    """What a pickle says of an array's numbers, as text that nobody has looked at yet."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ORDERS):
            raise pickle.UnpicklingError("it describes numbers of no plain kind")
        self.order = ORDERS[state[1]]

    def dtype(self) -> np.dtype[Any]:
        """The dtype, if it is of integers or floats."""
        if not (isinstance(self.code, str) and DTYPE.fullmatch(self.code)):
            raise pickle.UnpicklingError(f"it holds numbers of the kind {str(self.code)[:20]!r}")
        return np.dtype(self.order + self.code)


class PickledArray:
    """What a pickle says of an array. Nothing of numpy runs before all of it is known to fit."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = None
        self.kind: Any = None
        self.content: Any = None
        self.columns_first = False

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("it describes an array in no known way")
        _, self.shape, self.kind, self.columns_first, self.content = state

    def array(self) -> NDArray[Any]:
        """The array, if its bytes are as many as its shape and kind say."""
        is_known = isinstance(self.kind, PickledDtype) and isinstance(
            self.content, bytes | bytearray
        )
        if not is_known:
            raise pickle.UnpicklingError("it describes an array in no known way")
        dtype, shape = self.kind.dtype(), self.shape
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not sizes or math.prod(shape) * dtype.itemsize != len(self.content):
            raise pickle.UnpicklingError(
                f"an array of shape {str(shape)[:60]} does not have {len(self.content):,} bytes"
            )
        order: Literal["F", "C"] = "F" if self.columns_first is True else "C"
        return np.frombuffer(bytearray(self.content), dtype).reshape(shape, order=order)


def pickled_scalar(kind: Any, content: Any) -> PickledArray:
    """A single number is an array without dimensions."""
    found = PickledArray()
    found.shape, found.kind, found.content = (), kind, content
    return found


def pickled_buffer(content: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    """An array as protocol 5 writes it."""
    found = PickledArray()
    found.shape, found.kind, found.content = shape, kind, content
    found.columns_first = order == "F"
    return found


def encoded(text: Any, codec: Any = None) -> bytes:
    """Bytes as protocol 2 writes them: text of one code."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes text in a way no array needs")
    return text.encode("latin1")


# What pickled arrays and numbers are put together from, in numpy 1 and in numpy 2, and what stands
# here in its place: numpy's own code trusts what it is given with its memory.
STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDtype,
    ("_codecs", "encode"): encoded,
}
for core in ("core", "_core"):
    STAND_INS[f"numpy.{core}.multiarray", "_reconstruct"] = PickledArray
    STAND_INS[f"numpy.{core}.multiarray", "scalar"] = pickled_scalar
    STAND_INS[f"numpy.{core}.numeric", "_frombuffer"] = pickled_buffer


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
MOST_DEPTH = 8


class StatisticsUnpickler(pickle.Unpickler):
    """Gives stand-ins for the names of arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for `{module}.{name}`")
        return STAND_INS[module, name]


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
        data = read_bytes(path, MOST_STATISTICS)
        check_program(data)
        content = with_arrays(StatisticsUnpickler(io.BytesIO(data)).load())
    except DimoError:
        raise
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


def with_arrays(content: Any, done: dict[int, Any] | None = None, depth: int = 0) -> Any:
    """The same containers with arrays and numbers where stand-ins were, each made once."""
    done = {} if done is None else done
    if id(content) in done:
        return done[id(content)]
    if depth > MOST_DEPTH:
        raise pickle.UnpicklingError("its containers hold each other without end")
    found = content
    if isinstance(content, PickledArray):
        array = content.array()
        found = array if array.ndim else array.item()
    elif isinstance(content, dict):
        found = {key: with_arrays(value, done, depth + 1) for key, value in content.items()}
    elif isinstance(content, (list, tuple)):
        found = type(content)(with_arrays(item, done, depth + 1) for item in content)
    done[id(content)] = found
    return found
