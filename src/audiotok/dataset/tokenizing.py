"""`tokenize_dataset`: audio of any amount to a folder of tokens, once, whatever happens on the way."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ..checkpoint import write_json
from ..errors import InputError
from ..files import atomic_write
from ..sources import Item, Source, open_source, with_lengths
from ..tokenizer import Tokenizer
from .batches import Budget, split
from .devices import encode_on_devices
from .encoding import Encoded, encode_batches
from .ledger import FILE, Counts, Ledger
from .ray_engine import encode_on_ray
from .report import Meter, TokenizeReport
from .shards import PATTERN, pyarrow

FORMAT = 1  # of the folder
CARD, ERRORS = "card.json", "errors.jsonl"
Engine = Literal["local", "ray"]
Run = Callable[[Iterator[list[Item]]], Generator[Encoded]]
_CPU_SECONDS, _GPU_SECONDS = 60.0, 240.0
_COMMIT_SECONDS = 1.0


def tokenize_dataset(
    tokenizer: Tokenizer,
    source: Any,
    out_dir: str | os.PathLike[str],
    *,
    batch_seconds: float | None = None,
    num_workers: int | None = None,
    devices: Sequence[str] | None = None,
    max_seconds: float | None = None,
    columns: Sequence[str] | None = None,
    shard_bytes: int = 64 << 20,
    resume: bool = True,
    engine: Engine = "local",
    progress: bool = True,
) -> TokenizeReport:
    """Tokenizes every item of a source into a folder of Parquet shards.

    A run that ends early, in whatever way, goes on where it stopped when it is called again with the same tokenizer,
    source and folder, also with other numbers of workers and devices: an item is never done twice nor left out. An item
    that cannot be used is listed in errors.jsonl with its reason, and tried again by the next call.

    Args:
        tokenizer: any.
        source: what `audiotok.sources.open_source` takes: a folder, a list of files, a manifest, ...
        out_dir: folder for data/tokens-*.parquet, card.json, errors.jsonl and progress.sqlite; made if need be.
        batch_seconds: audio in a batch, padding included; default 60 on a CPU, 240 elsewhere. Where that does not fit
            in memory it is halved until it does.
        num_workers: processes that read, decode and resample; default one for each CPU but one, at most 8. 0 reads in
            between.
        devices: such as ["cuda:0", "cuda:1"]: a process each, sharing the work; default the tokenizer's own device, in
            this process.
        max_seconds: longer recordings are cut into pieces of whole token frames, ID#0, ID#1, ...; None cuts nothing.
        columns: names of the source's columns to carry along; None carries all.
        shard_bytes: of tokens in a shard.
        resume: False refuses a folder that has been begun.
        engine: "local", or "ray" for a cluster.
        progress: whether to show a bar.

    Returns:
        Figures of the run; `failed` says how many items could not be used.

    Raises:
        InputError: the folder was begun with another tokenizer or source, another run is writing to it, an id occurs
            twice, or an argument is out of range. OSError: the disk is full; nothing half-written is left.
        MissingDependencyError: pyarrow, or ray, is not installed.

    Example:
        report = audiotok.tokenize_dataset(tok, "corpus/", "tokens/", num_workers=4)
        codes = audiotok.open_codes("tokens/")
    """
    default_seconds = _CPU_SECONDS if tokenizer.device.type == "cpu" and not devices else _GPU_SECONDS
    budget = Budget(batch_seconds or default_seconds)
    if shard_bytes < 1:
        raise InputError(f"shard_bytes must be at least 1, not {shard_bytes}")
    workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if num_workers is None else num_workers
    if workers < 0:
        raise InputError(f"num_workers must be at least 0, not {workers}")
    pyarrow()  # missing, it should not be missed only when the first shard is due
    opened = open_source(source)
    run = _engine(tokenizer, opened, engine, devices, workers)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Ledger(folder, tokenizer.spec, tokenizer.fingerprint)) as ledger:
        _begin(ledger, tokenizer, opened, max_seconds, columns, resume, progress)
        before = ledger.counts()
        with contextlib.closing(Meter(before.seconds_todo, progress)) as meter:
            try:
                if before.todo:
                    _work(ledger, run(ledger.batches(budget, workers)), budget, meter, shard_bytes)
            except BaseException:
                ledger.rollback()
                with contextlib.suppress(OSError):  # the disk may be full: what is there already stays
                    _finish(ledger, meter, before, shard_bytes)
                raise
            return _finish(ledger, meter, before, shard_bytes)


def _engine(tokenizer: Tokenizer, source: Source, engine: str, devices: Sequence[str] | None, workers: int) -> Run:
    if engine == "local":
        if devices:
            return lambda batches: encode_on_devices(tokenizer, source, batches, devices, num_workers=workers)
        return lambda batches: encode_batches(tokenizer, source, batches, num_workers=workers)
    if engine == "ray":
        if devices:
            raise InputError("devices= is for one machine: with engine='ray' the cluster says what there is")
        return lambda batches: encode_on_ray(tokenizer, source, batches)
    raise InputError(f'engine must be "local" or "ray", not {engine!r}')


def _begin(
    ledger: Ledger,
    tokenizer: Tokenizer,
    source: Source,
    max_seconds: float | None,
    columns: Sequence[str] | None,
    resume: bool,
    progress: bool,
) -> None:
    """Writes the plan down, or takes it up after checking that it is the same."""
    wanted = {"max_seconds": max_seconds, "columns": None if columns is None else sorted(columns)}
    facts = {"tokenizer": _facts(tokenizer), "source": source.identity(), "options": wanted}
    if ledger.fact("source") is None:
        strange = sorted(path.name for path in ledger.folder.glob(PATTERN))
        if strange:
            raise InputError(f"{ledger.folder} holds {strange[0]} of another run, without its {FILE}: use a new folder")
        items = split(with_lengths(source, source.items()), max_seconds, tokenizer.spec)
        bar = tqdm(items, desc="listing", unit="item", disable=not progress)
        ledger.plan(bar, {**facts, "label": source.label}, columns)
        return
    if not resume:
        raise InputError(f"{ledger.folder} was begun already: resume it, or use a new folder")
    for name, value in facts.items():
        found = ledger.fact(name)
        if found != value:
            hint = f"{found} there, {value} now" if name == "options" else _difference(name, found, value)
            raise InputError(f"{ledger.folder} was begun with other {name}: {hint}. Use a new folder")
    ledger.resume()


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "name": tokenizer.spec.name,
        "fingerprint": tokenizer.fingerprint,
        "spec": tokenizer.spec.to_dict(),
        "dtype": str(tokenizer.dtype).removeprefix("torch."),
    }


def _difference(name: str, found: Any, value: Any) -> str:
    if name == "source":
        return "files were added, removed or changed, or it is another folder"
    keys = [key for key in ("name", "fingerprint", "dtype") if found[key] != value[key]] or ["spec"]
    return ", ".join(f"{key} {found[key]} there, {value[key]} now" for key in keys)


def _work(ledger: Ledger, results: Generator[Encoded], budget: Budget, meter: Meter, shard_bytes: int) -> None:
    """Enters what the engine gives, for as long as it gives something."""
    committed = time.perf_counter()
    with contextlib.closing(results):
        for encoded in results:
            ledger.add(encoded.done, encoded.failures)
            meter.add(encoded)
            if encoded.too_much:
                budget.halve(encoded.too_much)
            if time.perf_counter() - committed > _COMMIT_SECONDS:
                ledger.commit()
                committed = time.perf_counter()
            if ledger.journal_bytes >= shard_bytes:
                ledger.write_shards(shard_bytes)


def _finish(ledger: Ledger, meter: Meter, before: Counts, shard_bytes: int) -> TokenizeReport:
    """The last shard, the list of failures and the card, in this order."""
    ledger.write_shards(shard_bytes, rest=True)
    with atomic_write(ledger.folder / ERRORS) as file:
        for failure in ledger.failures():
            file.write(json.dumps(failure, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    counts, totals = ledger.counts(), ledger.totals()
    report = TokenizeReport(
        items=counts.todo + counts.done + counts.failed,
        failed=counts.failed,
        done_before=before.done,
        hours=meter.audio_seconds / 3600,
        seconds=meter.seconds,
        hours_per_hour=meter.hours_per_hour,
        share_waiting=meter.share_waiting,
        rows=totals.rows,
        frames=totals.frames,
        shards=totals.shards,
        finished=counts.todo == 0,
    )
    card = {
        "audiotok": version("audiotok"),
        "format": FORMAT,
        "tokenizer": ledger.fact("tokenizer"),
        "source": {"label": ledger.fact("label"), "identity": ledger.fact("source")},
        "options": ledger.fact("options"),
        "columns": ledger.columns,
        "finished": report.finished,
        "counts": {"items": report.items, "failed": report.failed, **asdict(totals)},
        "last_run": report.to_dict(),
    }
    write_json(ledger.folder / CARD, card)
    return report
