"""A row group of a mapped shard: views of its columns, of which nothing is in memory before it is used."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .checking import Ragged, extras_of, ragged
from .shards import pyarrow


class RowGroup:
    """Rows as a record batch in a mapped file has them.

    Args:
        batch: a pyarrow.RecordBatch that `check_rows` passed when its file was made.

    Attributes:
        ids: pyarrow array of texts.
        tokens: the i-th is [K, F].
        num_frames, num_samples, start, duration: [N].
        extras: by name; the i-th of each is [*its shape].

    Raises:
        pyarrow.ArrowInvalid: what should be views would lie outside of the file. InputError: values are missing.
    """

    def __init__(self, batch: Any) -> None:
        batch.validate(full=True)  # costs microseconds, and no token is touched
        self._batch = batch
        self.ids = batch.column("id")
        self.tokens = ragged(batch, "tokens")
        self.num_frames: npt.NDArray[np.int32] = batch.column("num_frames").to_numpy()
        self.num_samples: npt.NDArray[np.int64] = batch.column("num_samples").to_numpy()
        self.start: npt.NDArray[np.float64] = batch.column("start").to_numpy()
        self.duration: npt.NDArray[np.float64] = batch.column("duration").to_numpy()
        self.extras: dict[str, Ragged] = {
            name: ragged(batch, f"extra_{name}") for name in extras_of(batch.schema.names)
        }

    def __len__(self) -> int:
        """N."""
        return len(self.num_frames)

    def carried(self, name: str, index: int) -> Any:
        """What the source carried along in a column; None where it was empty."""
        return self._batch.column(name)[index].as_py()

    def find(self, id: str) -> int:
        """The row with an id, or -1."""
        return int(pyarrow().compute.index(self.ids, id).as_py())
