"""A pickle's data, without what a pickle can do.

A pickle is a program, and its ordinary reader calls whatever the program names. This reader knows
the instructions that PyTorch writes for tensors and for TorchScript's objects, and nothing else:
names become plain text, never Python objects, so there is nothing that a pickle could call.
What `REDUCE` may make is listed in `_reduce`; objects become `Module`s, bags of attributes.

What a pickle makes may share parts: thirty bytes are a tuple of a billion values, or one a million
deep. So nothing made here is hashed (keys are texts and numbers), compared, or quoted in an error.

The instructions are documented in CPython's `pickletools`, which also splits the stream here.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SCRIPT_CLASS = re.compile(r"__torch__(\.\w+)* \w+")
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"  # called with its tensor, and two more
ORDERED_DICT = "collections OrderedDict"
# TorchScript wraps its typed lists in these; each is called with the list, and gives it back.
TYPED_VALUES = frozenset(
    f"torch.jit._pickle {name}"
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
) | {"torch.jit._pickle restore_type_tag"}
# Of training states beside tensors: shapes and devices become what they are called with.
PLAIN_VALUES = frozenset({"torch Size", "torch device"})
DTYPE = re.compile(r"torch (float|bfloat|half|double|int|uint|long|bool|complex)\d*")
STORAGE_TYPE = re.compile(
    r"torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
# OpenAI's largest has less than a megabyte and 100,000 instructions.
PICKLE_LIMIT = 16 << 20  # bytes
INSTRUCTION_LIMIT = 500_000
QUOTED = 100  # characters of a name in an error


class UnsafeCheckpointError(RuntimeError):
    """A file asks for something that no table of tensors needs. Nothing of it has been run."""


@dataclass(frozen=True)
class Name:
    """A "module name" that the pickle mentions. It is text: nothing is imported."""

    text: str


@dataclass
class Module:
    """An object of a TorchScript class: its attributes, none of its code."""

    attributes: dict[str, Any] = field(default_factory=dict)


MakeTensor = Callable[[tuple[Any, ...]], Any]
MakeStorage = Callable[[tuple[Any, ...]], Any]


def read_pickle(
    data: bytes | io.BytesIO, make_storage: MakeStorage, make_tensor: MakeTensor
) -> Any:
    """The value that a pickle describes.

    Args:
        data: the pickle, or a stream that is left behind its end.
        make_storage: from a persistent id, ("storage", Name, key, device, elements).
        make_tensor: from the arguments of `torch._utils._rebuild_tensor_v2`.

    Raises:
        UnsafeCheckpointError: it holds an instruction, a name or a call that tensors do not need,
            or it is broken.
    """
    machine = _Machine(make_storage, make_tensor)
    try:
        return machine.run(pickletools.genops(data))
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UnsafeCheckpointError(f"a broken pickle: {error}") from error


class _Machine:
    """The stack machine: each method named like an instruction carries it out."""

    def __init__(self, make_storage: MakeStorage, make_tensor: MakeTensor) -> None:
        self.make_storage = make_storage
        self.make_tensor = make_tensor
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for number, (opcode, argument, position) in enumerate(instructions):
            if number > INSTRUCTION_LIMIT:
                raise UnsafeCheckpointError(f"more than {INSTRUCTION_LIMIT:,} instructions")
            name = opcode.name
            if name == "STOP":
                break
            if name == "PROTO":
                continue  # what is not known here is refused in any version
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _INSTRUCTIONS:
                _INSTRUCTIONS[name](self, argument)
            else:
                raise UnsafeCheckpointError(f"instruction {name} at byte {position} is not allowed")
        return self.stack.pop()

    def empty(self, kind: Callable[[], Any]) -> None:
        self.stack.append(kind())

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    def name(self, text: str) -> None:
        known = text in _CALLED or any(
            pattern.fullmatch(text) for pattern in (SCRIPT_CLASS, STORAGE_TYPE, DTYPE)
        )
        if not known:
            quoted = text[:QUOTED].replace(" ", ".")
            raise UnsafeCheckpointError(f"the name {quoted!r} is not allowed")
        self.stack.append(Name(text))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def join_marked(self) -> None:
        values = tuple(self.since_mark())
        self.stack.append(values)

    def join(self, count: int) -> None:
        if count > len(self.stack):
            raise ValueError("a tuple of more values than there are")
        values = self.stack[-count:]
        del self.stack[-count:]
        self.stack.append(tuple(values))

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnsafeCheckpointError("only a list can be appended to")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise UnsafeCheckpointError("only a dictionary can have items set")
        if not all(type(key) in _KEYS for key in values[::2]):
            raise UnsafeCheckpointError("a dictionary's keys must be texts or numbers")
        target.update(zip(values[::2], values[1::2], strict=True))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise UnsafeCheckpointError("a call of something that is not a name")
        self.stack.append(self._reduce(function.text, arguments))

    def _reduce(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function == REBUILD_TENSOR:
            return self.make_tensor(arguments)
        if function == ORDERED_DICT and not arguments:
            return {}
        if function in _CALLED and function != ORDERED_DICT:  # with a value, which it gives back
            return arguments[0]
        raise UnsafeCheckpointError(f"a call of {function[:QUOTED]!r} is not allowed")

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        script_class = isinstance(kind, Name) and SCRIPT_CLASS.fullmatch(kind.text)
        if not script_class or type(arguments) is not tuple or arguments:
            raise UnsafeCheckpointError("only objects of TorchScript's classes can be made")
        self.stack.append(Module())

    def build(self) -> None:
        attributes = self.stack.pop()
        target = self.stack[-1]
        if type(target) not in (Module, dict) or type(attributes) is not dict:
            raise UnsafeCheckpointError("only TorchScript's objects can be given attributes")
        if type(target) is Module:  # a state dict's are about versions of modules, no tensors
            target.attributes.update(attributes)

    def persistent(self) -> None:
        identity = self.stack.pop()
        if type(identity) is not tuple:
            raise UnsafeCheckpointError("a storage must be named by a tuple")
        self.stack.append(self.make_storage(identity))


_KEYS = (str, int, float, bool)
_CALLED = TYPED_VALUES | PLAIN_VALUES | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}
_LITERALS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2"}) | {
    "LONG1",
    "BINFLOAT",
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_DICT": lambda machine, _: machine.empty(dict),
    "EMPTY_LIST": lambda machine, _: machine.empty(list),
    "MARK": lambda machine, _: machine.mark(),
    "GLOBAL": lambda machine, text: machine.name(text),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "TUPLE": lambda machine, _: machine.join_marked(),
    "TUPLE1": lambda machine, _: machine.join(1),
    "TUPLE2": lambda machine, _: machine.join(2),
    "TUPLE3": lambda machine, _: machine.join(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new_object(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}
