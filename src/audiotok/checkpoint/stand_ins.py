"""What the names in a pickle may stand for: a closed table from name to a builder of our own.

Nothing named in a file is ever imported or called. A name in the table is built by a function of this module from
what the stream holds; a scikit-learn class becomes a `Record`; any other name ends the reading.

Sources: the pickle formats of numpy arrays (`numpy.ndarray.__reduce__`), and of joblib since 0.10, which puts an
array's bytes right behind the wrapper object that describes it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from audiotok.checkpoint.pickles import Machine

Array: TypeAlias = NDArray[Any]
Builder: TypeAlias = "Callable[[Machine, tuple[Any, ...]], Any]"


@dataclass
class Record:
    """What is left of an object whose class was not imported: the class's name and the attributes.

    Example:
        >>> Record("sklearn.cluster._kmeans.KMeans", {"n_clusters": 2}).attributes["n_clusters"]
        2
    """

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Global:
    """A name that a pickle asked for and the table allows; `build` is ours, never the thing named."""

    name: str
    build: "Builder | None" = None


@dataclass(eq=False)
class Shell:
    """An array or dtype between its creation and the state that completes it."""

    kind: str  # "array" | "dtype" | "wrapper"
    value: Any = None


def find_global(machine: "Machine", module: str, name: str) -> Any:
    """The stand-in for `module.name`; a name outside the table is a `CheckpointError`."""
    full = f"{_PYTHON_2.get(module, module)}.{name}".replace("numpy.core.", "numpy._core.", 1)
    if full in _BUILDERS:
        return Global(full, _BUILDERS[full])
    is_sklearn = full.startswith("sklearn.") and ".externals." not in full
    if is_sklearn or full.startswith("numpy.random."):
        return Global(full, lambda _machine, _arguments: Record(full))
    if full in _NUMBER_TYPES:
        return full  # a setting such as dtype=np.float32: its name says it all
    if full.endswith("NDArrayWrapper"):
        raise machine.fault("arrays in files beside this one, as joblib before 0.10 left them: save it again")
    raise machine.fault(f"a request for {module}.{name}, which was not followed")


def finish(machine: "Machine", shell: Shell, state: Any) -> None:
    """Complete an array or dtype with its state."""
    if shell.kind == "dtype":
        shell.value = _with_byte_order(machine, shell.value, state)
    elif shell.value is not None:
        raise machine.fault("an array that is completed twice")
    else:
        make = _array_of_state if shell.kind == "array" else _array_of_wrapper
        shell.value = make(machine, state)
        machine.unfinished -= 1


# Arrays ----------------------------------------------------------------------------------------------


def _to_dtype(machine: "Machine", value: Any) -> np.dtype[Any]:
    if isinstance(value, Shell):
        value = value.value
    if not isinstance(value, np.dtype):
        raise machine.fault("an array whose kind of number is missing")
    return value


def _with_byte_order(machine: "Machine", dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    # The state: version, byte order, sub-array, names, fields, item size, alignment, flags
    if type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
        raise machine.fault("an array of structures")
    if type(state[1]) is not str or state[1] not in "<>|=":
        raise machine.fault("an array with an unknown byte order")
    return dtype.newbyteorder(state[1])  # type: ignore[arg-type]


def _array_of_state(machine: "Machine", state: Any) -> Array:
    if type(state) is not tuple or len(state) not in (4, 5):
        raise machine.fault("an array with a broken state")
    shape, dtype, fortran, raw = state[-4:]
    return _array(machine, raw, dtype, shape, "F" if fortran else "C")


def _array_of_wrapper(machine: "Machine", state: Any) -> Array:
    """Read the array that joblib put right behind its wrapper."""
    if type(state) is not dict or not _is_array_class(state.get("subclass")):
        raise machine.fault("a joblib array of an unknown class")
    dtype, shape = _to_dtype(machine, state.get("dtype")), state.get("shape")
    size = _count(machine, shape) * dtype.itemsize
    if dtype.hasobject:
        nested = machine.run_nested()  # an array of objects is a pickle of its own inside the stream
        if not isinstance(nested, np.ndarray):
            raise machine.fault("a joblib array that is no array")
        return nested
    if state.get("numpy_array_alignment_bytes") is not None:
        machine.read(machine.read(1)[0])  # since joblib 1.2: one byte says how many to skip
    return _array(machine, machine.read(size), dtype, shape, state.get("order"))


def _array(machine: "Machine", raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array from the bytes (or, where it holds objects, the list) in the stream; always a copy."""
    dtype, count = _to_dtype(machine, dtype), _count(machine, shape)
    if type(order) is not str or order not in ("C", "F"):
        raise machine.fault("an array in an unknown order")
    if dtype.hasobject:
        if type(raw) is not list or len(raw) != count:
            raise machine.fault("an array of objects that does not fit its shape")
        machine.spend(count)
        flat: Array = np.empty(count, dtype=object)
        for index, item in enumerate(raw):
            flat[index] = item
    else:
        if type(raw) is str:  # bytes, as Python 2 wrote them
            raw = _latin1(machine, raw)
        if type(raw) not in (bytes, bytearray) or len(raw) != count * dtype.itemsize:
            raise machine.fault("an array whose bytes do not fit its shape")
        machine.spend(len(raw))
        flat = np.frombuffer(raw, dtype=dtype).astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _count(machine: "Machine", shape: Any) -> int:
    """How many items an array of that shape holds; no side of it may exceed the stream."""
    sides = shape if type(shape) is tuple and len(shape) <= 32 else (-1,)
    if not all(type(side) is int and 0 <= side <= machine.size for side in sides):
        raise machine.fault("an array of an impossible shape")
    return math.prod(sides)


