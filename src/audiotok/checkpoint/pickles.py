"""A pickle machine that has no way to call anything: it reads the opcodes as data and builds only
numbers, texts, containers, numpy arrays and `Record`s.

Python's own unpickler runs what it finds and must be held back; this one knows nothing to run. The standard
library's `pickletools` decodes the opcodes, a name is only ever looked up in the table of `stand_ins.py`, and
one that is not there ends the reading at once.

Memory and time are bounded by the stream: what is copied out of it may hold no more items and bytes than a
few times the stream (so that an array stored once cannot be asked for a million times), and keys are numbers and texts
(the hash of a tuple that holds itself twice, thirty levels deep, takes minutes).
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from audiotok.checkpoint.base import Source, fault
from audiotok.checkpoint.stand_ins import Global, Record, Shell, find_global, finish
from audiotok.errors import CheckpointError

MAX_NESTED_STREAMS = 4

_MARK = object()
_KEY_TYPES = (str, int, float, bytes, bool, type(None))


class Machine:
    """Runs one pickle stream; arrays that joblib stored behind their wrapper come from the same stream."""

    def __init__(self, stream: io.BytesIO, path: Source, *, depth: int = 0) -> None:
        self.stream = stream
        self.path = path
        self.depth = depth
        self.size = stream.getbuffer().nbytes
        self.allowance = 4 * self.size  # a number can pass through text, bytes and array
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.unfinished = 0  # arrays that wait for their state

    def fault(self, found: str) -> CheckpointError:
        """The error for anything that is wrong in this stream."""
        advice = "ask for the data as safetensors or .npy; this file was not run"
        wanted = "a pickle of numbers, texts, arrays and scikit-learn objects"
        return fault(self.path, wanted=wanted, found=found, advice=advice)

    def run(self) -> Any:
        """The object that the stream describes; the stream is left right behind it."""
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                if opcode.name == "STOP":
                    return self._result()
                self._step(opcode.name, argument)
        except CheckpointError:
            raise
        except (
            ValueError,
            OverflowError,
        ) as error:  # from pickletools: a stream cut short, a broken argument
            raise self.fault(f"a broken stream ({error})") from error
        raise self.fault("a stream without an end")

    def run_nested(self) -> Any:
        """The object of a whole pickle inside this one's stream."""
        if self.depth >= MAX_NESTED_STREAMS:
            raise self.fault("pickles in pickles in pickles")
        inner = Machine(self.stream, self.path, depth=self.depth + 1)
        inner.allowance = self.allowance
        value = inner.run()
        self.allowance = inner.allowance
        return value

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes from the stream."""
        data = self.stream.read(size)
        if len(data) < size:
            raise self.fault(f"the end of the file where {size} bytes were announced")
        return data

    def spend(self, amount: int) -> None:
        """Account for `amount` items or bytes that are copied out of the stream."""
        self.allowance -= amount
        if self.allowance < 0:
            raise self.fault("objects larger than the file that is said to hold them")

    def hashable(self, items: list[Any]) -> list[Any]:
        """The items, if each may be a key."""
        for item in items:
            if type(item) not in _KEY_TYPES:
                raise self.fault(f"a {type(item).__name__} as a key")
        return items

    def to_dict(self, items: list[Any]) -> dict[Any, Any]:
        """A dict from keys and values in turn."""
        if len(items) % 2:
            raise self.fault("a key without a value")
        return dict(zip(self.hashable(items[::2]), items[1::2], strict=True))

    def create(self, target: Any, arguments: Any) -> Any:
        """What our builder for `target` makes of the arguments."""
        if not isinstance(target, Global) or target.build is None or type(arguments) is not tuple:
            raise self.fault(f"a call of {getattr(target, 'name', type(target).__name__)}")
        return target.build(self, arguments)

    def _result(self) -> Any:
        value = self._pop()
        if self.stack or self.unfinished:
            raise self.fault("objects that are never completed")
        if isinstance(value, Global | Shell):
            raise self.fault("a name or a kind of number, and no data")
        return value

    def _step(self, name: str, argument: Any) -> None:
        if name in _STEPS:
            _STEPS[name](self)
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise self.fault(f"a reference to nothing (memo {argument})")
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(self._find(*argument.split(" ", 1)))
        elif name == "INST":
            target = self._find(*argument.split(" ", 1))
            self.stack.append(self.create(target, tuple(self._pop_to_mark())))
        elif name not in ("PROTO", "FRAME"):
            raise self.fault(f"the opcode {name}, which reaches outside the file")

    def _find(self, module: Any, name: Any = "") -> Any:
        if type(module) is not str or type(name) is not str:
            raise self.fault("a name that is not text")
        return find_global(self, module, name)

    # The stack -------------------------------------------------------------------------------------------

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.fault("an empty stack")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return _finished(self.stack.pop())

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(_finished(self.stack.pop()))
        if not self.stack:
            raise self.fault("an end without a start")
        self.stack.pop()
        return items[::-1]

    # Opcodes that need more than a line ------------------------------------------------------------------

    def _drop(self) -> None:
        if self.stack and self.stack[-1] is _MARK:
            self.stack.pop()
        else:
            self._pop()

    def _push_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        self._container(list).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        self._container(dict).update(self.to_dict(items))

    def _add_items(self, items: list[Any]) -> None:
        self._container(set).update(self.hashable(items))

    def _container(self, kind: type[Any]) -> Any:
        target = self._top()
        if type(target) is not kind:
            raise self.fault(f"a {type(target).__name__} used as a {kind.__name__}")
        return target

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.stack.append(self._find(module, name))

    def _reduce(self) -> None:
        arguments, target = self._pop(), self._pop()
        self.stack.append(self.create(target, arguments))

    def _new_object_with_names(self) -> None:
        names = self._pop()
        if type(names) is not dict or names:
            raise self.fault("an object made with named arguments")
        self._reduce()

    def _object_of_mark(self) -> None:
        target, *arguments = self._pop_to_mark() or [None]
        self.stack.append(self.create(target, tuple(arguments)))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Shell):
            finish(self, target, state)
        elif isinstance(target, Record):
            attributes = state if type(state) is dict else {"__state__": state}
            self.spend(len(attributes))
            if not all(type(key) is str for key in attributes):
                raise self.fault("an attribute whose name is not text")
            target.attributes.update(attributes)
        else:
            raise self.fault(f"a state for a {type(target).__name__}")


def _finished(value: Any) -> Any:
    """The array or dtype in place of the shell in which it was built."""
    return value.value if isinstance(value, Shell) and value.value is not None else value


_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_VALUES = frozenset(["NONE", "FLOAT", "BINFLOAT", *_INTEGERS, *_TEXTS, *_BYTES])
_STEPS: dict[str, Callable[[Machine], None]] = {
    "NEWTRUE": lambda machine: machine.stack.append(True),
    "NEWFALSE": lambda machine: machine.stack.append(False),
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "EMPTY_SET": lambda machine: machine.stack.append(set()),
    "MARK": lambda machine: machine.stack.append(_MARK),
    "DUP": lambda machine: machine.stack.append(machine._top()),
    "POP": Machine._drop,
    "POP_MARK": lambda machine: machine._pop_to_mark().clear(),
    "LIST": lambda machine: machine.stack.append(machine._pop_to_mark()),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine: machine._push_tuple(1),
    "TUPLE2": lambda machine: machine._push_tuple(2),
    "TUPLE3": lambda machine: machine._push_tuple(3),
    "DICT": lambda machine: machine.stack.append(machine.to_dict(machine._pop_to_mark())),
    "FROZENSET": lambda machine: machine.stack.append(frozenset(machine.hashable(machine._pop_to_mark()))),
    "APPEND": lambda machine: machine._append([machine._pop()]),
    "APPENDS": lambda machine: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine: machine._set_items(machine._pop_to_mark()),
    "ADDITEMS": lambda machine: machine._add_items(machine._pop_to_mark()),
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._new_object_with_names,
    "OBJ": Machine._object_of_mark,
    "BUILD": Machine._build,
}
