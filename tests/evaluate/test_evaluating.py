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
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

import audiotok
from audiotok.errors import AudiotokError, InputError
from audiotok.evaluate import work
from audiotok.evaluate.anchors import Original
from audiotok.evaluate.arguments import metric_names
from audiotok.evaluate.evaluating import evaluate
from audiotok.evaluate.metrics import METRICS, Example
from audiotok.evaluate.rows import Rows
from audiotok.evaluate.systems import Outcome, System, open_system, size_in_bits
from audiotok.evaluate.work import Setting, Task, Todo, Worker, run_tasks
from audiotok.sources import open_source

ENCODER = Path(__file__).parents[1] / "fixtures" / "textless-hubert-km" / "base-layer6"
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


class Noise(System):
    """Draws what it gives back, and notes how many threads it had."""

    def __init__(self) -> None:
        super().__init__("noise", "noise")
        self.threads: list[int] = []

    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        self.threads.append(torch.get_num_threads())
        return Outcome(torch.rand(wav.shape), 1.0, 0.0, 0.0)


@pytest.fixture
def noise(monkeypatch) -> Noise:
    system = Noise()
    monkeypatch.setattr(work, "open_system", lambda text, device: system)
    return system


def test_a_decoder_that_draws_draws_the_same_for_an_item_whenever_it_comes(corpus, noise):
    source = open_source(corpus)
    todo = tuple(Todo(item, ("snr",), False) for item in list(source.items())[:4])

    def found(todo: tuple[Todo, ...], seed: int = 0) -> dict[str, float]:
        rows = Worker(Setting(source, ("noise",), 16000, "cpu", seed))(Task(0, todo))
        return {row.item: row.values["snr"] for row in rows}

    before = torch.get_rng_state()
    first = found(todo)
    assert found(todo[::-1]) == found(todo[1:]) | found(todo[:1]) == first
    assert all(value != first[item] for item, value in found(todo, seed=1).items())
    assert torch.equal(torch.get_rng_state(), before)


def test_items_do_not_share_what_is_drawn(corpus, noise):
    """Of two that hold the same audio, too."""
    source = open_source(corpus)
    item = next(source.items())
    worker = Worker(Setting(source, ("noise",), 16000, "cpu", 0))
    rows = worker(Task(0, tuple(Todo(replace(item, id=name), ("snr",), False) for name in ("a", "b"))))
    assert rows[0].values["snr"] != rows[1].values["snr"]


def test_work_is_done_with_one_thread(corpus, noise, monkeypatch):
    source, before = open_source(corpus), torch.get_num_threads()
    setting = Setting(source, ("noise",), 16000, "cpu", 0)
    task = Task(0, (Todo(next(source.items()), (), False),))
    monkeypatch.setattr(work, "live_with", lambda parent: None)
    monkeypatch.setattr(work, "_worker", None)
    try:
        torch.set_num_threads(2)
        list(run_tasks(setting, [task], 1))
        assert torch.get_num_threads() == 2
        work._start(setting, 0)
        work._work(task)
    finally:
        torch.set_num_threads(before)
    assert noise.threads == [1, 1]


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


