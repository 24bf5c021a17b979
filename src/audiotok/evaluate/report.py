"""The report of an evaluation as numbers, and its files."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import write_json
from ..errors import InputError
from ..files import atomic_write
from ..sources import Item
from ..spec import Spec
from .choosing import label_of
from .document import Section, Table, to_markdown
from .metrics import METRICS
from .rows import Row
from .study_sections import study_sections
from .tables import Cell, Line, Reason, arrow, shown

PAGE, RESULTS_CSV, ROWS_CSV, RESULTS_JSON = "report.md", "results.csv", "rows.csv", "results.json"
_MOST_LISTED = 20


@dataclass(frozen=True)
class SystemFacts:
    """What a system is.

    Attributes:
        system: as the user wrote it.
        label: for people.
        fingerprint: of a tokenizer; empty for an anchor.
        spec: of a tokenizer, with the codebooks in use; None for an anchor.
    """

    system: str
    label: str
    fingerprint: str
    spec: Spec | None

    @property
    def key(self) -> str:
        """Under which its rows are kept: another checkpoint of the same name is another system."""
        return f"{self.system} {self.fingerprint}"


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate` found.

    Attributes:
        source: label of the corpus.
        settings: how items were chosen, and the rate at which they were compared.
        items: that were chosen and could be read.
        unreadable: ids and reasons of those that could not.
        systems: in the order given.
        metrics: names.
        lines: of the tables.
        reasons: why values are missing.
        studies: by name and system, what was found beside the metrics.
    """

    source: str
    settings: dict[str, Any]
    items: int
    unreadable: dict[str, str]
    systems: list[SystemFacts]
    metrics: list[str]
    lines: list[Line]
    reasons: list[Reason]
    studies: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; infinite means are the texts "inf" and "-inf"."""
        found: dict[str, Any] = _plain(asdict(self))
        for codes in found["studies"].get("codes", {}).values():
            codes.pop("counts", None)  # of every token: for the plots
        return found

    def cell(self, system: str, metric: str, group: str) -> Cell:
        """Mean and counts of a metric in a system and group. Raises `InputError` where there is no such cell."""
        for line in self.lines:
            if (line.system, line.group) == (system, group) and metric in line.cells:
                return line.cells[metric]
        systems = ", ".join(one.system for one in self.systems)
        raise InputError(
            f"the report has no {metric} of {system} on {group}: it has {', '.join(self.metrics)} of {systems} on "
            f"{', '.join(self.groups)}"
        )

    @property
    def groups(self) -> list[str]:
        """In the order of their first items."""
        return list(dict.fromkeys(line.group for line in self.lines))

    @property
    def title(self) -> str:
        """Of the report."""
        return f"Evaluation: {self.source}"

    def sections(self) -> list[Section]:
        """What report.md and report.html have in common."""
        return [
            Section("", [_summary(self)]),
            *(_group(self, group) for group in self.groups),
            *study_sections(self.studies, {one.system: one.label for one in self.systems}),
            *_failed(self),
        ]

    def markdown(self) -> str:
        """report.md."""
        return to_markdown(self.title, self.sections())


def widest(systems: Iterable[SystemFacts]) -> list[SystemFacts]:
    """Each tokenizer once, with the most codebooks."""
    found: dict[str, SystemFacts] = {}
    for one in systems:
        if one.spec:
            before = found.setdefault(one.fingerprint, one)
            if before.spec and one.spec.num_codebooks > before.spec.num_codebooks:
                found[one.fingerprint] = one
    return list(found.values())


def save_report(
    folder: Path, report: EvaluationReport, items: Sequence[Item], rows: Mapping[str, Mapping[str, Row]], by: str
) -> None:
    """Writes the files that are the same on every run."""
    write_text(folder / PAGE, report.markdown())
    write_csv(folder / RESULTS_CSV, _result_rows(report))
    write_csv(folder / ROWS_CSV, _item_rows(report, items, rows, by))
    write_json(folder / RESULTS_JSON, report.to_dict())


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows, the header among them; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _summary(report: EvaluationReport) -> str:
    chosen = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    missing = f"; {len(report.unreadable)} could not be read" if report.unreadable else ""
    return f"{report.items} items ({chosen}){missing}."


def _group(report: EvaluationReport, group: str) -> Section:
    lines = [line for line in report.lines if line.group == group]
    head = ["system", "kbit/s measured", *(f"{METRICS[name].label} {arrow(name)}" for name in report.metrics)]
    rows = [
        [line.label, "—" if line.kbps is None else f"{line.kbps:.2f}", *(_cell(line, name) for name in report.metrics)]
        for line in lines
    ]
    units = ", ".join(f"{METRICS[name].label} in {METRICS[name].unit}" for name in report.metrics if METRICS[name].unit)
    note = "Means over items; ↑ higher is better, ↓ lower is better" + (f"; {units}." if units else ".")
    return Section(f"{group}: {lines[0].items} items", [Table(head, rows), note])


def _cell(line: Line, metric: str) -> str:
    """The mean, and how many items it lacks, if any."""
    cell = line.cells[metric]
    return shown(cell.mean) + (f" ({cell.failed} failed)" if cell.failed else "")


def _failed(report: EvaluationReport) -> list[Section]:
    sections = []
    if report.reasons:
        same: dict[tuple[str, str, int, str], list[str]] = {}
        for one in sorted(report.reasons, key=lambda one: -one.count):
            same.setdefault((one.metric, one.reason, one.count, one.example), []).append(one.system)
        lines = [
            f"{METRICS[metric].label if metric else 'coding'} of {', '.join(systems)}: {count} of {report.items} "
            f"items, such as {example}: {reason}"
            for (metric, reason, count, example), systems in same.items()
        ]
        sections.append(Section("What failed", [_beginning(lines)]))
    if report.unreadable:
        lines = [reason if name in reason else f"{name}: {reason}" for name, reason in report.unreadable.items()]
        sections.append(Section("What could not be read", [_beginning(lines)]))
    return sections


def _beginning(lines: list[str]) -> list[str]:
    """Of a long list, as much as somebody may read."""
    more = [f"... {RESULTS_JSON} has all {len(lines)}"] if len(lines) > _MOST_LISTED else []
    return lines[:_MOST_LISTED] + more


def _result_rows(report: EvaluationReport) -> Iterable[list[Any]]:
    yield [
        *("system", "label", "group", "items", "not_coded", "seconds", "kbps"),
        *(f"{name}{part}" for name in report.metrics for part in ("", "_deviation", "_items")),
    ]
    for line in report.lines:
        cells = [line.cells[name] for name in report.metrics]
        numbers = [value for cell in cells for value in (cell.mean, cell.deviation, cell.count)]
        yield [line.system, line.label, line.group, line.items, line.not_coded, line.seconds, line.kbps, *numbers]


def _item_rows(
    report: EvaluationReport, items: Sequence[Item], rows: Mapping[str, Mapping[str, Row]], by: str
) -> Iterable[list[Any]]:
    yield ["system", "item", "group", "seconds", "bits", *report.metrics, "reasons"]
    for facts in report.systems:
        for item in items:
            row = rows[facts.system][item.id]
            why = [row.unreadable, row.not_coded, *(f"{name}: {reason}" for name, reason in row.reasons.items())]
            yield [
                *(facts.system, item.id, label_of(item, by), row.seconds, row.bits),
                *(row.values.get(name) for name in report.metrics),
                "; ".join(filter(None, why)),
            ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
