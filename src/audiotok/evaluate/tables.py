"""Means over items: a line for each system and group of items, a cell for each metric."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..sources import Item
from .choosing import label_of
from .metrics import METRICS
from .rows import Row


@dataclass(frozen=True)
class Cell:
    """Mean of a metric.

    Attributes:
        mean: over the items that have a value; None where none has.
        deviation: standard deviation of the items' values; None where fewer than two have one.
        count: items that have a value.
        failed: items that were coded and lack one, or could not be coded.
    """

    mean: float | None
    deviation: float | None
    count: int
    failed: int


@dataclass(frozen=True)
class Line:
    """What became of a group of items in a system.

    Attributes:
        system: as the user wrote it.
        label: for people.
        group: of items, such as "speech".
        items: whose audio can be read.
        not_coded: of these, those that the system failed on.
        seconds: of audio coded.
        kbps: kilobits per second that were sent, on the average; None where nothing was coded.
        cells: by metric.
    """

    system: str
    label: str
    group: str
    items: int
    not_coded: int
    seconds: float
    kbps: float | None
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Reason:
    """Why a metric (or, if empty, the system itself) failed on some items, and one of them."""

    system: str
    metric: str
    reason: str
    count: int
    example: str


def lines_of(
    systems: Sequence[tuple[str, str, Mapping[str, Row]]], items: Sequence[Item], metrics: Sequence[str], by: str
) -> list[Line]:
    """A line for each group, in the order of their first items, and system, as given.

    Args:
        systems: text, label and rows by item.
        items: that can be read.
        metrics: names.
        by: column that groups items.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(label_of(item, by), []).append(item)
    return [
        _line(text, label, group, [rows[item.id] for item in members], metrics)
        for group, members in groups.items()
        for text, label, rows in systems
    ]


def reasons_of(
    systems: Iterable[tuple[str, Mapping[str, Row]]], items: Sequence[Item], metrics: Sequence[str]
) -> list[Reason]:
    """Why values are missing, the most frequent reasons of each metric first."""
    found = []
    for text, rows in systems:
        for metric in ("", *metrics):
            given = [(_missing(rows[item.id], metric), item.id) for item in items]
            counts = Counter(reason for reason, _ in given if reason)
            first = dict(reversed(given))
            found += [Reason(text, metric, reason, n, first[reason]) for reason, n in counts.most_common()]
    return found


def shown(value: float | None) -> str:
    """A mean as tables show it: three digits that count, an em dash where there is none.

    Example:
        >>> shown(2.4136), shown(-12.345), shown(0.70618), shown(math.inf), shown(None)
        ('2.41', '-12.3', '0.706', '∞', '—')
    """
    if value is None:
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    digits = 3 if abs(value) < 1.0005 else 2 if abs(value) < 9.995 else 1
    return f"{value:.{digits}f}"


def arrow(metric: str) -> str:
    """Which way is better."""
    return "↑" if METRICS[metric].better == "higher" else "↓"


def _line(text: str, label: str, group: str, rows: Sequence[Row], metrics: Sequence[str]) -> Line:
    coded = [row for row in rows if row.seconds]
    seconds = math.fsum(row.seconds for row in coded)
    return Line(
        system=text,
        label=label,
        group=group,
        items=len(rows),
        not_coded=len(rows) - len(coded),
        seconds=seconds,
        kbps=math.fsum(row.bits for row in coded) / seconds / 1000 if seconds else None,
        cells={metric: _cell([row.values.get(metric) for row in rows]) for metric in metrics},
    )


def _cell(given: Sequence[float | None]) -> Cell:
    values = [value for value in given if value is not None]
    if not values:
        return Cell(None, None, 0, len(given))
    finite = all(map(math.isfinite, values))
    mean = math.fsum(values) / len(values) if finite else sum(values) / len(values)
    deviation = statistics.stdev(values) if finite and len(values) > 1 else None
    return Cell(mean if mean == mean else None, deviation, len(values), len(given) - len(values))


def _missing(row: Row, metric: str) -> str:
    """The reason; empty where nothing is missing, or the system's own failure says it already."""
    return row.not_coded if metric == "" else row.reasons.get(metric, "")
