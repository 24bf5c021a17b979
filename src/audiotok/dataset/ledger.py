"""The ledger: what is to be tokenized, what is done, what failed, in one SQLite file that survives being killed.

Items are written down once, before anything is tokenized, so that nothing depends on how many there are but the size of
this file. Tokens of finished items lie in the ledger, too, until there are enough for a shard; so a run that dies loses
the items of the last second or two, however large the shards. A shard is renamed into place first and entered
then: one that is found without an entry was finished by a run that died in between, and is entered as it is.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codes import Codes
from ..errors import CheckpointError, InputError
from ..files import remove_unfinished
from ..sources import Failure, Item
from ..spec import Spec
from .batches import Budget, batched, side_by_side
from .shards import (
    OWN_COLUMNS,
    PATTERN,
    Row,
    as_column,
    column_type,
    pyarrow,
    read_shard_facts,
    shard_name,
    token_dtype,
    write_shard,
)

FILE = "progress.sqlite"
_TODO, _JOURNAL, _SHARD, _FAILED = range(4)
_TOGETHER = 1000  # rows of one call
_SAFE = "What was written before is safe: run again to go on"

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE items (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, state INTEGER, seconds REAL, block INTEGER, item TEXT
);
CREATE TABLE journal (number INTEGER PRIMARY KEY, frames INTEGER, samples INTEGER, tokens BLOB, extras TEXT);
CREATE TABLE shards (number INTEGER PRIMARY KEY, rows INTEGER, frames INTEGER, seconds REAL);
CREATE TABLE failures (number INTEGER PRIMARY KEY, kind TEXT, reason TEXT);
"""


@dataclass(frozen=True)
class Counts:
    """Items by what became of them, and the seconds of audio of those still to do and of those done."""

    todo: int
    done: int
    failed: int
    seconds_todo: float
    seconds_done: float


@dataclass(frozen=True)
class Totals:
    """What is in the shards."""

    shards: int
    rows: int
    frames: int
    seconds: float