def test_folders_of_one_name_are_told_apart(corpus, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        small.save(Path(name) / "run")
    report = evaluate(["./one/run", "./two/run", "./two/run:1"], corpus, "out", where={"language": "en"}, **QUICK)
    labels = ["run (./one/run)", "run (./two/run)", "run, 1 of 3 codebooks"]
    assert [one.label for one in report.systems] == [line.label for line in report.lines] == labels


def test_a_tokenizer_that_only_encodes_is_judged_by_its_codes(corpus, tmp_path):
    encoder = audiotok.convert("ssl-kmeans", ENCODER / "hubert", kmeans={6: ENCODER / "km.bin"}, normalize=False)
    encoder.save(tmp_path / "units")
    given = {**QUICK, "robustness": True, "where": {"language": ["en", "fr"]}, "num_examples": 1}
    report = evaluate([f"{tmp_path}/units"], corpus, tmp_path / "out", probes=["language"], **given)
    (line,) = report.lines
    codes = [encoder.encode_file(corpus.parent / f"speech_{name}.flac") for name in ("en_1", "fr_2")]
    assert (line.items, line.not_coded, line.cells["stoi"].failed) == (2, 0, 2)
    assert line.kbps == pytest.approx(sum(map(size_in_bits, codes)) / 1600)
    assert {one.reason for one in report.reasons} == {
        f"{encoder.spec.name} only encodes: there is no audio of it to compare"
    }
    found = {name: value[f"{tmp_path}/units"] for name, value in report.studies.items()}
    assert found["codes"]["frames"] == sum(int(one.lengths[0]) for one in codes)
    assert [change["share"] >= 0 for change in found["robustness"]] == [True] * 9


def test_an_item_that_cannot_be_read_any_more_is_a_reason_and_not_compared(corpus, tmp_path):
    shutil.copytree(corpus.parent, tmp_path / "data")
    data, given = tmp_path / "data" / "all.jsonl", {**QUICK, "where": {"language": ["en", "fr"]}}
    evaluate(["original"], data, tmp_path / "out", **given)
    (tmp_path / "data" / "speech_fr_2.flac").unlink()
    report = evaluate(["original", "default:1"], data, tmp_path / "out", **given)
    assert (report.items, list(report.unreadable)) == (1, ["speech_fr_2.flac"])
    assert [line.items for line in report.lines] == [1, 1]
    shutil.copy(corpus.parent / "speech_fr_2.flac", tmp_path / "data")
    report = evaluate(["original", "default:1"], data, tmp_path / "out", **given)
    assert (report.items, report.unreadable, report.reasons) == (2, {}, [])


def test_a_failure_of_a_later_run_is_in_its_report_and_tried_again(corpus, tmp_path, monkeypatch):
    given = {**QUICK, "where": {"language": "fr"}, "metrics": ["stoi"]}
    first = evaluate(["original"], corpus, tmp_path, **given)
    with monkeypatch.context() as patch:
        patch.setattr(Original, "_run", lambda *_: (_ for _ in ()).throw(ValueError("no luck")))
        report = evaluate(["original"], corpus, tmp_path, **{**given, "metrics": ["stoi", "snr"]})
    assert [(one.metric, one.reason) for one in report.reasons] == [("", "no luck")]
    assert (report.cell("original", "snr", "speech").failed, report.cell("original", "stoi", "speech").failed) == (1, 0)
    again = evaluate(["original"], corpus, tmp_path, **given)
    assert (again.lines, again.reasons) == (first.lines, [])


def test_a_metric_that_breaks_in_its_package_is_a_reason(corpus, tmp_path, monkeypatch):
    def broken(example: Example) -> float:
        raise IndexError("index 3 is\nout of bounds")

    monkeypatch.setitem(METRICS, "stoi", replace(METRICS["stoi"], formula=broken))
    report = evaluate(["original"], corpus, tmp_path, where={"language": "fr"}, **QUICK)
    assert [one.reason for one in report.reasons] == ["STOI failed with IndexError: index 3 is out of bounds"]
    assert report.cell("original", "mel_distance", "speech").mean == 0


def test_a_script_without_a_main_block_is_told_so(corpus, tmp_path):
    """Its worker processes run it again, and find the folder taken."""
    code = "from audiotok.evaluate import evaluate\n"
    code += f"evaluate(['original'], {str(corpus)!r}, {str(tmp_path / 'out')!r}, **{ {**QUICK, 'num_processes': 2} })\n"
    (tmp_path / "script.py").write_text(code)
    found = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=QUIET, capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    assert found.stderr.rstrip().endswith("evaluate() must be called under if __name__ == '__main__':")


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
    assert f"| {audiotok.DEFAULT}, 1 of 8 codebooks | — | — (1 failed) | — (1 failed) |" in report.markdown()
    assert "- coding of default:1: 1 of 1 items, such as speech_fr_2.flac: out of memory" in report.markdown()


def test_a_folder_is_of_one_source_rate_seed_and_kind_of_device(corpus, clips, tmp_path):
    given = {**QUICK, "where": {"language": "en"}}
    evaluate(["original"], corpus, tmp_path, **given)
    with pytest.raises(InputError, match="holds an evaluation with another sample_rate, seed: use the same, or a new"):
        evaluate(["original"], corpus, tmp_path, sample_rate=8000, seed=1, **given)
    with pytest.raises(InputError, match="holds an evaluation with another device"):
        evaluate(["original"], corpus, tmp_path, device="cuda:1", **given)
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
        (["original"], {"sample_rate": 0}, "sample_rate must be 1 to 655350 Hz, not 0"),
        (["original"], {"sample_rate": 700_000}, "sample_rate must be 1 to 655350 Hz, not 700000"),
        (["original"], {"num_processes": 0}, "num_processes must be at least 1"),
        (["original"], {"longer_than": -1.0}, "longer_than must be seconds from 0"),
        (["original"], {"num_examples": -1}, "num_examples must be at least 0, not -1"),
        (["original"], {"metrics": "stoi"}, "wanted a list of metrics .*, not 'stoi'"),
        (["original"], {"probes": "speaker"}, "wanted a list of probes .*, not 'speaker'"),
        (["original"], {"labels": {"word": "("}}, "the pattern of label 'word' is no regular expression: .*: \\($"),
        (["original"], {"where": {"mood": "sad"}}, "has a column 'mood'; there are domain, language"),
        (["original"], {"where": {"language": "xx"}}, "no item of .* is left: language=xx"),
        (["origina"], {}, "origina"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(corpus, tmp_path, systems, given, message):
    with pytest.raises(InputError, match=message):
        evaluate(systems, corpus, tmp_path / "out", **{**QUICK, **given})


def test_default_metrics_are_those_without_needs():
    chosen = metric_names(None)
    assert {"si_snr", "stoi", "estoi", "pesq_wb"} <= set(chosen)
    assert all(METRICS[name].needs == "" for name in chosen)
    assert metric_names(["stoi", "sdr", "stoi"]) == ["sdr", "stoi"]
