"""Training on real speech: losses fall, a stopped run goes on exactly, subsets of layers decode."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.cli.train import add_to
from audiotok.errors import AudiotokError, InputError, MissingDependencyError
from audiotok.ssl.vocoder_files import load_vocoder
from audiotok.train import VocoderTraining, train_vocoder
from audiotok.train.losses import mel_loss, mel_of
from audiotok.train.segments import Segments
from audiotok.train.sizes import vocoder_config

SPEECH = sorted((Path(__file__).parents[1] / "data" / "audio").glob("speech_*.flac"))
TINY = VocoderTraining(
    steps=6,
    size="tiny",
    embedding="centroids",
    batch_size=2,
    segment_seconds=0.2,
    learning_rate=1e-3,
    log_every=1,
    save_every=3,
)


def train(tokenizer, out, training=TINY, **options):
    return train_vocoder(tokenizer, SPEECH, out, training=training, device="cpu", progress=False, **options)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny vocoder for the default tokenizer's 8 codebooks, after a quarter of a minute."""
    out = tmp_path_factory.mktemp("vocoder")
    training = replace(TINY, steps=120, batch_size=4, segment_seconds=0.32, adversarial_from=60, save_every=1000)
    tokenizer = audiotok.load()
    return tokenizer, out, train(tokenizer, out, training)


def test_the_losses_fall_on_real_speech(trained):
    _, out, report = trained
    assert report.mel_after < 0.4 * report.mel_before
    assert report.files_held_out == 1
    lines = log_of(out)[1:]
    assert [line["step"] for line in lines] == list(range(1, 121))

    def mean(name, some):
        return sum(line[name] for line in some) / len(some)

    assert mean("mel", lines[-20:]) < 0.5 * mean("mel", lines[:5])
    judged = lines[60:]
    assert "adversarial" not in lines[59]
    assert mean("discriminator", judged[-10:]) < 0.8 * mean("discriminator", judged[:5])
    assert all(torch.isfinite(torch.tensor(line["total"])) for line in lines)


def test_the_tokens_make_the_difference(trained):
    tokenizer, out, _ = trained
    vocoder, mel = load_vocoder(out), mel_of(16000)
    tokens, wav = Segments(tokenizer, SPEECH, frames=16, seed=0).held_out(32)
    right = mel_loss(vocoder.decode(tokens), wav, mel)
    wrong = mel_loss(vocoder.decode(tokens.roll(1, dims=0)), wav, mel)
    assert float(right) < 0.85 * float(wrong)


def test_any_subset_of_layers_decodes(trained):
    tokenizer, out, report = trained
    vocoder = load_vocoder(out)
    assert vocoder.layers == tuple(range(8))
    assert list(report.mel_by_layers) == [",".join(map(str, range(count))) for count in range(1, 9)]
    assert max(report.mel_by_layers.values()) < 0.45 * report.mel_before
    codes = tokenizer.encode_file(SPEECH[0])
    frames = int(codes.lengths[0])
    heard = [vocoder.decode(codes.tokens[:, some], layers=some) for some in ([0], [5, 2], [0, 1, 2, 3], [7])]
    assert all(wav.shape == (1, 1, frames * 320) for wav in heard)
    whole = vocoder.decode(codes.tokens)
    assert all(float((wav - whole).abs().max()) > 1e-3 for wav in heard)
    pieces = vocoder.decode(codes.tokens, chunk_frames=30)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)


def test_the_folder_says_where_it_comes_from(trained):
    tokenizer, out, report = trained
    facts = json.loads((out / "config.json").read_text())["provenance"]
    assert facts["tokenizer"] == {"name": tokenizer.spec.name, "fingerprint": tokenizer.fingerprint}
    assert (facts["steps"], facts["training"]["seed"]) == (120, 0)
    assert facts["train"]["mel_after"] == report.mel_after


def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(small, tmp_path):
    whole = train(small, tmp_path / "whole")
    train(small, tmp_path / "parts", replace(TINY, steps=3))
    torch.manual_seed(99)  # a new process would begin elsewhere
    torch.rand(5)
    resumed = train(small, tmp_path / "parts")
    assert (resumed.resumed_from, resumed.steps) == (3, 6)
    assert len(log_of(tmp_path / "whole")) == 7
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    assert resumed.mel_by_layers == whole.mel_by_layers
    tokens = torch.randint(0, 32, (1, 3, 20))
    one, other = (load_vocoder(tmp_path / name).decode(tokens) for name in ("whole", "parts"))
    assert torch.equal(one, other)


def test_a_run_that_died_after_its_checkpoint_goes_on_from_there(small, tmp_path, monkeypatch):
    train(small, tmp_path / "whole")
    real = torch.optim.AdamW.step
    count = iter(range(1000))

    def dying(self, *args, **kwargs):
        if next(count) == 9:  # two optimizers: in the middle of step 5
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(small, tmp_path / "died")
    (tmp_path / "died" / "checkpoints" / "step-000000004.tmp").mkdir()  # it died while it wrote another
    report = train(small, tmp_path / "died")
    assert report.resumed_from == 3
    assert log_of(tmp_path / "died") == log_of(tmp_path / "whole")


