"""A torch dataset of tokens, whose rows are read from the disk when they are asked for."""

import functools
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..codes import Codes
from ..errors import CheckpointError, InputError
from ..spec import Spec
from .checking import carried_of
from .groups import RowGroup
from .mapped import MappedShard
from .shards import pyarrow

_MAX_OPEN_SHARDS = 128  # a mapped file takes a file descriptor, of which a process often has no more than 1024


@dataclass(frozen=True)
class CodesRow:
    """One item of a dataset of tokens.

    Attributes:
        id: of the item.
        tokens: [K, F] int64.
        num_samples: of its audio, at `spec.sample_rate`.
        start: of the item in its recording, in seconds.
        duration: of the item, in seconds.
        columns: what the source carried along, by name; None where it was empty.
        extras: values beside the tokens, as in `Codes` but without B.
    """

    id: str
    tokens: Tensor
    num_samples: int
    start: float
    duration: float
    columns: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)


class CodesDataset(Dataset[CodesRow]):
    """Rows of tokens, each read when it is asked for, from files mapped into memory; `open_codes` makes it.

    A process holds no more than the places of the rows it has asked for last; a copy sent to a worker of a DataLoader,
    forked or spawned, carries names only and maps the files anew.

    Attributes:
        spec: of the tokenizer that made the tokens, with the codebooks in use.
        fingerprint: of the same.
        card: what card.json says; empty when there is none.
        columns: names of the carried columns that rows have.
    """

    _lengths: npt.NDArray[np.int32] | None

    def __init__(
        self,
        shards: Sequence[MappedShard],
        spec: Spec,
        fingerprint: str,
        card: dict[str, Any],
        columns: Sequence[str] | None = None,
    ) -> None:
        self.spec, self.fingerprint, self.card = spec, fingerprint, card
        self._shards = list(shards)
        self._shard_starts = _starts(sum(shard.rows) for shard in self._shards)
        self._prepare()
        carried = self._carried()
        unknown = sorted(set(columns or ()) - set(carried))
        if unknown:
            raise InputError(
                f"there is no column {', '.join(unknown)}: carried along were {', '.join(carried) or 'none'}"
            )
        self.columns = tuple(carried if columns is None else columns)

    def __len__(self) -> int:
        """Rows."""
        return self._shard_starts[-1]

    @overload
    def __getitem__(self, index: int) -> CodesRow: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> list[CodesRow]: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> CodesRow | list[CodesRow]:
        """A row, or a list of rows: those of a slice, or of a list of numbers.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        return self.__getitems__(index) if isinstance(index, Sequence) else self._row(operator.index(index))

    def __getitems__(self, indices: Sequence[int]) -> list[CodesRow]:
        """Several rows; torch's DataLoader asks for a whole batch."""
        return [self._row(operator.index(index)) for index in indices]

    def codes(self, which: int | slice | Sequence[int]) -> Codes:
        """Rows as codes that their tokenizer decodes: a batch of one, or of the rows of a slice or a list.

        Raises:
            IndexError: there is no such row. InputError: no row at all.
        """
        rows = self[which] if isinstance(which, slice | Sequence) else [self[which]]
        return Codes.batch(
            [
                Codes(
                    tokens=row.tokens[None],
                    lengths=torch.tensor([row.tokens.shape[1]]),
                    num_samples=torch.tensor([row.num_samples]),
                    spec=self.spec,
                    fingerprint=self.fingerprint,
                    extras={name: value[None] for name, value in row.extras.items()},
                )
                for row in rows
            ]
        )

    def index(self, id: str) -> int:
        """The number of the row with an id, found by looking through all ids: for many, use `ids` once.

        Raises:
            InputError: there is none.
        """
        before = 0
        for group in self._groups():
            found = group.find(id)
            if found >= 0:
                return before + found
            before += len(group)
        raise InputError(f"no item {id!r} among the {len(self)} rows")

    def ids(self) -> Iterator[str]:
        """The ids of all rows in their order."""
        for group in self._groups():
            yield from group.ids.to_pylist()

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """F of every row, [len] int32, read-only: for samplers. Found without touching tokens, and kept."""
        if self._lengths is None:
            found = np.concatenate([np.empty(0, np.int32), *(group.num_frames for group in self._groups())])
            found.setflags(write=False)
            self._lengths = found
        return self._lengths

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_open", "_lengths", "_group_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def _prepare(self) -> None:
        """What is not sent to other processes."""
        self._lengths = None
        self._group_starts = [_starts(shard.rows) for shard in self._shards]
        self._open = functools.lru_cache(_MAX_OPEN_SHARDS)(self._opened)

    def _row(self, index: int) -> CodesRow:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        shard = bisect_right(self._shard_starts, index) - 1
        index -= self._shard_starts[shard]
        number = bisect_right(self._group_starts[shard], index) - 1
        group, i = self._group(shard, number), index - self._group_starts[shard][number]
        return CodesRow(
            id=group.ids[i].as_py(),
            tokens=torch.from_numpy(group.tokens[i].astype(np.int64)),
            num_samples=int(group.num_samples[i]),
            start=float(group.start[i]),
            duration=float(group.duration[i]),
            columns={name: group.carried(name, i) for name in self.columns},
            extras={name: torch.from_numpy(extra[i].copy()) for name, extra in group.extras.items()},
        )

    def _opened(self, shard: int) -> tuple[Any, dict[int, RowGroup]]:
        """A reader, and the row groups that were asked for."""
        return self._shards[shard].open(), {}

    def _group(self, shard: int, number: int) -> RowGroup:
        reader, groups = self._open(shard)
        if number not in groups:
            groups[number] = self._read(reader, shard, number)
        return groups[number]

    def _read(self, reader: Any, shard: int, number: int) -> RowGroup:
        pa = pyarrow()
        try:
            return RowGroup(reader.get_batch(number))
        except (pa.ArrowException, OSError, InputError) as error:
            raise CheckpointError(
                f"{self._shards[shard].path} is broken: {error}; delete it, and open again"
            ) from error

    def _groups(self) -> Iterator[RowGroup]:
        for shard, mapped in enumerate(self._shards):
            for number in range(len(mapped.rows)):
                yield self._group(shard, number)

    def _carried(self) -> list[str]:
        """Names of the carried columns, the same in all shards."""
        found: list[str] | None = None
        for shard, mapped in enumerate(self._shards):
            names = self._open(shard)[0].schema.names
            found = names if found is None else found
            if names != found:
                raise CheckpointError(f"{mapped.shard} has other columns than the first shard: {names}, not {found}")
        return carried_of(found or [])


def _starts(counts: Iterable[int]) -> list[int]:
    """Where each begins, and at last the end of all."""
    return list(accumulate(counts, initial=0))
