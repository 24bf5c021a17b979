"""What a report says of a tokenizer's codes beside its audio: their use, what changes them, what can be learnt from
them. All of it is the same on every run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from ..codes import Codes
from ..errors import AudiotokError, InputError, MissingDependencyError
from ..sources import Item
from ..sources.base import digest
from .code_statistics import CodeStatistics
from .probe_data import LabelledCodes, with_label
from .probes import probe
from .report import SystemFacts, widest
from .robustness import code_changes, merge_changes, parity_rows
from .rows import Row, Rows
from .systems import open_system
from .token_lm import token_lm
from .work import Setting

LANGUAGE_MODEL = "lm"  # the probe that is no column
_CHANGED_ITEMS, _CHANGED_SECONDS = 10, 4.0
_PARITY_ITEMS, _PARITY_SECONDS = 3, 2.0

Studies = dict[str, dict[str, Any]]


def study_codes(rows: Rows, systems: Sequence[SystemFacts], items: Sequence[Item], progress: bool) -> Studies:
    """Under "codes": `CodeSummary` and the counts of each tokenizer's codes of all items."""
    found = {}
    for one in _bar(systems, "codes", progress):
        if one.spec is None:
            continue
        statistics = CodeStatistics(one.spec)
        for item in items:
            if codes := codes_of(rows.row(one.key, item.id), one):
                statistics.add(codes)
        found[one.system] = _or_reason(partial(_summary, statistics))
    return {"codes": found}


def study_robustness(
    rows: Rows, setting: Setting, systems: Sequence[SystemFacts], items: Sequence[Item], progress: bool
) -> Studies:
    """Under "robustness" and "parity": what `code_changes` and `parity_rows` give of the beginning of some items, for
    each tokenizer once, with the most of its codebooks that are evaluated."""
    count = min(len(items), _CHANGED_ITEMS)
    some = [items[i * len(items) // count] for i in range(count)]  # from the first to the last domain
    name = f"robustness {setting.device} {digest(item.id for item in some)}"
    found = {}
    for one in _bar(widest(systems), "robustness", progress):
        found[one.system] = _kept(rows, one, name, partial(_robustness, one, setting, some))
    return {
        part: {system: value.get(part, value) for system, value in found.items()} for part in ("robustness", "parity")
    }


def study_probes(
    rows: Rows,
    systems: Sequence[SystemFacts],
    items: Sequence[Item],
    probes: Sequence[str],
    labels: Mapping[str, str],
    progress: bool,
) -> Studies:
    """Of the codes of all items, under "probe NAME" what `probe` or, for "lm", `token_lm` gives.

    Args:
        rows: that hold the codes.
        systems: those without codes are left out.
        items: that can be read.
        probes: columns; "LABEL/GROUP" keeps items with the same value of the column GROUP on one side; or "lm".
        labels: by name, regular expressions with which `with_label` takes further columns from the path.
        progress: whether to show bars, here and above.
    """
    patterns = [f"{name}={pattern}" for name, pattern in labels.items()]
    studies: Studies = {f"probe {name}": {} for name in probes}
    for one in _bar([one for one in systems if one.spec], "probes", progress) if probes else ():
        done = rows.of(one.key)
        coded = [item for item in items if item.id in done and done[item.id].seconds]
        facts = digest([*(item.id for item in coded), *patterns])
        for name in probes:
            work = partial(_probed, rows, one, coded, name, labels)
            studies[f"probe {name}"][one.system] = _kept(rows, one, f"probe {name} {facts}", work)
    return studies


def codes_of(row: Row | None, system: SystemFacts) -> Codes | None:
    """The codes of a row, without extras; None where it has none."""
    if row is None or row.tokens is None or system.spec is None:
        return None
    tokens = torch.from_numpy(row.tokens.astype("int64"))[None]
    samples = round(row.seconds * system.spec.sample_rate)
    return Codes(tokens, torch.tensor([tokens.shape[2]]), torch.tensor([samples]), system.spec, system.fingerprint)


def _bar(systems: Sequence[SystemFacts], name: str, progress: bool) -> Iterable[SystemFacts]:
    return tqdm(systems, desc=name, unit="system", disable=not progress, leave=False)


def _summary(statistics: CodeStatistics) -> dict[str, Any]:
    try:
        summary = statistics.summary()
    except (MissingDependencyError, InputError):  # constriction, or a large codebook: the rest is still worth having
        summary = statistics.summary(adaptive=False)
    return {**summary.to_dict(), "counts": statistics.to_dict()["counts"]}


def _robustness(system: SystemFacts, setting: Setting, items: Sequence[Item]) -> dict[str, Any]:
    tokenizer = open_system(system.system, setting.device).tokenizer
    assert tokenizer is not None  # it has a spec
    spec = tokenizer.spec
    longest = round(_CHANGED_SECONDS * spec.sample_rate)
    wavs = {item.id: setting.source.read(item, spec.sample_rate, spec.channels)[:, :longest] for item in items}
    wavs = {name: wav for name, wav in wavs.items() if wav.shape[1] >= 2 * spec.hop_length}
    if not wavs:
        raise InputError(f"none of {len(items)} items is as long as two frames, {2 * spec.hop_length} samples")
    changes = merge_changes(code_changes(tokenizer, wav, key=name) for name, wav in wavs.items())
    short = round(_PARITY_SECONDS * spec.sample_rate)
    parity = parity_rows(tokenizer, [wav[:, :short] for wav in list(wavs.values())[:_PARITY_ITEMS]])
    return {"robustness": [one.to_dict() for one in changes], "parity": parity}


def _probed(
    rows: Rows, system: SystemFacts, items: Sequence[Item], name: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    pairs = [(item, codes_of(rows.row(system.key, item.id), system)) for item in items]
    if name == LANGUAGE_MODEL:
        return token_lm([codes for _, codes in pairs if codes]).to_dict()
    labelled = [LabelledCodes(codes, {"path": item.place, **item.columns}) for item, codes in pairs if codes]
    for label, pattern in labels.items():
        labelled = with_label(labelled, label, pattern)
    label, _, group = name.partition("/")
    return probe(labelled, label, group=group or None).to_dict()


def _kept(rows: Rows, system: SystemFacts, name: str, work: Callable[[], dict[str, Any]]) -> Any:
    """What was found before, or is found now and kept; a failure is not kept."""
    found = rows.study(system.key, name)
    if found is None:
        found = _or_reason(work)
        if "reason" not in found:
            rows.add_study(system.key, name, found)
    return found


def _or_reason(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums must not depend on how many there are
    try:
        return work()
    except (AudiotokError, OSError, RuntimeError) as error:
        return {"reason": " ".join(str(error).split())}
    finally:
        torch.set_num_threads(threads)
