"""`audiotok train codec`: a configuration, a few values in place of it, a report."""

import json
from pathlib import Path

import pytest

import audiotok
from audiotok.cli import main
from audiotok.train import CodecTraining

SPEECH = sorted((Path(__file__).parents[1] / "data" / "audio").glob("speech_*.flac"))
CONFIG = """
codec:
  latent: 8
  network: {width: 16, hidden: 16, encoder_blocks: [0, 1], decoder_blocks: [1, 0]}
  quantizer: {num_codebooks: 2, codebook_size: 16}
training: {steps: 100, batch_size: 2, segment_seconds: 0.2, quantize_from: 1, adversarial_from: -1, validation_items: 1}
"""


@pytest.fixture
def command(tmp_path):
    """Runs the command on some files, for two steps."""
    (tmp_path / "mine.yaml").write_text(CONFIG)

    def run(*options, sources=SPEECH[:2]):
        words = ["train", "codec", tmp_path / "mine.yaml", "--data", *sources, "--out", tmp_path / "out"]
        return main([str(word) for word in (*words, "--device", "cpu", "--num-workers", "0", *options)])

    return run


def test_the_command_trains_and_prints_its_report(command, tmp_path, capsys):
    values = ["--set", "training.steps=2", "--set", "training.samples=0"]
    assert command(*values, "--valid", SPEECH[3], "--name", "mine") == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["validation", "mel", "si_snr", "stoi", "pesq"]
    assert "step 2, 2 items, 0 left out" in told.err
    assert "have not been trained" not in told.err
    assert audiotok.load(tmp_path / "out").spec.name == "mine"
    facts = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]
    assert (facts["training"]["steps"], facts["training"]["samples"]) == (2, 0)
    assert command("--set", "training.steps=3", "training.samples=0", "--valid", SPEECH[3], "--json", "--quiet") == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert (report["steps"], report["resumed_from"], told.err) == (3, 2, "")


def test_a_bad_file_is_named_and_the_exit_code_says_so(command, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    sources = [*SPEECH[:2], tmp_path / "bad.wav"]
    assert command("--set", "training.steps=1", "training.samples=0", sources=sources) == 1
    told = capsys.readouterr().err
    assert told.startswith("left out ")
    assert "bad.wav: cannot read" in told
    assert "its codebooks have not been trained: training.quantize_from is 1" in told


def test_a_group_with_nothing_in_it_may_be_set(command, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("codec: {}\ntraining:\n")
    assert command("--set", "training.steps=0") == 2  # it came to be read
    assert "steps must be at least 1, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("training.stps=3", "training has no key 'stps': did you mean steps"),
        ("codec.latent.x=3", "--set codec.latent.x=3: latent is no group of keys, but 8"),
        ("steps", "--set wants KEY=VALUE, not 'steps'"),
        ("training.learning_rate=1e-4", "learning_rate must be a number, not '1e-4' (YAML reads 1e-4 as a text"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(command, capsys, value, message):
    assert command("--set", value) == 2
    assert message in capsys.readouterr().err


def test_a_list_and_a_group_may_be_set(command, tmp_path):
    values = [
        "training.steps=1",
        "training.betas=[0.5, 0.6]",
        "training.weights={mel: 1, stft: 0}",
        "training.samples=0",
    ]
    assert command("--set", *values, "--no-tensorboard", "--quiet") == 0
    training = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]["training"]
    assert (training["betas"], training["weights"]["stft"]) == ([0.5, 0.6], 0)
    assert training["weights"]["time"] == CodecTraining().weights.time
    assert not (tmp_path / "out" / "tensorboard").exists()
