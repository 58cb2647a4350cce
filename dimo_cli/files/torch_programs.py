"""What a pickle of torch would do, found out without doing it.

A pickle is a program. Even when nothing but tensors may come of it, a kilobyte can ask for
gigabytes: as a container of a given length, as a tensor larger than its storage, as one storage
many times over. Here the program runs on stand-ins: containers, text and numbers are made, tensors
are only measured, and all that no state dict needs is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import prod
from typing import IO, Any

from dimo_cli.files.untrusted import MIB, Untrusted

MOST_STEPS = 2_000_000  # of a program; a tensor takes thirty
PROTOCOLS = (2, 3)
MOST_DEPTH = 32  # of containers in containers
MOST_DIMENSIONS = 64
MOST_KEY, MOST_COUNT = 2**31, 2**63
# Tied weights are one storage used twice; nothing is used more often than this.
MOST_SHARED = 4

KINDS_OF = ("torch", "torch.storage", "torch.cuda")
STORAGE_BYTES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
DTYPE_BYTES = {
    **dict.fromkeys(("uint8", "int8", "bool", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "complex32"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}


@dataclass(frozen=True, slots=True)
class Name:
    """Something that a pickle calls or mentions by its name."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """So many numbers of so many bytes."""

    numbers: int
    width: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of so many bytes."""

    size: int


