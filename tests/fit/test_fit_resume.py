"""A fit that was killed goes on, and gives what one that was not gives, to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.checkpoint import read_safetensors
from audiotok.errors import FitError, InputError
from audiotok.fit import FOLDER
from audiotok.fit.checkpoint import Checkpoint
from audiotok.fit.job import Job
from audiotok.fit.sample import FrameSample
from audiotok.sources.files import FileSource

SSL = Path(__file__).parents[1] / "fixtures" / "speechbrain-discrete-ssl" / "wavlm-large-like" / "ssl"
OPTIONS = {"k": 12, "num_codebooks": 2, "engine": "torch", "iterations": 2, "num_workers": 0, "progress": False}

# Forks a process for every attempt and kills it right before its n-th file gets its name, n growing, until one ends.
RUNNER = """
import json, os, signal, sys
from pathlib import Path
import torch
from audiotok.fit import fit_several, reading

folder, clips = Path(sys.argv[1]), sys.argv[2:]
torch.set_num_threads(1)
reading._SAVE_SECONDS, reading._SAVE_SHARE, reading._BATCH_ITEMS = 0.0, 1e9, 2

def attempt(out, renames):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count, rename = 0, Path.replace
    def replace(self, target):
        nonlocal count
        count += 1
        if count == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.replace = replace
    options = {"num_codebooks": 2, "engine": "torch", "iterations": 2, "progress": False, "num_workers": 0}
    fit_several(clips, [10, 6], out_dir=folder / out, **options)
    os._exit(0)

statuses = [attempt("whole", None)]
while len(statuses) == 1 or statuses[-1]:
    statuses.append(attempt("killed", 3 * len(statuses)))
print(json.dumps(statuses))
"""


def contents(folder):
    """Every file below a folder: its bytes, without the seconds that a fit took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.name == "config.json":
            config = json.loads(path.read_text())
            report = config["provenance"]["fit"]
            report["seconds_reading"] = report["seconds_fitting"] = 0
            found[str(path.relative_to(folder))] = config
        elif path.is_file():
            found[str(path.relative_to(folder))] = None
    return found


def test_a_fit_killed_again_and_again_gives_the_same_bytes(clips, tmp_path):
    result = subprocess.run([sys.executable, "-c", RUNNER, tmp_path, *clips], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    whole, *attempts, last = json.loads(result.stdout)
    assert (whole, last) == (0, 0)
    assert attempts == [9] * len(attempts)  # SIGKILL
    assert len(attempts) >= 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert set(contents(tmp_path / "whole")) == {
        *(f"k{k}/{name}" for k in (6, 10) for name in ("README.md", "config.json", "model.safetensors")),
        *("report.md", "report-curves.png", "report-usage.png"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("features", ["logmel", str(SSL)])
def test_the_command_killed_at_any_moment_gives_the_same_bytes(features, clips, tmp_path):
    """`audiotok fit` with two reading processes, all killed at once after ever longer times."""
    (tmp_path / "in").mkdir()
    for i in range(60):
        wav, rate = audiotok.audio.load(clips[i % len(clips)], channels=1)
        noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(i))
        audiotok.audio.save(tmp_path / "in" / f"{i:03}.wav", wav + 1e-3 * noise, rate)
    code = (
        "import sys; from audiotok.cli import main; from audiotok.fit import reading;"
        "reading._SAVE_SECONDS, reading._SAVE_SHARE = 0.05, 1e9; sys.exit(main(sys.argv[1:]))"
    )
    layers = [] if features == "logmel" else ["--layers", "2", "5"]
    options = ["--k", "32", "64", "--engine", "torch", "--iterations", "20", "--num-workers", "2", "-q"]

    def attempt(out, seconds):
        arguments = [sys.executable, "-c", code, "fit", tmp_path / "in", "--features", features, *layers, *options]
        process = subprocess.Popen(
            [*arguments, "--out", tmp_path / out],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    began = time.perf_counter()
    assert attempt("whole", None) == 0
    codes, seconds = [], 0.4 * (time.perf_counter() - began)
    while not codes or (tmp_path / "killed" / FOLDER).exists() or not (tmp_path / "killed").exists():
        codes.append(attempt("killed", seconds))
        seconds *= 1.2
    assert set(codes[:-1]) == {-signal.SIGKILL}
    assert codes[-1] in (0, -signal.SIGKILL)  # it may be hit when all is done, on its way out
    assert len(codes) > 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture
def interrupted(clips, tmp_path, monkeypatch):
    """A folder in which everything has been read and nothing fitted."""
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audiotok.fit_kmeans(clips, out_dir=tmp_path / "tok", **OPTIONS)
    return tmp_path / "tok"


def test_what_was_read_is_not_read_again(clips, interrupted, monkeypatch):
    monkeypatch.setattr(FileSource, "read", None)
    tok = audiotok.fit_kmeans(clips, out_dir=interrupted, **OPTIONS)
    monkeypatch.undo()
    assert tok.fingerprint == audiotok.fit_kmeans(clips, **OPTIONS).fingerprint
    assert audiotok.load(interrupted).fingerprint == tok.fingerprint
    assert not (interrupted / FOLDER).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "was begun with other seed: 0 there, 3 now. Give the same, name another folder, or delete"),
        ({"k": 13}, r"other k: \[12\] there, \[13\] now"),
        ({"features": audiotok.ssl.logmel.LogMel(n_mels=40)}, "other features"),
        ({"resume": False}, "was begun already: resume it, or use a new folder"),
    ],
)
def test_other_arguments_are_refused(clips, interrupted, changes, message):
    with pytest.raises(InputError, match=message):
        audiotok.fit_kmeans(clips, out_dir=interrupted, **{**OPTIONS, **changes})


