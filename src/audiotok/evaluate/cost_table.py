"""Times, memory and sizes of every system of a report: cost.md and cost.csv, the files that differ from run to run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..errors import AudiotokError
from .cost import cores, measure_cost
from .document import Section, Table, to_markdown
from .report import SystemFacts, write_csv, write_text
from .rows import Row, Rows
from .work import Setting

PAGE, TABLE = "cost.md", "cost.csv"
_STUDY = "cost"
_COLUMNS = {
    "encode_speed": "encode, times real time",
    "decode_speed": "decode, times real time",
    "encode_speed_all_cores": "encode, {threads} threads",
    "decode_speed_all_cores": "decode, {threads} threads",
    "run_encode_speed": "encode, whole run",
    "run_decode_speed": "decode, whole run",
    "encode_megabytes": "encode, MB",
    "decode_megabytes": "decode, MB",
    "million_parameters": "parameters, M",
    "encode_giga_macs": "encode, GMAC/s",
    "decode_giga_macs": "decode, GMAC/s",
}


@dataclass(frozen=True)
class CostTable:
    """What each system costs.

    Attributes:
        clip: what was coded, for people.
        threads: of the columns of all cores.
        lines: label and numbers by column of each system; None where there is none.
        reasons: by system, why it could not be measured.
    """

    clip: str
    threads: int
    lines: dict[str, tuple[str, dict[str, float | None]]]
    reasons: dict[str, str]

    def section(self) -> Section:
        """For report.html and cost.md."""
        head = ["system", *(title.format(threads=self.threads) for title in _COLUMNS.values())]
        rows = [[label, *(_shown(numbers[name]) for name in _COLUMNS)] for label, numbers in self.lines.values()]
        note = (
            "Speeds are seconds of audio for each second of work, so that 20 is a real-time factor of 0.05: medians "
            f"over {self.clip} with one thread, and with {self.threads}; whole run: all items, each once, and beside "
            "other processes where there were some. An anchor's times have the start of its programs in them. Memory "
            "is what coding takes at its peak above the loaded tokenizer."
        )
        failed = [[f"{system}: {reason}" for system, reason in self.reasons.items()]] if self.reasons else []
        return Section("Cost", [Table(head, rows), note, *failed])

    def save(self, folder: Path) -> None:
        """Writes cost.md and cost.csv."""
        write_text(folder / PAGE, to_markdown("Cost", [Section("", self.section().content)]))
        rows = [[system, label, *numbers.values()] for system, (label, numbers) in self.lines.items()]
        write_csv(folder / TABLE, [["system", "label", *_COLUMNS], *rows])


def cost_table(
    rows: Rows,
    systems: Sequence[SystemFacts],
    found: Mapping[str, Mapping[str, Row]],
    wav: Tensor,
    setting: Setting,
    progress: bool,
) -> CostTable:
    """Measures what is not in the rows yet, on a clip [1, T]."""
    rate, threads = setting.sample_rate, cores()
    study = f"{_STUDY} {setting.device} {threads} {wav.shape[1]}"  # of another clip or device, it is another
    lines, reasons = {}, {}
    for one in tqdm(systems, desc="cost", unit="system", disable=not progress, leave=False):
        cost = rows.study(one.key, study)
        if cost is None:
            try:
                cost = asdict(measure_cost(one.system, wav, rate, device=setting.device, threads=threads))
                rows.add_study(one.key, study, cost)
            except (AudiotokError, OSError, RuntimeError) as error:
                reasons[one.system] = str(error)
        lines[one.system] = one.label, _numbers(cost or {}, found[one.system].values())
    return CostTable(f"a clip of {wav.shape[1] / rate:.1f} s", threads, lines, reasons)


def _numbers(cost: Mapping[str, Any], rows: Iterable[Row]) -> dict[str, float | None]:
    memory, macs = cost.get("memory") or {}, cost.get("macs") or {}
    one, several = cost.get("one_core") or {}, cost.get("all_cores") or {}
    parameters = cost.get("parameters")
    coded = [row for row in rows if row.seconds]
    seconds = math.fsum(row.seconds for row in coded)
    spent = [math.fsum(row.encode_seconds for row in coded), math.fsum(row.decode_seconds for row in coded)]
    numbers = (
        *(_inverse(times.get(half)) for times in (one, several) for half in ("encode", "decode")),
        *(seconds / total if total else None for total in spent),
        *(_scaled(memory.get(half), 1e6) for half in ("encode", "decode")),
        _scaled(sum(parameters.values()), 1e6) if parameters else None,
        *(_scaled(macs.get(half), 1e9) for half in ("encode", "decode")),
    )
    return dict(zip(_COLUMNS, numbers, strict=True))


def _inverse(factor: float | None) -> float | None:
    return 1 / factor if factor else None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _shown(value: float | None) -> str:
    return "—" if value is None else f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"
