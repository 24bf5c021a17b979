"""`evaluate`: tokenizers and classical codecs through the same audio and the same measures."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..files import remove_unfinished
from ..sources import Item, Source, open_source
from .arguments import check_numbers, check_probes, check_systems, metric_names
from .choosing import choose, choose_examples
from .cost_table import cost_table
from .document import section_html
from .page import Heard, write_page
from .report import EvaluationReport, SystemFacts, save_report
from .rows import Row, Rows
from .studies import study_codes, study_probes, study_robustness
from .systems import open_system
from .tables import lines_of, reasons_of
from .work import Setting, Task, Todo, flac_of, run_tasks

_CLIP_SECONDS = 10.0  # to measure costs on
_ITEMS_TOGETHER = 4  # of a task: few enough to be lost with a killed run


def evaluate(
    systems: Sequence[str],
    source: Any,
    out: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    longer_than: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    by: str = "domain",
    sample_rate: int = 16000,
    num_examples: int = 3,
    num_processes: int = 1,
    cost: bool = True,
    robustness: bool = True,
    probes: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    device: str = "cpu",
    resume: bool = True,
    progress: bool = True,
) -> EvaluationReport:
    """Sends audio through tokenizers and classical codecs, measures what comes out, and writes a report.

    A run that ends early, in whatever way, goes on where it stopped when it is called again with the same source and
    folder; so does one with more systems, metrics or items. What failed is tried again. Numbers are the same whatever
    the number of processes; only times differ, which have files of their own.

    Args:
        systems: what `open_system` takes: "default", "mimi:8", "./run:4", "opus:6", "codec2:3200", "original".
        source: what `audiotok.sources.open_source` takes: a folder, a list of files, a manifest, ...
        out: folder for the report: report.md, report.html, results.csv (means), rows.csv (items), results.json,
            cost.md, cost.csv and rows.sqlite; made if need be.
        metrics: names in `audiotok.evaluate.METRICS`; None takes those that need neither network nor labels.
        where: only items whose column has this text, or one of these.
        longer_than: only items of more than so many seconds.
        limit: only so many items, drawn at random.
        seed: of the draw, and of decoders that draw noise.
        by: column of the source that groups items in the tables.
        sample_rate: at which audio is compared, in Hz; a system with another rate resamples at its own cost.
        num_examples: items to see and hear in report.html.
        num_processes: that share the work, of one thread each; 1 works in this one. With more, a script that calls this
            needs `if __name__ == "__main__":` around it, since the processes import it.
        cost: whether to measure times, memory and sizes, some ten seconds for each system.
        robustness: whether to measure what changes codes, some ten seconds for each tokenizer.
        probes: what small models are to learn from tokens: columns of the source such as "speaker"; "language/speaker",
            with items of one speaker all in training or all held out; "lm", the tokens to come.
        labels: regular expressions, by the name of a column for probes that they find in an item's path.
        device: of tokenizers.
        resume: False refuses a folder that holds an evaluation.
        progress: whether to show a bar.

    Returns:
        The report as numbers.

    Raises:
        InputError: an unknown metric, an argument out of range, nothing to evaluate, or a folder of another source.
        CheckpointError, HubError, PluginError, MissingDependencyError: a system cannot be opened; CheckpointError, too,
            where rows.sqlite is broken. OSError: the folder cannot be written. AudiotokError: a process was killed.

    Example:
        report = evaluate(["default", "default:4", "opus:6"], "corpus/test.jsonl", "report", where={"domain": "speech"})
        print(report.markdown())
    """
    check_systems(systems)
    names = metric_names(metrics)
    check_numbers(
        longer_than=longer_than,
        num_examples=num_examples,
        limit=limit,
        sample_rate=sample_rate,
        num_processes=num_processes,
    )
    check_probes(probes, labels or {})
    opened = open_source(source)
    items = choose(opened, where or {}, longer_than=longer_than, limit=limit, seed=seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Rows(folder)) as rows:
        _begin(rows, opened, sample_rate, seed, device, resume)
        remove_unfinished(folder)
        facts = _told_apart([_facts_of(text, device) for text in systems])
        setting = Setting(opened, tuple(systems), sample_rate, device, seed)
        examples = choose_examples(items, by, num_examples, seed)
        tasks = _plan(rows, facts, items, names, {item.id for item in examples})
        _work(rows, setting, facts, tasks, num_processes, progress)
        found = {one.system: rows.of(one.key) for one in facts}
        unreadable = _unreadable(items, found)
        good = [item for item in items if item.id not in unreadable]
        studies = study_codes(rows, facts, good, progress)
        if robustness:
            studies |= study_robustness(rows, setting, facts, good, progress)
        studies |= study_probes(rows, facts, good, probes, labels or {}, progress)
        report = EvaluationReport(
            source=opened.label,
            settings=_settings(where or {}, longer_than, limit, seed, sample_rate),
            items=len(good),
            unreadable=unreadable,
            systems=facts,
            metrics=names,
            lines=lines_of([(one.system, one.label, found[one.system]) for one in facts], good, names, by),
            reasons=reasons_of([(one.system, found[one.system]) for one in facts], good, names),
            studies=studies,
        )
        save_report(folder, report, items, found, by)
        more = []
        if cost:
            costs = cost_table(rows, facts, found, _clip(opened, good, sample_rate), setting, progress)
            costs.save(folder)
            more.append(section_html(costs.section()))
        write_page(folder, report, _heard(rows, setting, facts, examples), more)
        return report


def _begin(rows: Rows, source: Source, sample_rate: int, seed: int, device: str, resume: bool) -> None:
    """Writes down what rows depend on beside systems and items, or checks that it is the same."""
    kind = device.partition(":")[0]  # whose arithmetic the numbers are of
    wanted = {"source": source.identity(), "sample_rate": sample_rate, "seed": seed, "device": kind}
    folder = rows.path.parent
    if rows.fact("run") is None:
        rows.set_fact("run", wanted)
    elif not resume:
        raise InputError(f"{folder} holds an evaluation already: resume it, or use a new folder")
    elif (before := {"device": "cpu", **rows.fact("run")}) != wanted:  # which older ones do not name
        names = ", ".join(name for name, value in wanted.items() if before.get(name) != value)
        raise InputError(f"{folder} holds an evaluation with another {names}: use the same, or a new folder")


def _facts_of(text: str, device: str) -> SystemFacts:
    system = open_system(text, device)
    if system.tokenizer is None:
        return SystemFacts(text, system.label, "", None)
    return SystemFacts(text, system.label, system.tokenizer.fingerprint, system.tokenizer.spec)


def _told_apart(systems: Sequence[SystemFacts]) -> list[SystemFacts]:
    """With what the user wrote behind a label that others have, too: ./a/run and ./b/run are both "run"."""
    counts = Counter(one.label for one in systems)
    return [one if counts[one.label] == 1 else replace(one, label=f"{one.label} ({one.system})") for one in systems]


def _plan(
    rows: Rows, systems: Sequence[SystemFacts], items: Sequence[Item], metrics: Sequence[str], examples: set[str]
) -> list[Task]:
    """What is not there yet, system by system, so that a process has few of them open."""
    tasks = []
    for number, system in enumerate(systems):
        done, heard = rows.of(system.key), rows.with_audio(system.key)
        todo = []
        for item in items:
            row = done.get(item.id)
            lacking = tuple(name for name in metrics if row is None or name not in row.values)
            keep = item.id in examples and item.id not in heard
            if lacking or keep or row is None or row.unreadable or row.not_coded:
                todo.append(Todo(item, lacking, keep))
        tasks += [Task(number, tuple(todo[i : i + _ITEMS_TOGETHER])) for i in range(0, len(todo), _ITEMS_TOGETHER)]
    return tasks


def _work(
    rows: Rows, setting: Setting, systems: Sequence[SystemFacts], tasks: Sequence[Task], processes: int, progress: bool
) -> None:
    total = sum(len(task.todo) for task in tasks)
    with (
        tqdm(total=total, desc="evaluating", unit="item", disable=not progress) as bar,
        closing(run_tasks(setting, tasks, processes)) as results,
    ):
        for task, found in results:
            rows.add(systems[task.system].key, found)
            bar.set_postfix_str(systems[task.system].system, refresh=False)
            bar.update(len(found))


def _heard(rows: Rows, setting: Setting, systems: Sequence[SystemFacts], items: Sequence[Item]) -> list[Heard]:
    """Items with their own beginning and what is left of it in each system that could code them."""
    heard = []
    for item in items:
        sounds = {one.label: flac for one in systems if (row := rows.row(one.key, item.id)) and (flac := row.flac)}
        if sounds:
            wav = setting.source.read(item, setting.sample_rate, 1)
            sounds = {"the audio itself": flac_of(wav, setting.sample_rate)} | sounds
            heard.append(Heard(item.id, list(sounds), list(sounds.values())))
    return heard


def _clip(source: Source, items: Sequence[Item], sample_rate: int) -> Tensor:
    """[1, T] of real audio, ten seconds if the items' beginnings have as much."""
    wanted, parts = round(_CLIP_SECONDS * sample_rate), [torch.zeros(1, 0)]
    for item in items:
        parts.append(source.read(item, sample_rate, 1)[:, : wanted - sum(part.shape[1] for part in parts)])
        if sum(part.shape[1] for part in parts) >= wanted:
            break
    return torch.cat(parts, 1)


def _settings(
    where: Mapping[str, str | Sequence[str]], longer_than: float, limit: int | None, seed: int, sample_rate: int
) -> dict[str, Any]:
    given: dict[str, Any] = {
        name: values if isinstance(values, str) else "|".join(values) for name, values in where.items()
    }
    if longer_than > 0:
        given["longer than"] = f"{longer_than:g} s"
    if limit is not None:
        given["sample of"] = f"{limit}, seed {seed}"
    return given | {"compared at": f"{sample_rate} Hz"}


def _unreadable(items: Sequence[Item], found: Mapping[str, Mapping[str, Row]]) -> dict[str, str]:
    """Reasons by item. One that could not be read for a single system compares none of them."""
    reasons = {
        item.id: [row.unreadable for rows in found.values() if (row := rows[item.id]).unreadable] for item in items
    }
    return {name: some[0] for name, some in reasons.items() if some}