def test_another_source_is_refused(clips, interrupted):
    with pytest.raises(InputError, match="other source: files were added, removed or changed, or it is another one"):
        audiotok.fit_kmeans(clips[1:], out_dir=interrupted, **OPTIONS)


def test_what_cannot_be_fitted_leaves_no_checkpoint_behind(clips, tmp_path):
    with pytest.raises(FitError, match="clusters were asked for"):
        audiotok.fit_kmeans(clips, out_dir=tmp_path / "tok", **{**OPTIONS, "k": 100_000})
    assert not (tmp_path / "tok").exists()


def test_a_removal_that_was_cut_short_is_taken_up(tmp_path):
    folder = tmp_path / FOLDER
    checkpoint = Checkpoint(folder, {"seed": 1})
    checkpoint.save_reading({"a": torch.ones(2)}, {"n": 3})
    table, _ = checkpoint.table("k2", lambda: torch.zeros(2, 1))
    assert torch.equal(checkpoint.table("k2", lambda: torch.ones(2, 1))[0], table)  # fitted before
    (folder / "reading.safetensors").unlink()  # the facts go last, so what is left is a checkpoint of less
    again = Checkpoint(folder, {"seed": 1})
    assert again.load_reading() is None
    assert torch.equal(again.table("k2", lambda: torch.ones(2, 1))[0], table)
    (folder / "facts.json").unlink()  # nothing says what the rest belongs to
    other = Checkpoint(folder, {"seed": 2})
    assert torch.equal(other.table("k2", lambda: torch.ones(2, 1))[0], torch.ones(2, 1))
    other.remove()
    assert not folder.exists()


def test_a_sample_goes_on_where_it_was():
    whole, first = FrameSample(60, 2, seed=5), FrameSample(60, 2, seed=5)
    frames = torch.randn(40, 500, 2, generator=torch.Generator().manual_seed(0))
    for number in range(40):
        whole.add(frames[number], file=number)
    for number in range(25):
        first.add(frames[number], file=number)
    second = FrameSample(60, 2, seed=5)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for number in range(25, 40):
        second.add(frames[number], file=number)
    assert torch.equal(second.frames(), whole.frames())
    assert second.seen == whole.seen == 20_000


def test_a_checkpoint_holds_the_sample_and_where_it_is(clips, interrupted):
    tensors = read_safetensors(interrupted / FOLDER / "reading.safetensors")
    tok = audiotok.fit_kmeans(clips, **OPTIONS)
    assert int(tensors["sample.seen"]) == tok.provenance["fit"]["frames_seen"]
    assert tensors["sample.frames"].shape[1] == 80
