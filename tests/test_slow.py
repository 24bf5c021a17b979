"""Long proofs, run by `make check-slow`."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

import audiotok

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]


def test_an_hour_of_speech_codes_and_decodes_in_bounded_memory(speech, tmp_path):
    """Encoded and decoded in a process of its own, whose peak memory is compared with that of a minute."""
    audiotok.audio.save(tmp_path / "speech.flac", torch.cat(speech, dim=1), 16000)
    code = (
        "import sys, resource, torch, audiotok\n"
        "tok = audiotok.load(); wav, _ = audiotok.audio.load(sys.argv[1])\n"
        "count = int(sys.argv[2]) * 16000\n"
        "wav = wav.repeat(1, count // wav.shape[1] + 1)[:, :count]\n"
        "codes = tok.encode(wav)\n"
        "middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert tok.decode(codes).shape == (1, 1, count)\n"
        "print(middle // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = {}
    for seconds in (120, 3600):
        command = [sys.executable, "-c", code, str(tmp_path / "speech.flac"), str(seconds)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[seconds] = [int(word) for word in result.stdout.split()]
    samples_mb = 3600 * 16000 * 4 / 2**20
    # Held whole: the audio, and what it decodes to (as pieces, joined, and cut to length). One float64 spectrogram of
    # the hour alone would take another 1000 MB.
    assert peaks[3600][0] - peaks[120][0] < 3 * samples_mb
    assert peaks[3600][1] - peaks[120][1] < 6 * samples_mb


def test_long_codes_decode_in_pieces_as_the_whole(speech):
    tok = audiotok.load()
    codes = tok.encode(torch.cat(speech * 6, dim=1))
    tok.chunk_seconds = 1e6
    whole = tok.decode(codes)
    tok.chunk_seconds = 5.0
    assert float((tok.decode(codes) - whole).abs().max()) < 1e-3


def test_the_wheel_holds_everything_and_works_from_elsewhere(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("audiotok-base-16k", "logmel-16khz"):
        assert f"audiotok/assets/{name}/model.safetensors" in names
    assert "audiotok/py.typed" in names
    assert wheel.stat().st_size < 16e6
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel], check=True)
    code = "import audiotok; print(audiotok.__file__, audiotok.load().encode([0.0] * 640).tokens.shape)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(str(target))
    assert "[1, 8, 2]" in result.stdout


def test_encoding_killed_at_any_moment_leaves_no_half_written_codes(clips, tmp_path):
    source = clips[0].parent
    command = [sys.executable, "-m", "audiotok", "encode", str(source), "-o", str(tmp_path / "out"), "--quiet"]
    subprocess.run(command, check=True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.codes")}
    assert len(whole) == 14
    for moment in range(10):
        out = tmp_path / f"killed-{moment}"
        process = subprocess.Popen([*command[:6], str(out), "--quiet"])
        deadline = time.monotonic() + 60
        while process.poll() is None and len(list(out.rglob("*.codes"))) <= moment and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = {path.name: path.read_bytes() for path in out.rglob("*.codes") if not path.name.startswith(".")}
        assert found.items() <= whole.items()
        assert found


SSL = ROOT / "tests" / "fixtures" / "speechbrain-discrete-ssl" / "wavlm-large-like" / "ssl"
EXAMPLES = {
    "training_loop.py": ["{audio}", "--steps", "30"],
    "fit_and_use.py": ["{audio}", "{out}"],
    "collate_and_cache.py": ["{audio}", "{out}/cache"],
    "llm_tokens.py": ["{audio}", "--save", "{out}"],
    "layer_attention.py": ["{audio}", "--label", "speech_(..)_"],
    "fit_and_use.py ssl": ["{audio}", "{out}", "--features", str(SSL), "--layers", "2", "5", "--k", "32"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, clips, tmp_path):
    values = {"audio": str(clips[0].parent), "out": str(tmp_path)}
    arguments = [argument.format(**values) for argument in EXAMPLES[name]]
    script = ROOT / "examples" / name.split()[0]
    result = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
    if name == "training_loop.py":
        losses = [float(line.split()[-1]) for line in result.stdout.splitlines()]
        assert losses[-1] < losses[0]
    elif name == "fit_and_use.py":
        assert (tmp_path / "4-codebooks.wav").stat().st_size > 10000
    elif name == "fit_and_use.py ssl":
        assert audiotok.load(tmp_path / "tokenizer").layers == (2, 5)


def test_a_vocoder_trained_on_tokens_of_a_small_ssl_model_decodes_any_subset_of_layers(clips, speech, tmp_path):
    """The whole way on real speech: fit an SSL tokenizer, train its vocoder with layer dropout, save both as one."""
    fitted = audiotok.fit_kmeans(clips, features=SSL, layers=[1, 3, 5], k=64, progress=False)
    fitted.save(tmp_path / "tokenizer")
    script = ROOT / "examples" / "train_vocoder.py"
    arguments = [clips[0].parent, tmp_path / "vocoder", "--model", tmp_path / "tokenizer", "--steps", "200"]
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    before, after = map(float, re.search(r"([\d.]+) before, ([\d.]+) after", result.stdout).groups())
    assert after < 0.6 * before  # log-mel difference on held-out segments
    tok = fitted.with_vocoder(tmp_path / "vocoder")
    tok.save(tmp_path / "both")
    again = audiotok.load(tmp_path / "both")
    codes = again.encode(speech[0])
    assert torch.equal(codes.tokens, fitted.encode(speech[0]).tokens)
    wavs = [again.decode(codes)]
    for layers in ([3], [1, 5]):
        part = audiotok.load(tmp_path / "both", layers=layers)
        wavs.append(part.decode(part.encode(speech[0])))
    assert all(wav.shape == (1, 1, speech[0].shape[1]) and float(wav.std()) > 1e-3 for wav in wavs)
    assert not torch.equal(wavs[0], wavs[1])
