"""What the commands print: JSON and tables on stdout, messages and progress bars on stderr."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from ..errors import AudiotokError, HubError, MissingDependencyError, PluginError
from .exits import Exit

T = TypeVar("T")

_FATAL = (MissingDependencyError, PluginError, HubError, BrokenPipeError)  # they would hit every item alike


def say(message: str) -> None:
    """A line on stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)


def emit(value: Any) -> None:
    """A JSON document in one line of stdout, at once, so that a pipe sees it."""
    print(json.dumps(value, allow_nan=False), flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they must be; numbers to the right.

    Example:
        >>> print(table(("name", "kbit/s"), [("mimi", "1.1"), ("encodec-24khz", "24")]))
        name           kbit/s
        mimi              1.1
        encodec-24khz      24
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(header), *cells]
    )


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-+" or cell == "nan"


def wants_bars(args: argparse.Namespace) -> bool:
    """Whether to draw progress bars: as asked for, else when stderr is a terminal."""
    chosen: bool | None = args.progress
    return sys.stderr.isatty() if chosen is None else chosen


def debugging() -> bool:
    """Whether AUDIOTOK_DEBUG asks for tracebacks."""
    return os.environ.get("AUDIOTOK_DEBUG", "") not in ("", "0")


def for_each(
    items: Sequence[T],
    args: argparse.Namespace,
    work: Callable[[T], tuple[dict[str, Any], str]],
    name: Callable[[T], str] = str,
) -> Exit:
    """Does `work` for every item. It gives what `--json` prints and a line for people; an item that fails is
    reported with its reason, and the rest goes on."""
    bars = wants_bars(args) and len(items) > 1
    failed = 0
    for item in tqdm(items, unit="file", disable=not bars):
        try:
            facts, line = work(item)
        except (AudiotokError, OSError, RuntimeError) as error:  # RuntimeError: torch, for example out of memory
            if isinstance(error, _FATAL) or debugging():
                raise
            failed += 1
            facts = failure(name(item), error)
            if args.json:
                emit(facts)
            continue
        if args.json:
            emit(facts)
        elif not (bars or args.quiet):
            say(line)
    if failed and len(items) > 1:
        say(f"{failed} of {len(items)} failed, {len(items) - failed} done")
    return Exit.SOME_FAILED if failed else Exit.OK


def failure(name: str, error: Exception) -> dict[str, Any]:
    """Says on stderr why an item failed, and gives what `--json` prints of it."""
    known = isinstance(error, AudiotokError | OSError)
    reason = str(error) if known else f"unexpected {type(error).__name__}: {error} (AUDIOTOK_DEBUG=1 shows more)"
    say(f"failed: {reason}" if name in reason else f"failed: {name}: {reason}")
    return {"input": name, "error": {"type": type(error).__name__, "message": str(error)}}