class Ledger:
    """The ledger of an output folder. One process at a time has it.

    Args:
        folder: exists; the ledger is made in it where there is none.
        spec: of the tokenizer, with the codebooks in use.
        fingerprint: of the tokenizer.

    Raises:
        InputError: another process has it. CheckpointError: the file is no ledger. OSError: it cannot be written.
    """

    def __init__(self, folder: Path, spec: Spec, fingerprint: str) -> None:
        self.folder, self.spec, self.fingerprint = folder, spec, fingerprint
        self.columns: dict[str, str] = {}
        path = folder / FILE
        self._base = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("BEGIN EXCLUSIVE")
            made = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not made:
                for statement in _TABLES.split(";"):
                    self._base.execute(statement)
            self._base.execute("COMMIT")
            self.journal_bytes = self._journal_bytes()
        except sqlite3.OperationalError as error:
            self._base.close()
            if "locked" in str(error):
                raise InputError(f"another run is writing to {folder}: wait for it, or stop it") from error
            raise _as_os_error(error, path) from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise CheckpointError(f"{path} is no ledger of audiotok, or is broken: {error}") from error

    def close(self) -> None:
        """Gives up what was not committed."""
        self._base.close()

    # ---- the plan ------------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """A JSON value by name; None where there is none."""
        found = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def plan(self, items: Iterable[Item], facts: Mapping[str, Any], columns: Iterable[str] | None) -> None:
        """Writes down every item, the facts, and the types of the columns to carry: all or nothing.

        Args:
            items: in their order.
            facts: JSON values by name.
            columns: names of those to carry along; None carries all.

        Raises:
            InputError: an id occurs twice, a column cannot be carried, or there is nothing to do.
        """
        wanted = None if columns is None else set(columns)
        types: dict[str, str | None] = dict.fromkeys(columns or ())
        doubled: list[str] = []
        left = enumerate(items)
        with self._writing():
            self._base.execute("DELETE FROM items")
            while some := list(islice(left, _TOGETHER)):
                for _, item in some:
                    for name, value in item.columns.items():
                        if wanted is None or name in wanted:
                            types[name] = column_type(types.get(name), value)
                rows = [(n, item.id, _TODO, item.seconds, item.block, _to_json(item, wanted)) for n, item in some]
                before = self._base.total_changes
                self._base.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
                if self._base.total_changes - before < len(some) and len(doubled) < 3:
                    doubled += self._doubled(rows)
            if doubled:
                raise InputError(
                    f"an id must occur once, but {', '.join(map(repr, doubled[:3]))} occurs again: give ids of their "
                    "own to segments of one recording, and list each recording once"
                )
            if not self._one("SELECT count(*) FROM items"):
                raise InputError("there is nothing to tokenize in the source")
            taken = sorted(name for name in types if name in OWN_COLUMNS or name.startswith("extra_"))
            if taken:
                raise InputError(
                    f"the source has columns {', '.join(taken)}, which are names of our own: give columns=[...] "
                    "without them, or rename them"
                )
            self.columns = {name: kind or "text" for name, kind in types.items()}
            for name, value in {**facts, "columns": self.columns}.items():
                self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def resume(self) -> None:
        """Takes up a plan: failed items are to do again, shards without an entry are entered, halves of one deleted."""
        remove_unfinished(self.folder / "data")  # of a run that was killed: nobody else writes here
        self.columns = self.fact("columns")
        with self._writing():
            self._base.execute("UPDATE items SET state = ? WHERE state = ?", (_TODO, _FAILED))
            self._base.execute("DELETE FROM failures")
        known = {number for (number,) in self._base.execute("SELECT number FROM shards")}
        for number in known:
            if not (self.folder / shard_name(number)).is_file():
                raise CheckpointError(
                    f"{self.folder / shard_name(number)} is missing: put it back, or use a new folder"
                )
        for path in sorted(self.folder.glob(PATTERN)):
            number = int(path.stem.removeprefix("tokens-"))
            if number not in known:
                self._adopt(path, number)

    def batches(self, budget: "Budget", lanes: int = 1) -> Iterator[list[Item]]:
        """Items to do, longest first, in batches of like length; blocks whole, as many side by side as `lanes`."""
        order = self._base.execute(
            "SELECT number, seconds, items.block FROM items LEFT JOIN "
            "(SELECT block, max(seconds) AS longest FROM items WHERE block IS NOT NULL GROUP BY block) AS blocks "
            "ON items.block = blocks.block WHERE state = ? "
            "ORDER BY coalesce(longest, seconds) DESC, items.block, seconds DESC, number",
            (_TODO,),
        )
        for batch in side_by_side(batched(order, budget), lanes):
            marks = ", ".join("?" * len(batch))
            rows = self._base.execute(f"SELECT number, item FROM items WHERE number IN ({marks})", batch)
            found = dict(rows.fetchall())
            yield [Item(**json.loads(found[number])) for number in batch]

    # ---- what was done -------------------------------------------------------------------------

    def add(self, done: Iterable[tuple[Item, Codes]], failed: Iterable[Failure]) -> None:
        """Enters finished and failed items; `commit` makes it last."""
        with self._disk():
            self._begin()
            self._add(done, failed)

    def _add(self, done: Iterable[tuple[Item, Codes]], failed: Iterable[Failure]) -> None:
        for item, codes in done:
            tokens = codes.tokens[0].cpu().numpy().astype(token_dtype(self.spec))
            extras = {name: _plain(value[0]) for name, value in codes.extras.items()}
            values = (tokens.shape[1], int(codes.num_samples[0]), tokens.tobytes(), json.dumps(extras), item.id)
            self._base.execute(
                f"INSERT INTO journal SELECT number, ?, ?, ?, ? FROM items WHERE id = ? AND state = {_TODO}", values
            )
            self._base.execute("UPDATE items SET state = ? WHERE id = ?", (_JOURNAL, item.id))
            self.journal_bytes += tokens.nbytes
        for failure in failed:
            self._base.execute(
                "INSERT INTO failures SELECT number, ?, ? FROM items WHERE id = ?",
                (failure.kind, failure.reason, failure.item.id),
            )
            self._base.execute("UPDATE items SET state = ? WHERE id = ?", (_FAILED, failure.item.id))

    def commit(self) -> None:
        """Makes what was added last, whatever happens to the process. Raises `OSError` when the disk is full."""
        with self._disk():
            if self._base.in_transaction:
                self._base.execute("COMMIT")

    def rollback(self) -> None:
        """Forgets what was added since the last `commit`."""
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")
        self.journal_bytes = self._journal_bytes()  # also where SQLite itself has rolled back, as on a full disk

    def write_shards(self, shard_bytes: int, *, rest: bool = False) -> None:
        """Moves tokens from the ledger to shards of about `shard_bytes`; with `rest` also the last, smaller one."""
        self.commit()
        while self.journal_bytes >= shard_bytes or (rest and self.journal_bytes):
            number = self._one("SELECT coalesce(max(number), -1) FROM shards") + 1
            path = self.folder / shard_name(number)
            shard = _Shard()
            try:
                rows = shard.take(self._journal(), shard_bytes)
                write_shard(path, rows, self.spec, self.fingerprint, self.columns)
            except OSError as error:
                raise OSError(f"cannot write {path}: {error}. {_SAFE}") from error
            self._enter(number, shard.numbers, shard.frames, shard.seconds)
            self.journal_bytes -= shard.size

    def counts(self) -> Counts:
        """What is done and to do."""
        rows = self._base.execute("SELECT state, count(*), sum(seconds) FROM items GROUP BY state").fetchall()
        found = {state: (count, seconds or 0.0) for state, count, seconds in rows}
        todo, journal, shard, failed = (found.get(state, (0, 0.0)) for state in range(4))
        return Counts(todo[0], journal[0] + shard[0], failed[0], todo[1], journal[1] + shard[1])

    def totals(self) -> Totals:
        """What is in the shards."""
        found = self._base.execute("SELECT count(*), sum(rows), sum(frames), sum(seconds) FROM shards").fetchone()
        return Totals(*(value or 0 for value in found))

    def failures(self) -> Iterator[dict[str, Any]]:
        """Every failed item as a JSON object, in the source's order."""
        rows = self._base.execute(
            "SELECT items.id, item, kind, reason FROM failures JOIN items USING (number) ORDER BY number"
        )
        for name, item, kind, reason in rows:
            yield {"id": name, "place": json.loads(item)["place"], "error": kind, "reason": reason}

    # ---- inside --------------------------------------------------------------------------------

    def _journal(self) -> Iterator[tuple[int, Row]]:
        dtype, height = token_dtype(self.spec), self.spec.num_codebooks
        rows = self._base.execute(
            "SELECT number, frames, samples, tokens, extras, item FROM journal JOIN items USING (number) "
            "ORDER BY number"
        )
        for number, frames, samples, tokens, extras, text in rows:
            item = Item(**json.loads(text))
            yield (
                number,
                Row(
                    id=item.id,
                    tokens=np.frombuffer(tokens, dtype).reshape(height, frames),
                    num_samples=samples,
                    start=item.start or 0.0,
                    duration=samples / self.spec.sample_rate,
                    columns={n: as_column(v, self.columns[n]) for n, v in item.columns.items()},
                    extras={
                        n: np.asarray(v, kind).reshape(shape) for n, (kind, shape, v) in json.loads(extras).items()
                    },
                ),
            )

    def _adopt(self, path: Path, number: int) -> None:
        """Enters a shard that was renamed into place when its run died."""
        if read_shard_facts(path) != (self.spec, self.fingerprint):
            raise CheckpointError(f"{path} holds tokens of another tokenizer: move it out of {self.folder}")
        table = pyarrow().parquet.read_table(path, columns=["id", "num_frames", "duration"]).to_pydict()
        numbers = []
        for name in table["id"]:
            found = self._base.execute(
                "SELECT number FROM items WHERE id = ? AND state != ?", (name, _SHARD)
            ).fetchone()
            if found is None:
                raise CheckpointError(
                    f"{path} holds {name!r}, which is in another shard or in no plan of {self.folder}"
                )
            numbers.append(found)
        self._enter(number, numbers, sum(table["num_frames"]), sum(table["duration"]))
        self.journal_bytes = self._journal_bytes()

    def _enter(self, shard: int, numbers: list[tuple[int]], frames: int, seconds: float) -> None:
        with self._writing():
            self._base.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", (shard, len(numbers), frames, seconds))
            self._base.executemany(f"UPDATE items SET state = {_SHARD} WHERE number = ?", numbers)
            self._base.executemany("DELETE FROM journal WHERE number = ?", numbers)

    def _doubled(self, rows: list[tuple[Any, ...]]) -> list[str]:
        same = "SELECT count(*) FROM items WHERE number = ? AND id = ?"
        return [row[1] for row in rows if not self._one(same, row[:2])]

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        return self._base.execute(query, values).fetchone()[0]

    def _journal_bytes(self) -> int:
        return int(self._one("SELECT coalesce(sum(length(tokens)), 0) FROM journal"))

    def _begin(self) -> None:
        if not self._base.in_transaction:
            self._base.execute("BEGIN")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction of its own."""
        self.commit()
        try:
            with self._disk():
                self._base.execute("BEGIN")
                yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """SQLite's complaints as an `OSError` that a user understands."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise _as_os_error(error, self.folder / FILE) from error


