import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import audiotok

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
QUICK = ("--metrics", "stoi", "mel_distance", "--no-cost", "--no-robustness", "--examples", "0", "--num-processes", "1")
SAME = ("report.md", "results.csv", "rows.csv", "results.json")


@pytest.fixture
def data(clip, tmp_path):
    """A manifest of two pieces of one clip, 1 s and 1.5 s."""
    rows = [
        {"path": str(clip), "start": 0, "end": 1, "id": "short", "speaker": "a", "domain": "speech"},
        {"path": str(clip), "start": 1, "end": 2.5, "id": "long", "speaker": "b", "domain": "speech"},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data.jsonl"


def rows(out):
    with (out / "rows.csv").open(newline="") as file:
        return {(row["system"], row["item"]): row for row in csv.DictReader(file)}


def test_prints_the_report_that_it_writes(run, model, data, tmp_path):
    out = tmp_path / "out"
    result = run("eval", f"{model}:2", "original", "--data", data, "--out", out, *QUICK)
    assert result.code == 0
    assert result.text == (out / "report.md").read_text()
    assert result.err == f"{out}: 2 items in 2 systems; report.md and report.html are the report\n"
    assert "## speech: 2 items" in result.text
    assert "| tok, 2 of 3 codebooks | 0.5" in result.text  # 2 x 5 bits, 50 times a second
    assert list(rows(out)) == [(s, i) for s in (f"{model}:2", "original") for i in ("short", "long")]
    page = (out / "report.html").read_text()
    assert "speech: 2 items" in page
    assert not (out / "cost.md").exists()


def test_json_has_the_same_numbers(run, data, tmp_path):
    result = run("eval", "original", "--data", data, "--out", tmp_path / "out", "--json", *QUICK)
    document = dict(result.json)
    assert document.pop("output") == str(tmp_path / "out")
    assert document == json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["lines"][0]["cells"]["mel_distance"]["mean"] == 0.0


def test_items_are_filtered(run, data, tmp_path):
    options = (
        "--where",
        "speaker=b",
        "speaker=c",
        "domain=speech",
        "--longer-than",
        "1.2",
        "--by",
        "speaker",
        "--quiet",
    )
    result = run("eval", "original", "--data", data, "--out", tmp_path / "out", *options, *QUICK)
    assert (result.code, result.err) == (0, "")
    assert [item for _, item in rows(tmp_path / "out")] == ["long"]
    assert "1 items (speaker b|c, domain speech, longer than 1.2 s, compared at 16000 Hz)." in result.text
    assert "## b: 1 items" in result.text


def test_an_option_that_is_given_twice_adds_up(run, data, tmp_path):
    options = ("--where", "speaker=b", "--where", "domain=speech", "--metrics", "snr", "--probe", "speaker")
    result = run("eval", "original", "--data", data, "--out", tmp_path / "out", *options, "--probe", "lm", *QUICK)
    assert "1 items (speaker b, domain speech, compared at 16000 Hz)." in result.text
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["metrics"] == ["snr", "mel_distance", "stoi"]
    assert {"probe speaker", "probe lm"} <= set(found["studies"])


def test_bad_files_and_failing_metrics_make_exit_code_1_and_are_listed(run, clip, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "bad.wav").write_bytes(b"no audio")
    soundfile.write(folder / "silence.wav", np.zeros(16000, "float32"), 16000)
    wav, rate = audiotok.audio.load(clip, end=1.0)
    soundfile.write(folder / "voice.wav", wav[0].numpy(), rate)
    result = run("eval", "original", "--data", folder, "--out", tmp_path / "out", *QUICK)
    assert result.code == 1
    assert "2 items (compared at 16000 Hz); 1 could not be read." in result.text
    assert "- STOI of original: 1 of 2 items, such as silence.wav: the reference is silent\n" in result.text
    assert f"- cannot read {folder}/bad.wav" in result.text
    assert rows(tmp_path / "out")["original", "voice.wav"]["stoi"] != ""


def test_killed_and_run_again_it_gives_the_same_files(run, data, tmp_path):
    systems = [f"default:{k}" for k in range(1, 9)]
    assert run("eval", *systems, "--data", data, "--out", tmp_path / "whole", *QUICK).code == 0
    command = [sys.executable, "-m", "audiotok", "eval", *systems, "--data", data, "--out", tmp_path / "killed", *QUICK]
    options = ("--progress", "--num-processes", "2")
    every = {**QUIET, "TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}  # each time that rows are entered, the bar says so
    with subprocess.Popen([*command, *options], env=every, start_new_session=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = b""
        while b"default:2]" not in said:
            said += os.read(process.stderr.fileno(), 1000)
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "report.md").exists()
    assert run("eval", *systems, "--data", data, "--out", tmp_path / "killed", *QUICK).code == 0
    for name in SAME:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_everything_that_is_measured(run, model, data, tmp_path):
    """Cost, robustness, probes, pictures and players, of a tokenizer and an anchor."""
    out, options = tmp_path / "out", ("--metrics", "stoi", "--num-processes", "1", "--probe", "speaker")
    result = run("eval", f"{model}:2", "original", "--data", data, "--out", out, "--quiet", *options)
    assert (result.code, result.err) == (0, "")
    for title in ("## Codes", "## Robustness of codes, %", "## Parity, %", "## Probes"):
        assert title in result.text
    found = json.loads((out / "results.json").read_text())["studies"]
    assert {one["passed"] for one in found["parity"][f"{model}:2"] if one["way"] != "bfloat16"} == {True}
    assert [book["size"] for book in found["codes"][f"{model}:2"]["codebooks"]] == [32, 32]
    assert "a probe of 'speaker' wants two labels" in found["probe speaker"][f"{model}:2"]["reason"]
    with (out / "cost.csv").open(newline="") as file:
        costs = {line["label"]: line for line in csv.DictReader(file)}
    assert float(costs["tok, 2 of 3 codebooks"]["encode_speed"]) > 1
    assert float(costs["tok, 2 of 3 codebooks"]["million_parameters"]) > 0
    assert costs["original"]["million_parameters"] == ""
    page = (out / "report.html").read_text()
    assert page.count("<audio") == 2 * 3  # the audio itself and both systems, of two items
    assert page.count("<img") == 1 + 2 * 3 + 1
    again = run("eval", f"{model}:2", "original", "--data", data, "--out", out, "--quiet", *options)
    assert again.text == result.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "speaker"], "wanted COLUMN=TEXT such as domain=speech, not 'speaker'"),
        (["--where", "mood=sad"], "has a column 'mood'; there are domain, speaker"),
        (["--metrics", "loudness"], "invalid choice: 'loudness'"),
        (["--longer-than", "0"], "wanted seconds above 0"),
        (["--no-resume"], "holds an evaluation already: resume it, or use a new folder"),
    ],
)
def test_wrong_usage(run, data, tmp_path, options, message):
    out = tmp_path / "out"
    if options == ["--no-resume"]:
        assert run("eval", "original", "--data", data, "--out", out, "--quiet", *QUICK).code == 0
    result = run("eval", "original", "--data", data, "--out", out, *QUICK, *options)
    assert result.code == 2
    assert message in result.err


def test_a_system_that_there_is_not(run, data, tmp_path):
    result = run("eval", "original", "defaul", "--data", data, "--out", tmp_path / "out", *QUICK)
    assert result.code == 2
    assert "defaul" in result.err
