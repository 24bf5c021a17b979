"""Shards that can be read anywhere at once: an uncompressed Arrow file beside each, mapped into memory.

Parquet must be decompressed a row group at a time, so a random row would cost megabytes. Each shard is therefore
written once more as an Arrow file, by whoever opens the dataset first; it names the size and time of the shard that it
was made from, and is made again when they change. The files may be deleted at any time.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError, InputError
from ..files import atomic_write
from ..spec import Spec
from .checking import MAX_GROUP_BYTES, check_rows, check_schema
from .shards import pyarrow, read_shard_facts

_METADATA = b"audiotok.mapped"
_FORMAT = 1
_Tokenizer = tuple[Spec, str]  # and its fingerprint


@dataclass(frozen=True)
class MappedShard:
    """A shard as it was when the dataset was opened; cheap to pickle.

    Attributes:
        shard: the Parquet file.
        path: of its Arrow file.
        stamp: of what it was made from: the shard's size and time of modification, and the tokenizer.
        rows: of each record batch.
    """

    shard: str
    path: str
    stamp: str
    rows: tuple[int, ...]

    def open(self) -> Any:
        """A pyarrow.ipc reader; what it reads stays in the file.

        Raises:
            CheckpointError: the file is not there any more, or another.
        """
        pa = pyarrow()
        try:
            reader = pa.ipc.open_file(pa.memory_map(self.path))
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(f"{self.path} cannot be read any more: {error}; open the dataset again") from error
        if _facts(reader.schema) != (self.stamp, self.rows):
            raise CheckpointError(f"{self.shard} was changed after the dataset was opened: open it again")
        return reader


def map_shards(shards: Sequence[Path], folder: Path, spec: Spec, fingerprint: str) -> list[MappedShard]:
    """Makes the Arrow files that are missing or old.

    Any number of processes may do so at once: each makes those that no other is making, and waits for the others.

    Args:
        shards: Parquet files.
        folder: for the Arrow files; made if need be.
        spec: of the tokenizer of every shard.
        fingerprint: of the same.

    Raises:
        CheckpointError: a shard is missing, broken, of another tokenizer, or contradicts itself. InputError: the folder
            cannot be written to. OSError: the disk is full.
    """
    tokenizer, found = (spec, fingerprint), dict[Path, MappedShard]()
    for wait in (False, True):
        for shard in shards:
            if shard in found:
                continue
            target = folder / f"{shard.stem}.arrow"
            mapped = _current(shard, target, tokenizer) or _made(shard, target, tokenizer, wait=wait)
            if mapped is not None:
                found[shard] = mapped
    return [found[shard] for shard in shards]


def _current(shard: Path, target: Path, tokenizer: _Tokenizer) -> MappedShard | None:
    """The Arrow file of a shard, if it was made from the shard as it is."""
    pa = pyarrow()
    try:
        stamp = _stamp(shard.stat(), tokenizer)
    except OSError as error:
        raise CheckpointError(f"{shard} is missing: {error}") from error
    try:
        facts = _facts(pa.ipc.open_file(pa.memory_map(str(target))).schema)
    except (pa.ArrowException, OSError):
        return None
    return MappedShard(str(shard), str(target), stamp, facts[1]) if facts and facts[0] == stamp else None


def _made(shard: Path, target: Path, tokenizer: _Tokenizer, *, wait: bool) -> MappedShard | None:
    """Makes the Arrow file of a shard; None where another process is at it and we do not wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with shard.open("rb") as file, _turn(file, wait) as ours:
            if ours:
                # Whoever had the turn before may have made it.
                return _current(shard, target, tokenizer) or _write(shard, target, tokenizer)
            return None
    except OSError as error:
        advice = f"give open_codes a cache_dir, where the tokens of {shard.name} can lie uncompressed"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            raise InputError(f"cannot write to {target.parent}: {error.strerror}; {advice}") from error
        raise OSError(error.errno, f"cannot write {target}: {error.strerror}; {advice}") from error


def _write(shard: Path, target: Path, tokenizer: _Tokenizer) -> MappedShard:
    pa, (spec, fingerprint) = pyarrow(), tokenizer
    stamp = _stamp(shard.stat(), tokenizer)  # before anything is read: one that is exchanged meanwhile has another
    if read_shard_facts(shard) != tokenizer:
        raise CheckpointError(
            f"{shard} holds tokens of another tokenizer than the rest, which are of {spec.name} ({fingerprint[:12]}): "
            "move it to a folder of its own"
        )
    with _naming(shard):
        # By its name: over a Python file object, threads of pyarrow 26 may abort the process when it ends.
        parquet = pa.parquet.ParquetFile(shard)
        check_schema(pa, parquet.schema_arrow)
        groups = [number for number in range(parquet.num_row_groups) if parquet.metadata.row_group(number).num_rows]
        rows = tuple(parquet.metadata.row_group(number).num_rows for number in groups)
    facts = json.dumps({"stamp": stamp, "rows": rows})
    schema = parquet.schema_arrow.with_metadata({_METADATA: facts})
    with atomic_write(target) as out, pa.ipc.new_file(out, schema) as writer:
        for number in groups:
            with _naming(shard):
                batch = _row_group(parquet, number)
                check_rows(batch, spec)
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return MappedShard(str(shard), str(target), stamp, rows)


def _row_group(parquet: Any, number: int) -> Any:
    """A row group as one record batch."""
    group = parquet.metadata.row_group(number)
    # Not by columns: pyarrow 26 ends the process over a column whose statistics are broken, if it is asked so.
    if group.total_byte_size > MAX_GROUP_BYTES:
        raise InputError(f"row group {number} claims {group.total_byte_size} bytes, more than any has")
    batches = parquet.read_row_group(number).combine_chunks().to_batches()
    if [batch.num_rows for batch in batches] != [group.num_rows]:
        raise InputError(f"row group {number} has not the {group.num_rows} rows that it claims")
    return batches[0]


@contextlib.contextmanager
def _naming(shard: Path) -> Iterator[None]:
    """Whatever is wrong inside, is wrong with the shard."""
    try:
        yield
    except (pyarrow().ArrowException, OSError, ValueError) as error:
        raise CheckpointError(f"{shard} is broken: {error}") from error


@contextlib.contextmanager
def _turn(file: BinaryIO, wait: bool) -> Iterator[bool]:
    """Whether it is our turn to map an open shard: one process at a time, where the system can tell processes apart.
    Where it cannot, several do the same work, and the last file stays."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
        return
    except OSError:  # a network file system without locks, or one that locks only files open for writing
        yield True
        return
    yield True  # closing the file ends the turn


def _stamp(status: os.stat_result, tokenizer: _Tokenizer) -> str:
    facts = json.dumps([tokenizer[0].to_dict(), tokenizer[1]], sort_keys=True)
    return f"{_FORMAT}-{status.st_size}-{status.st_mtime_ns}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _facts(schema: Any) -> tuple[str, tuple[int, ...]] | None:
    """(stamp, rows) of an Arrow file of ours."""
    try:
        facts = json.loads((schema.metadata or {})[_METADATA])
        return str(facts["stamp"]), tuple(int(row) for row in facts["rows"])
    except (KeyError, TypeError, ValueError):
        return None
