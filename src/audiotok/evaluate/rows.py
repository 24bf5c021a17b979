"""What was measured of each item, in one SQLite file that survives being killed."""

import contextlib
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, InputError

FILE = "rows.sqlite"

_TABLES = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS rows (system TEXT, item TEXT, facts TEXT, tokens BLOB, flac BLOB, "
    "PRIMARY KEY (system, item))",
    "CREATE TABLE IF NOT EXISTS studies (system TEXT, name TEXT, value TEXT, PRIMARY KEY (system, name))",
)


@dataclass(frozen=True)
class Row:
    """What came of one item in one system.

    Attributes:
        item: its id.
        unreadable: why its audio cannot be read; empty when it can.
        not_coded: why the system failed; empty when it did not.
        seconds: of audio.
        bits: that were sent.
        encode_seconds, decode_seconds: that it took.
        values: by metric.
        reasons: by metric, of those that could not be computed.
        tokens: [K, F], of a tokenizer.
        flac: the decoded audio's beginning, of an item to listen to.
    """

    item: str
    unreadable: str = ""
    not_coded: str = ""
    seconds: float = 0.0
    bits: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    tokens: npt.NDArray[np.integer[Any]] | None = None
    flac: bytes | None = None


class Rows:
    """The rows of a report's folder. One process at a time has them.

    Args:
        folder: exists; the file is made in it where there is none.

    Raises:
        InputError: another process has it. CheckpointError: the file is of another kind, or broken.
        OSError: it cannot be opened or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._base = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise OSError(f"cannot open {self.path}: {error}") from error
        try:
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            with self._transaction():
                for statement in _TABLES:
                    self._base.execute(statement)
        except (InputError, OSError):
            self._base.close()
            raise
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise CheckpointError(f"{self.path} holds no rows of an evaluation, or is broken: {error}") from error

    def close(self) -> None:
        """Lets others have it."""
        self._base.close()

    def fact(self, name: str) -> Any:
        """A JSON value by name; None where there is none."""
        found = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Keeps a JSON value."""
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, system: str, rows: Iterable[Row]) -> None:
        """Enters rows at once; values that an item has already in the system stay. They last when this returns."""
        with self._transaction():
            for row in rows:
                whole = _merged(self.row(system, row.item), row)
                facts = {name: value for name, value in vars(whole).items() if name not in ("item", "tokens", "flac")}
                values = (system, whole.item, json.dumps(facts), _packed(whole.tokens), whole.flac)
                self._base.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", values)

    def row(self, system: str, item: str) -> Row | None:
        """A row with all it has, or None."""
        query = "SELECT item, facts, tokens, flac FROM rows WHERE system = ? AND item = ?"
        found = self._base.execute(query, (system, item)).fetchone()
        return None if found is None else _row(*found)

    def of(self, system: str) -> dict[str, Row]:
        """Rows of a system by item, without tokens and audio."""
        found = self._base.execute("SELECT item, facts, NULL, NULL FROM rows WHERE system = ?", (system,))
        return {name: _row(name, *rest) for name, *rest in found}

    def with_audio(self, system: str) -> set[str]:
        """Items whose audio was kept."""
        found = self._base.execute("SELECT item FROM rows WHERE system = ? AND flac IS NOT NULL", (system,))
        return {name for (name,) in found}

    def study(self, system: str, name: str) -> Any:
        """What a study of a system found, or None."""
        query = "SELECT value FROM studies WHERE system = ? AND name = ?"
        found = self._base.execute(query, (system, name)).fetchone()
        return None if found is None else json.loads(found[0])

    def add_study(self, system: str, name: str, value: Any) -> None:
        """Keeps what a study found, a JSON value."""
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO studies VALUES (?, ?, ?)", (system, name, json.dumps(value)))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._base.execute("BEGIN EXCLUSIVE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            if not isinstance(error, sqlite3.OperationalError):
                raise
            if "locked" in str(error):
                raise InputError(
                    f"another evaluation is writing to {self.path.parent}: wait for it, or stop it"
                ) from error
            raise OSError(f"cannot write {self.path}: {error}. Run again to go on") from error


def _merged(old: Row | None, new: Row) -> Row:
    """Both rows' values; all else is the new one's. Where only the old one was coded, what it has stays, beside the
    reason why the new one was not."""
    if old is None:
        return new
    values = old.values | new.values
    reasons = {name: reason for name, reason in (old.reasons | new.reasons).items() if name not in values}
    failed = old.seconds and not new.seconds
    latest = replace(old, unreadable=new.unreadable, not_coded=new.not_coded) if failed else new
    tokens = old.tokens if latest.tokens is None else latest.tokens
    return replace(latest, values=values, reasons=reasons, tokens=tokens, flac=latest.flac or old.flac)


def _row(item: str, facts: str, tokens: bytes | None, flac: bytes | None) -> Row:
    return Row(item=item, tokens=_unpacked(tokens), flac=flac, **json.loads(facts))


def _packed(tokens: npt.NDArray[np.integer[Any]] | None) -> bytes | None:
    if tokens is None:
        return None
    data = io.BytesIO()
    small = tokens.size == 0 or tokens.max() < 1 << 16
    np.save(data, tokens.astype(np.uint16 if small else np.int64), allow_pickle=False)
    return data.getvalue()


def _unpacked(data: bytes | None) -> npt.NDArray[np.integer[Any]] | None:
    return None if data is None else np.load(io.BytesIO(data), allow_pickle=False)
