"""Whether a shard holds what it says: its columns, and that the values of each fit the others and the tokenizer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..spec import Spec
from .shards import COLUMN_TYPES, OWN_COLUMNS

#: More than any row group of ours has: one that claims more is not read.
MAX_GROUP_BYTES = 2**31


def check_schema(pa: Any, schema: Any) -> None:
    """Refuses columns that no shard has.

    Raises:
        InputError: a column is missing, or of another type.
    """
    for name in OWN_COLUMNS:
        if schema.get_field_index(name) < 0:
            raise InputError(f"the column {name} is missing, or there twice")
    plain = {"id": pa.string(), "num_frames": pa.int32(), "num_samples": pa.int64()}
    plain |= {"start": pa.float64(), "duration": pa.float64()}
    for name, wanted in plain.items():
        _check_type(name, schema.field(name).type, schema.field(name).type.equals(wanted))
    tokens, shape = schema.field("tokens").type, schema.field("shape").type
    _check_type("tokens", tokens, pa.types.is_list(tokens) and pa.types.is_unsigned_integer(tokens.value_type))
    _check_type("shape", shape, _is_shape(pa, shape) and getattr(shape, "list_size", 0) == 2)
    for name in extras_of(schema.names):
        values, shape = schema.field(f"extra_{name}").type, schema.field(f"extra_{name}_shape").type
        right = pa.types.is_list(values) and values.value_type in (pa.float32(), pa.int64()) and _is_shape(pa, shape)
        _check_type(f"extra_{name}", values, right)
    carried = [getattr(pa, kind)() for kind in COLUMN_TYPES.values()]
    for name in carried_of(schema.names):
        _check_type(name, schema.field(name).type, schema.field(name).type in carried)


def check_rows(batch: Any, spec: Spec) -> None:
    """Refuses rows that contradict themselves or the tokenizer.

    Args:
        batch: of rows, as a pyarrow.RecordBatch.
        spec: of the tokenizer.

    Raises:
        InputError: values are missing, a shape is not that of its list, a token is no token, a length is negative.
    """
    batch.validate(full=True)
    for name in OWN_COLUMNS:
        if batch.column(name).null_count:
            raise InputError(f"the column {name} has empty rows")
    tokens = ragged(batch, "tokens")
    if bool((tokens.shapes[:, 0] != spec.num_codebooks).any()):
        raise InputError(f"not every shape has the {spec.num_codebooks} codebooks of {spec.name}")
    _check_shapes("tokens", tokens)
    if bool((tokens.shapes[:, 1] != batch.column("num_frames").to_numpy()).any()):
        raise InputError("num_frames is not what the shapes say")
    if bool((batch.column("num_samples").to_numpy() < 0).any()):
        raise InputError("num_samples is negative")
    for name in ("start", "duration"):
        if not bool(np.isfinite(batch.column(name).to_numpy()).all()):
            raise InputError(f"{name} is not finite")
    _check_tokens(tokens, spec)
    for name in extras_of(batch.schema.names):
        _check_shapes(f"extra_{name}", ragged(batch, f"extra_{name}"))


def extras_of(names: list[str]) -> list[str]:
    """The NAMEs of which there are extra_NAME and extra_NAME_shape."""
    return [
        name.removeprefix("extra_")
        for name in names
        if name.startswith("extra_") and f"{name}_shape" in names and name not in OWN_COLUMNS
    ]


def carried_of(names: list[str]) -> list[str]:
    """The columns that the source carried along."""
    extras = [f"extra_{name}" for name in extras_of(names)]
    return [name for name in names if name not in {*OWN_COLUMNS, *extras, *(f"{name}_shape" for name in extras)}]


@dataclass(frozen=True)
class Ragged:
    """A column of arrays of unlike shapes: the i-th is a view [*shapes[i]].

    Attributes:
        shapes: [N, rank].
        offsets: [N + 1], where each begins among the values.
        values: of all, one after the other.

    Example:
        >>> column = Ragged(np.array([[2, 1], [1, 3]]), np.array([0, 2, 5]), np.arange(5))
        >>> column[1].tolist()
        [[2, 3, 4]]
    """

    shapes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]
    values: npt.NDArray[Any]

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[index] : self.offsets[index + 1]].reshape(self.shapes[index])


def ragged(batch: Any, name: str) -> Ragged:
    """A column of arrays, with the column of their shapes beside it; nothing is copied.

    Raises:
        InputError: values are missing.
    """
    lists, shapes = batch.column(name), batch.column("shape" if name == "tokens" else f"{name}_shape")
    if lists.null_count or lists.values.null_count or shapes.null_count or shapes.flatten().null_count:
        raise InputError(f"the column {name} or its shape has empty values")
    flat, rows = shapes.flatten().to_numpy(), len(lists)
    if len(flat) % rows:
        raise InputError(f"the shapes of {name} are not equally long")
    return Ragged(flat.reshape(rows, -1 if len(flat) else 0), lists.offsets.to_numpy(), lists.values.to_numpy())


def _check_type(name: str, found: object, right: bool) -> None:
    if not right:
        raise InputError(f"the column {name} cannot be of the type {found}")


def _is_shape(pa: Any, kind: Any) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and kind.value_type.equals(pa.int32()))


def _check_shapes(name: str, column: Ragged) -> None:
    # In floating point, since whole numbers may wrap around; counts are far below 2^53, up to which it is exact.
    sizes, counts = column.shapes.astype(np.float64).prod(1), np.diff(column.offsets)
    if bool((column.shapes < 0).any() or (sizes != counts).any()):
        raise InputError(f"the shapes of {name} are not those of its lists")


def _check_tokens(tokens: Ragged, spec: Spec) -> None:
    sizes = np.asarray([min(size, 2**63 - 1) for size in spec.codebook_sizes], np.uint64)
    values, frames = tokens.values[tokens.offsets[0] : tokens.offsets[-1]], tokens.shapes[:, 1]
    if not len(values) or values.max() < sizes.min():
        return
    limits = np.repeat(np.tile(sizes, len(frames)), np.repeat(frames, len(sizes)))
    if bool((values >= limits).any()):
        raise InputError(
            f"there are tokens that {spec.name} does not have: its codebooks have {spec.codebook_sizes} entries"
        )