def _latin1(machine: "Machine", text: str) -> bytes:
    machine.spend(len(text))
    return text.encode("latin-1")  # a UnicodeEncodeError is a ValueError: Machine.run turns it


def _is_array_class(value: Any) -> bool:
    return isinstance(value, Global) and value.name in _ARRAY_CLASSES


# Builders --------------------------------------------------------------------------------------------


def _build_array(machine: "Machine", arguments: tuple[Any, ...]) -> Shell:
    # numpy's _reconstruct(class, shape, kind): the true shape and kind come with the state
    if not arguments or not _is_array_class(arguments[0]):
        raise machine.fault("an array of an unknown class")
    machine.unfinished += 1
    return Shell("array")


def _build_wrapper(machine: "Machine", _arguments: tuple[Any, ...]) -> Shell:
    machine.unfinished += 1
    return Shell("wrapper")


def _build_dtype(machine: "Machine", arguments: tuple[Any, ...]) -> Shell:
    if not arguments or type(arguments[0]) is not str or not _DTYPE.fullmatch(arguments[0]):
        raise machine.fault("an array of an unknown kind of number")
    return Shell("dtype", np.dtype(arguments[0]))


def _build_number(machine: "Machine", arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 2 or _to_dtype(machine, arguments[0]).hasobject:
        raise machine.fault("a numpy number of an unknown kind")
    return _array(machine, arguments[1], arguments[0], (), "C").item()


def _build_from_buffer(machine: "Machine", arguments: tuple[Any, ...]) -> Array:
    if len(arguments) != 4 or _to_dtype(machine, arguments[1]).hasobject:
        raise machine.fault("an array with a broken state")
    return _array(machine, *arguments)


def _build_bytes(machine: "Machine", arguments: tuple[Any, ...]) -> bytes:
    # _codecs.encode(text, "latin1"): how pickle protocols 0 to 2 keep bytes
    if [type(argument) for argument in arguments] != [str, str] or arguments[1] not in ("latin1", "latin-1"):
        raise machine.fault("bytes in an unknown encoding")
    return _latin1(machine, arguments[0])


def _build_no_bytes(machine: "Machine", arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise machine.fault("bytes that are not kept as such")
    return b""


def _build_bytearray(machine: "Machine", arguments: tuple[Any, ...]) -> bytearray:
    if len(arguments) == 2:
        return bytearray(_build_bytes(machine, arguments))
    if len(arguments) > 1 or any(type(argument) is not bytes for argument in arguments):
        raise machine.fault("a bytearray that is not made of bytes")
    machine.spend(sum(len(argument) for argument in arguments))
    return bytearray(*arguments)


def _build_complex(machine: "Machine", arguments: tuple[Any, ...]) -> complex:
    if [type(argument) for argument in arguments] != [float, float]:
        raise machine.fault("a complex number that is not made of two numbers")
    return complex(*arguments)


def _build_set(machine: "Machine", arguments: tuple[Any, ...]) -> set[Any]:
    return set(machine.hashable(_one_list(machine, arguments)))


def _build_frozenset(machine: "Machine", arguments: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(machine.hashable(_one_list(machine, arguments)))


def _build_ordered_dict(machine: "Machine", arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = _one_list(machine, arguments)
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise machine.fault("an OrderedDict that is not made of pairs")
    return machine.to_dict([part for pair in pairs for part in pair])


def _one_list(machine: "Machine", arguments: tuple[Any, ...]) -> list[Any]:
    if len(arguments) > 1 or any(type(argument) is not list for argument in arguments):
        raise machine.fault("a container that is not made of a list")
    machine.spend(sum(len(argument) for argument in arguments))
    return [item for argument in arguments for item in argument]


def _build_old_style(machine: "Machine", arguments: tuple[Any, ...]) -> Any:
    # copyreg._reconstructor(class, object, None): how pickle protocols 0 and 1 make an instance
    base = arguments[1] if len(arguments) == 3 else None
    if not isinstance(base, Global) or base.name != "builtins.object" or arguments[2] is not None:
        raise machine.fault("an object of an unknown kind")
    return machine.create(arguments[0], ())


_DTYPE = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|c8|c16|b1|O8?|[US][1-9][0-9]{0,8})")
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_ARRAY_CLASSES = ("numpy.ndarray", "numpy.memmap", "numpy._core.memmap.memmap")
_NUMBER_TYPES = tuple(
    f"numpy.{name}"
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "bool_")
)
_BUILDERS: "dict[str, Builder | None]" = {
    "numpy._core.multiarray._reconstruct": _build_array,
    "numpy._core.multiarray.scalar": _build_number,
    "numpy._core.numeric._frombuffer": _build_from_buffer,
    "numpy.dtype": _build_dtype,
    "joblib.numpy_pickle.NumpyArrayWrapper": _build_wrapper,
    "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper": _build_wrapper,
    "_codecs.encode": _build_bytes,
    "builtins.bytes": _build_no_bytes,
    "builtins.bytearray": _build_bytearray,
    "builtins.complex": _build_complex,
    "builtins.set": _build_set,
    "builtins.frozenset": _build_frozenset,
    "collections.OrderedDict": _build_ordered_dict,
    "copyreg._reconstructor": _build_old_style,
    "builtins.object": None,  # named, never made
    **dict.fromkeys(_ARRAY_CLASSES, None),
}