def test_only_the_last_checkpoints_are_kept(small, tmp_path):
    train(small, tmp_path, replace(TINY, steps=4, save_every=1))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000003", "step-000000004"]


def test_a_checkpoint_of_another_training_is_refused(small, tmp_path):
    train(small, tmp_path, replace(TINY, steps=1))
    with pytest.raises(InputError, match="holds a training: name another folder, or resume it"):
        train(small, tmp_path, resume=False)
    with pytest.raises(InputError, match="another batch_size"):
        train(small, tmp_path, replace(TINY, batch_size=3))
    with pytest.raises(InputError, match="another codebook_sizes"):
        train(audiotok.load(num_codebooks=3), tmp_path)
    with pytest.raises(InputError, match="another audio"):
        train_vocoder(small, SPEECH[1:], tmp_path, training=TINY, device="cpu", progress=False)


def test_the_hinge_loss_trains_too(small, tmp_path):
    train(small, tmp_path, replace(TINY, steps=2, adversarial="hinge", embedding="random", min_layers=2))
    assert [set(line) for line in log_of(tmp_path)[1:]] == [
        {"step", "discriminator", "mel", "feature", "adversarial", "total", "learning_rate"}
    ] * 2


def test_another_precision_needs_a_process_of_its_own(small, tmp_path):
    train(small, tmp_path / "float32", replace(TINY, steps=1))
    with pytest.raises(InputError, match="accelerate refuses device 'cpu' with precision 'bf16'"):
        train(small, tmp_path / "bf16", replace(TINY, steps=1, precision="bf16"))
    words = f"train vocoder {SPEECH[0]} --out {tmp_path / 'out'} --size tiny --steps 2 --batch-size 1 --precision bf16"
    words += " --num-codebooks 2 --segment-seconds 0.2 --device cpu --log-every 1 --quiet"
    code = "import argparse, sys; from audiotok.cli.train import add_to; top = argparse.ArgumentParser();"
    code += "add_to(top.add_subparsers()); args = top.parse_args(sys.argv[1:]); sys.exit(args.run(args))"
    subprocess.run([sys.executable, "-c", code, *words.split()], check=True, capture_output=True)
    assert [line["mel"] > 0 for line in log_of(tmp_path / "out")[1:]] == [True, True]


def test_the_layers_own_numbers_are_kept(small, tmp_path):
    train(small, tmp_path, replace(TINY, steps=1), layers=(3, 7, 12))
    assert load_vocoder(tmp_path).layers == (3, 7, 12)


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path):
    with pytest.raises(AudiotokError, match="loss is not finite: lower learning_rate"):
        train(small, tmp_path, replace(TINY, steps=20, learning_rate=1e30))


def test_arguments_that_do_not_fit_are_refused(small, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="min_layers is 4, but there are 3 layers"):
        train(small, tmp_path, replace(TINY, min_layers=4))
    config = vocoder_config(small.spec, "tiny")
    with pytest.raises(InputError, match=r"must be for codebooks \(32, 32, 32\)"):
        train(small, tmp_path, config=replace(config, layers=(0,), codebook_sizes=(32,)))
    with pytest.raises(InputError, match="are not those of the configuration"):
        train(small, tmp_path, config=config, layers=(1, 2, 3))
    with pytest.raises(InputError, match="makes 160 samples per frame at 16000 Hz"):
        train(small, tmp_path, config=replace(config, upsample_factors=(5, 4, 4, 2), upsample_kernels=(11, 8, 8, 4)))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'audiotok\[train\]'"):
        train(small, tmp_path)


# ---- the command -----------------------------------------------------------------------------------


def parser():
    import argparse

    top = argparse.ArgumentParser()
    add_to(top.add_subparsers())
    return top


def test_the_command_trains_and_prints_its_report(tmp_path, capsys):
    line = f"train vocoder {SPEECH[0]} --out {tmp_path / 'out'} --size tiny --steps 1 --batch-size 1 --num-codebooks 2"
    line += " --segment-seconds 0.2 --layers 4,9 --device cpu --json --quiet"
    args = parser().parse_args(line.split())
    assert args.run(args) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], list(report["mel_by_layers"])) == (1, ["4", "4,9"])
    assert load_vocoder(tmp_path / "out").layers == (4, 9)


def test_the_command_has_the_defaults_of_the_library():
    args = parser().parse_args(["train", "vocoder", "x", "--out", "y"])
    defaults = VocoderTraining()
    assert {name: value for name, value in vars(args).items() if hasattr(defaults, name)} == {
        name: getattr(defaults, name) for name in vars(defaults) if hasattr(args, name)
    }
    with pytest.raises(SystemExit):
        parser().parse_args(["train", "vocoder", "x", "--out", "y", "--layers", "a"])
