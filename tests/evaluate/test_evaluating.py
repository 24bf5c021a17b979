"""A run of an evaluation: its numbers are those of the parts, whatever happens on the way."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import soundfile
import torch

import audiotok
from audiotok.errors import AudiotokError, InputError
from audiotok.evaluate import evaluating, work
from audiotok.evaluate.evaluating import evaluate
from audiotok.evaluate.metrics import METRICS, Example
from audiotok.evaluate.rows import Rows
from audiotok.evaluate.systems import open_system
from audiotok.evaluate.work import Setting, Task, Todo, run_tasks
from audiotok.sources import open_source

SAME = ("report.md", "results.csv", "rows.csv", "results.json")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
QUICK = {"metrics": ["mel_distance", "stoi"], "progress": False, "num_examples": 0, "cost": False, "robustness": False}
AND_SAYS_SO = """
import json, sys
from audiotok.evaluate import evaluating
class Rows(evaluating.Rows):
    def add(self, *rows):
        super().add(*rows)
        print("rows", flush=True)
evaluating.Rows = Rows
*given, options = json.loads(sys.argv[1])
evaluating.evaluate(*given, **options)
"""


@pytest.fixture(scope="module")
def corpus(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 0.8 s of three voices and music, of a file that is no audio, and of digital silence."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for name in ("speech_en_1", "speech_fr_2", "speech_it_2", "music_16k_1"):
        wav, rate = audiotok.audio.load(next(clip for clip in clips if clip.stem == name), start=0.5, end=1.3)
        soundfile.write(folder / f"{name}.flac", wav[0].numpy(), rate)
        domain, language, _ = name.split("_")
        rows.append({"path": f"{name}.flac", "domain": domain, "language": language})
    (folder / "broken.flac").write_bytes(b"no audio")
    soundfile.write(folder / "silence.wav", torch.zeros(12800).numpy(), 16000)
    rows += [{"path": "broken.flac", "domain": "speech"}, {"path": "silence.wav", "domain": "speech"}]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "all.jsonl"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


def test_rows_and_means_are_those_of_the_parts(corpus, tmp_path):
    given = {**QUICK, "metrics": ["si_snr", "stoi"]}
    report = evaluate(["default:2", "original"], corpus, tmp_path, where={"domain": "speech"}, **given)
    system = open_system("default:2")
    found = {row["item"]: row for row in table(tmp_path / "rows.csv") if row["system"] == "default:2"}
    assert list(found) == ["speech_en_1.flac", "speech_fr_2.flac", "speech_it_2.flac", "broken.flac", "silence.wav"]
    wanted, bits = [], 0.0
    for name in list(found)[:3]:
        wav, rate = audiotok.audio.load(corpus.parent / name)
        outcome = system.run(wav, rate)
        example = Example(wav[0], outcome.wav[0], rate)
        wanted.append([METRICS[metric].measure(example) for metric in ("si_snr", "stoi")])
        bits += outcome.bits
        assert [float(found[name][metric]) for metric in ("si_snr", "stoi")] == wanted[-1]
        assert float(found[name]["bits"]) == outcome.bits
    bits += system.run(torch.zeros(1, 12800), 16000).bits
    means = [sum(column) / 3 for column in zip(*wanted, strict=True)]
    line = next(line for line in report.lines if line.system == "default:2")
    assert [line.cells[metric].mean for metric in ("si_snr", "stoi")] == pytest.approx(means, rel=1e-12)
    assert line.kbps == pytest.approx(bits / (4 * 0.8) / 1000)
    assert report.cell("original", "si_snr", "speech").mean == float("inf")


def test_what_fails_is_a_reason_in_the_report(corpus, tmp_path):
    report = evaluate(["default:1"], corpus, tmp_path, **{**QUICK, "metrics": ["stoi", "pesq_wb"]})
    assert list(report.unreadable) == ["broken.flac"]
    assert report.items == 5
    cell = report.cell("default:1", "stoi", "speech")
    assert (cell.count, cell.failed) == (3, 1)
    reasons = {(one.metric, one.count, one.example, one.reason) for one in report.reasons}
    assert ("stoi", 1, "silence.wav", "the reference is silent") in reasons
    text = (tmp_path / "report.md").read_text()
    assert f"{cell.mean:.3f} (1 failed)" in text
    assert "- STOI of default:1: 1 of 5 items, such as silence.wav: the reference is silent\n" in text
    assert "## What could not be read" in text
    assert "broken.flac" in text.split("## What could not be read")[1]
    silent = next(row for row in table(tmp_path / "rows.csv") if row["item"] == "silence.wav")
    assert silent["stoi"] == ""
    assert "stoi: the reference is silent" in silent["reasons"]


def test_any_number_of_processes_writes_the_same_files(corpus, tmp_path):
    for count in (1, 2):
        evaluate(["default:1", "opus:6"], corpus, tmp_path / str(count), num_processes=count, **QUICK)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_killed_run_goes_on_to_the_same_files(corpus, tmp_path):
    systems = ["default", "default:4", "default:2", "default:1"]
    evaluate(systems, corpus, tmp_path / "whole", **QUICK)
    command = [sys.executable, "-c", AND_SAYS_SO, json.dumps([systems, str(corpus), str(tmp_path / "killed"), QUICK])]
    with subprocess.Popen(command, env=QUIET, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["rows\n"] * 3
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with closing(Rows(tmp_path / "killed")) as rows:
        keys = [f"{text} {open_system(text).tokenizer.fingerprint}" for text in systems]
        done = sum(len(rows.of(key)) for key in keys)
    assert 0 < done < 4 * 6
    evaluate(systems, corpus, tmp_path / "killed", **QUICK)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_killed_process_is_an_error_that_says_how_to_go_on(corpus):
    source = open_source(corpus)
    todo = tuple(Todo(item, ("stoi",), False) for item in source.items())
    setting = Setting(source, ("default:1",), 16000, "cpu", 0)
    results = run_tasks(setting, [Task(0, todo)] * 40, 2)
    next(results)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(AudiotokError, match="a process of the evaluation was killed, .* run again to go on"):
        list(results)


def test_only_what_is_missing_is_computed(corpus, tmp_path, monkeypatch):
    ran = []
    real = work.open_system

    def counted(text: str, device: str):
        system = real(text, device)
        run = system.run
        monkeypatch.setattr(system, "run", lambda wav, rate: (ran.append(text), run(wav, rate))[1])
        return system

    monkeypatch.setattr(work, "open_system", counted)
    given = {**QUICK, "where": {"language": ["en", "fr"]}}
    evaluate(["default:1"], corpus, tmp_path / "grown", **{**given, "metrics": ["stoi"]})
    assert ran == ["default:1"] * 2
    evaluate(["default:1"], corpus, tmp_path / "grown", **{**given, "metrics": ["stoi"]})
    assert ran == ["default:1"] * 2
    evaluate(["original", "default:1"], corpus, tmp_path / "grown", **given)
    assert ran[2:] == ["original"] * 2 + ["default:1"] * 2
    evaluate(["original", "default:1"], corpus, tmp_path / "whole", **given)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_another_checkpoint_of_the_same_name_is_measured_anew(corpus, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {**QUICK, "where": {"language": "en"}}
    audiotok.load().save("run")
    first = evaluate(["./run:1"], corpus, "out", **given).cell("./run:1", "stoi", "speech")
    shutil.rmtree("run")
    small.save("run")
    second = evaluate(["./run:1"], corpus, "out", **given).cell("./run:1", "stoi", "speech")
    alone = evaluate(["./run:1"], corpus, "alone", **given).cell("./run:1", "stoi", "speech")
    assert second == alone != first


def test_a_system_that_fails_on_every_item_does_not_stop_the_others(corpus, tmp_path, monkeypatch):
    real = work.open_system

    def failing(text: str, device: str):
        system = real(text, device)
        if text == "default:1":
            monkeypatch.setattr(system, "run", lambda wav, rate: (_ for _ in ()).throw(RuntimeError("out of\nmemory")))
        return system

    monkeypatch.setattr(work, "open_system", failing)
    report = evaluate(["default:1", "original"], corpus, tmp_path, where={"language": "fr"}, **QUICK)
    broken, whole = report.lines
    assert (broken.items, broken.not_coded, broken.kbps, broken.cells["stoi"].mean) == (1, 1, None, None)
    assert (whole.not_coded, round(whole.cells["stoi"].mean, 6)) == (0, 1.0)
    assert "| logmel-16khz, 1 of 8 codebooks | — | — (1 failed) | — (1 failed) |" in report.markdown()
    assert "- coding of default:1: 1 of 1 items, such as speech_fr_2.flac: out of memory" in report.markdown()


def test_a_folder_is_of_one_source_rate_and_seed(corpus, clips, tmp_path):
    given = {**QUICK, "where": {"language": "en"}}
    evaluate(["original"], corpus, tmp_path, **given)
    with pytest.raises(InputError, match="holds an evaluation with another sample_rate, seed: use the same, or a new"):
        evaluate(["original"], corpus, tmp_path, sample_rate=8000, seed=1, **given)
    with pytest.raises(InputError, match="holds an evaluation with another source"):
        evaluate(["original"], clips[:2], tmp_path, **QUICK)
    with pytest.raises(InputError, match="holds an evaluation already: resume it, or use a new folder"):
        evaluate(["original"], corpus, tmp_path, resume=False, **given)
    with closing(Rows(tmp_path)), pytest.raises(InputError, match="another evaluation is writing"):
        evaluate(["original"], corpus, tmp_path, **given)


@pytest.mark.parametrize(
    ("systems", "given", "message"),
    [
        ("default", {}, "wanted a list of systems"),
        ([], {}, "wanted a list of systems"),
        (["original", "original"], {}, "original is named twice"),
        (["original"], {"metrics": ["loudness"]}, "there is no metric loudness: choose of .*stoi"),
        (["original"], {"limit": 0}, "limit must be at least 1, not 0"),
        (["original"], {"num_processes": 0}, "num_processes must be at least 1"),
        (["original"], {"longer_than": -1.0}, "longer_than must be seconds from 0"),
        (["original"], {"where": {"mood": "sad"}}, "has a column 'mood'; there are domain, language"),
        (["original"], {"where": {"language": "xx"}}, "no item of .* is left: language=xx"),
        (["origina"], {}, "origina"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(corpus, tmp_path, systems, given, message):
    with pytest.raises(InputError, match=message):
        evaluate(systems, corpus, tmp_path / "out", **{**QUICK, **given})


def test_default_metrics_are_those_without_needs():
    chosen = evaluating._checked(["original"], None, None, 0.0, 16000, 1)
    assert {"si_snr", "stoi", "estoi", "pesq_wb"} <= set(chosen)
    assert all(METRICS[name].needs == "" for name in chosen)