class Ordered(dict[Any, Any]):
    """What will be an OrderedDict or a Counter: only these take a state."""


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that can be a size."""
    return type(value) is int and 0 <= value < MOST_COUNT


def check_key(key: Any) -> None:
    """Refuse a key that could take long to look up, as a tuple of tuples of tuples does."""
    is_small = type(key) is int and abs(key) < MOST_KEY
    if not (is_small or isinstance(key, str) or key is None or type(key) is bool):
        raise Untrusted("one of its keys is neither text nor a number")


@dataclass
class Program:
    """A machine that takes the steps of the pickles of one file, and adds up what they claim."""

    most_bytes: int
    """How much data there can be: the size of the file."""
    storages: dict[Hashable, Storage] = field(default_factory=dict)
    copied: int = 0
    """Items of containers that were made of other containers."""
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, file: IO[bytes] | bytes) -> Any:
        """What one pickle would make, with stand-ins for tensors; the file is left behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if opcode.name == "STOP":
                    break
                step = STEPS.get(opcode.name)
                if step is None or number >= MOST_STEPS:
                    raise Untrusted(f"it does what no state dict needs ({opcode.name})")
                step(self, argument)
            content = self.stack.pop()
        except Untrusted:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise Untrusted("it is damaged") from error
        self.check_total(bytes_of(content, 0, set()))
        return content

    def check_total(self, used: int) -> None:
        """Refuse more data than the file has, and data that is used again and again."""
        stored = sum(storage.numbers * storage.width for storage in self.storages.values())
        if stored > self.most_bytes:
            raise Untrusted(f"it claims {stored:,} bytes of numbers and has {self.most_bytes:,}")
        if used > MOST_SHARED * stored + MIB:
            raise Untrusted(f"it claims {used:,} bytes of tensors and has {stored:,}")

    def begin(self, protocol: int) -> None:
        """Refuse a protocol of which torch knows nothing."""
        if protocol not in PROTOCOLS:
            raise Untrusted(f"it is a pickle of protocol {protocol}")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def remember(self, place: int) -> None:
        """Keep the last value at a place."""
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        """Put what is kept at a place on the stack again."""
        self.stack.append(self.memo[place])

    def mark(self) -> None:
        """Begin the items of a container."""
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """The items of a container, with which it ends."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def make_tuple(self, length: int) -> None:
        """Make a tuple of the last values."""
        if len(self.stack) < length:
            raise Untrusted("it is damaged")
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.stack.append(items)

    def add_items(self, items: list[Any]) -> None:
        """Add to the list below."""
        if type(self.stack[-1]) is not list:
            raise Untrusted("it is damaged")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values to the dictionary below."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Untrusted("it is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            target[key] = value

    def name(self, argument: str) -> None:
        """Put a name on the stack that state dicts need, and no other."""
        module, _, name = argument.partition(" ")
        module = {"__builtin__": "builtins"}.get(module, module)
        known = Name(module, name)
        is_kind = module in KINDS_OF and (name in STORAGE_BYTES or name in DTYPE_BYTES)
        if not is_kind and known not in CALLS:
            raise Untrusted(
                f"it holds objects other than tensors (`{module[:40]}.{name[:40]}`), which dimo "
                "never loads"
            )
        self.stack.append(known)

    def call(self) -> None:
        """Replace a name and its arguments by what they make."""
        arguments = self.stack.pop()
        called = self.stack.pop()
        make = CALLS.get(called) if isinstance(called, Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise Untrusted("it calls what is no function")
        self.stack.append(make(self, *arguments))

    def set_state(self) -> None:
        """Give a state dict its versions, which torch leaves beside the tensors."""
        state = self.stack.pop()
        is_known = isinstance(state, dict) and set(state) <= {"_metadata"}
        if not (is_known and isinstance(self.stack[-1], Ordered)):
            raise Untrusted("it changes an object in a way no state dict needs")

    def open_storage(self) -> None:
        """Replace what tells a storage apart by a stand-in that knows its size."""
        told = self.stack.pop()
        if not (isinstance(told, tuple) and len(told) in (5, 6) and told[0] == "storage"):
            raise Untrusted("it refers to data in no known way")
        _, kind, key, _, numbers, *view = told
        check_key(key)
        if not is_count(numbers):
            raise Untrusted("it claims data of no possible size")
        storage = Storage(numbers, STORAGE_BYTES[kind.name])
        if self.storages.setdefault(key, storage) != storage:
            raise Untrusted("it claims one storage of two sizes")
        if view and view[0] is not None:
            _, start, length = view[0]
            if not (is_count(start) and is_count(length) and start + length <= numbers):
                raise Untrusted("it claims a part that its storage does not have")
            storage = Storage(length, storage.width)
        self.stack.append(storage)

    def make_tensor(
        self,
        storage: Any,
        start: Any,
        shape: Any,
        strides: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> Tensor:
        """A stand-in for a tensor that lies within its storage."""
        if not isinstance(storage, Storage) or hooks or metadata:
            raise Untrusted("it holds tensors of no plain kind")
        are_counts = all(map(is_count, [*shape, *strides, start]))
        if not are_counts or not len(shape) == len(strides) <= MOST_DIMENSIONS:
            raise Untrusted("it holds a tensor of no possible shape")
        count = prod(shape)
        last = start + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if count > storage.numbers or (count and last >= storage.numbers):
            raise Untrusted(f"a tensor claims more numbers than the {storage.numbers:,} it has")
        return Tensor(count * storage.width)

    def make_untyped_tensor(
        self,
        storage: Any,
        start: Any,
        shape: Any,
        strides: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> Tensor:
        """A stand-in for a tensor of a kind that has no storages of its own."""
        width = DTYPE_BYTES[dtype.name]
        typed = Storage(storage.numbers * storage.width // width, width)
        return self.make_tensor(typed, start, shape, strides, requires_grad, hooks, metadata)

    def make_parameter(self, tensor: Any, *_: Any) -> Tensor:
        """A stand-in for a parameter."""
        if not isinstance(tensor, Tensor):
            raise Untrusted("it holds tensors of no plain kind")
        return tensor

    def copy(self, items: Any) -> list[Any]:
        """The items of a container; a long one that is copied again and again is refused."""
        self.copied += len(items)
        if self.copied > MOST_STEPS:
            raise Untrusted("it copies a container again and again")
        return list(items)

    def make_ordered(self, items: Any = ()) -> Ordered:
        """A dictionary of pairs, as old versions wrote them, or of none."""
        pairs = self.copy(items.items() if isinstance(items, dict) else items)
        for key, _ in pairs:
            check_key(key)
        return Ordered(pairs)

    def make_set(self, items: Any = ()) -> list[Any]:
        """The items of a set."""
        for item in items:
            check_key(item)
        return self.copy(items)

    def make_size(self, sides: Any) -> tuple[Any, ...]:
        """The shape of a tensor."""
        return tuple(self.copy(sides))

    def make_device(self, *_: Any) -> None:
        """A device, which is only mentioned."""


def bytes_of(content: Any, depth: int, done: set[int]) -> int:
    """How much the tensors in containers take; containers that hold each other are refused."""
    if isinstance(content, Tensor):
        return content.size
    if not isinstance(content, (list, tuple, dict)) or id(content) in done:
        return 0
    if depth > MOST_DEPTH:
        raise Untrusted("its containers hold each other without end")
    items = content.values() if isinstance(content, dict) else content
    found = sum(bytes_of(item, depth + 1, done) for item in items)
    done.add(id(content))
    return found


# All that a state dict calls, a checkpoint of a training framework included.
CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): Program.make_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): Program.make_tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): Program.make_untyped_tensor,
    Name("torch._utils", "_rebuild_parameter"): Program.make_parameter,
    Name("torch", "Size"): Program.make_size,
    Name("torch", "device"): Program.make_device,
    Name("collections", "OrderedDict"): Program.make_ordered,
    Name("collections", "Counter"): Program.make_ordered,
    Name("builtins", "set"): Program.make_set,
}
Step = Callable[[Program, Any], None]
# What torch itself reads of a pickle when it reads weights only; all others are refused.
STEPS: dict[str, Step] = {
    "PROTO": Program.begin,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), Program.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING"), Program.push),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": lambda machine, _: machine.add_items([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.add_items(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Program.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Program.recall),
    "GLOBAL": Program.name,
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.set_state(),
    "BINPERSID": lambda machine, _: machine.open_storage(),
}