class _Shard:
    """Counts the rows that go to a shard."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int]] = []
        self.frames = self.size = 0
        self.seconds = 0.0

    def take(self, rows: Iterable[tuple[int, Row]], shard_bytes: int) -> Iterator[Row]:
        """The first rows, until they have that many bytes of tokens."""
        for number, row in rows:
            self.numbers.append((number,))
            self.frames += row.tokens.shape[1]
            self.seconds += row.duration
            self.size += row.tokens.nbytes
            yield row
            if self.size >= shard_bytes:
                return


def _plain(value: Tensor) -> list[Any]:
    """[type, shape, values] of an extra: whole numbers stay whole, all others are float32."""
    kind = "float32" if value.is_floating_point() else "int64"
    return [kind, list(value.shape), value.to(getattr(torch, kind)).flatten().tolist()]


def _to_json(item: Item, wanted: set[str] | None) -> str:
    facts = {name: value for name, value in vars(item).items() if value is not None and value != {}}
    if wanted is not None:
        facts["columns"] = {name: value for name, value in item.columns.items() if name in wanted}
    return json.dumps(facts)


def _as_os_error(error: sqlite3.OperationalError, path: Path) -> OSError:
    full = "is the disk full? " if "full" in str(error) or "I/O" in str(error) else ""
    return OSError(f"cannot write {path}: {full}{error}. {_SAFE}")
