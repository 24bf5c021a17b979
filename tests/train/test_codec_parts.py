"""The parts of a codec's training: options, learning rates, averages, health of codebooks, validation."""

import math
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from audiotok.codec import CodecConfig, CodecNetwork
from audiotok.errors import InputError, MissingDependencyError
from audiotok.nn.spectra import MultiResolutionStft, MultiScaleMel
from audiotok.quantize import Codebook
from audiotok.sources import open_source
from audiotok.train import CodecTraining, LossWeights, parse_config, read_config
from audiotok.train.average import WeightAverage
from audiotok.train.board import Board
from audiotok.train.crops import Crops
from audiotok.train.distances import MagnitudeDistances, WaveDistances, distances_of
from audiotok.train.health import CodebookHealth
from audiotok.train.meters import Meters
from audiotok.train.pool import Pool
from audiotok.train.start import TrainedCodec, start_codebooks
from audiotok.train.validation import Validation, si_snr, speech_scores

TINY = {
    "latent": 8,
    "network": {"width": 16, "hidden": 16, "encoder_blocks": [0, 1], "decoder_blocks": [1, 0]},
    "quantizer": {"num_codebooks": 3, "codebook_size": 64, "dropout": 0},
}


def pool_of(source):
    opened = open_source(source)
    return Pool(opened, list(opened.items()), sample_rate=16000)


# ---- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"learning_rate": "1e-4"}, r"learning_rate must be a number, not '1e-4' \(YAML reads 1e-4 as a text: write"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"balancer": 1}, "balancer must be true or false, not 1"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, exponential, not 'linear'"),
        ({"precision": "int8"}, "precision must be one of no, bf16, fp16"),
        ({"ema_decay": 1.0}, "ema_decay be at least 0 and below 1"),
        ({"betas": [0.9]}, r"betas are two numbers .* not \(0.9,\)"),
        ({"adversarial_from": -2}, "adversarial_from is a step, or -1 for none, not -2"),
        ({"clip_norm": -1}, "clip_norm must be at least 0"),
        ({"batchsize": 4}, r"training has no key 'batchsize': did you mean batch_size"),
        ({"weights": {"mels": 4}}, r"weights has no key 'mels': did you mean mel"),
        ({"weights": {"mel": -1}}, "the weight of mel must be at least 0, not -1"),
        ({"weights": {"mel": 0, "stft": 0, "time": 0}}, "one of the weights of mel, stft and time must be above 0"),
        ({"weights": 3}, "weights is a group of keys, not 3"),
        ({"discriminators": {"period": [2]}}, r"discriminators has no key 'period': did you mean periods\?"),
        ({"augmentation": {"mix": 2}}, "mix is a probability"),
        ({"domains": 3}, "domains are shares by name, such as {speech: 0.6, music: 0.4}, not 3"),
        ({"domains": ["speech"]}, r"domains are shares by name, .* not \['speech'\]"),
        ({"domains": {"speech": "1.0"}}, "domains are shares by name"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        CodecTraining.from_dict(values)


def test_a_file_names_codec_and_training(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "codec: {preset: small}\ntraining: {steps: 7, discriminators: {periods: [2, 3]}, domains: {a: 1}}\n"
    )
    config, training = read_config(path)
    assert (config.network.width, training.steps, training.discriminators.periods) == (192, 7, (2, 3))
    assert training.domains == {"a": 1}
    assert parse_config({}, "mine") == (CodecConfig.from_dict({}), CodecTraining())
    with pytest.raises(InputError, match=r"mine has no key 'trainig': did you mean training\?"):
        parse_config({"trainig": {}}, "mine")
    with pytest.raises(InputError, match="mine: codec is a group of keys, not 3"):
        parse_config({"codec": 3}, "mine")


def test_the_examples_and_the_default_are_configurations():
    small, default = (read_config(name) for name in ("examples/codec_small.yaml", "scripts/audiotok_base_16k.yaml"))
    for config, training in (small, default):
        assert config.quantizer.codebook_size**config.quantizer.num_codebooks == 2**80
        assert config.network.phase == "griffin-lim"
        assert 0 < training.quantize_from < training.steps
        assert not training.is_adversarial
    _, training = read_config("examples/codec_adversarial.yaml")
    assert 0 < training.quantize_from < training.adversarial_from < training.steps
    assert training.is_adversarial


def test_the_manual_lists_every_key_with_its_default():
    text = Path("docs/training.md").read_text("utf-8").partition("### The configuration")[2].partition("\n### ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row[0])]
    assert sorted(keys) == sorted(one.name for one in fields(CodecTraining))
    said = {row[0].strip("| `"): row[1].strip("`") for row in rows if "," not in row[0]}
    for name, value in said.items():
        default = getattr(CodecTraining(), name)
        if isinstance(default, bool):
            assert value == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(value) == default, name
        elif default and isinstance(default, str):
            assert value == default, name


def test_learning_rates_rise_and_fall():
    training = CodecTraining(steps=1000, learning_rate=1.0, warmup_steps=100, final_rate=0.1, adversarial_from=500)
    rates = [training.rate_at(step) for step in (0, 49, 99, 550, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])
    judges = [training.rate_at(step, of_discriminators=True) for step in (500, 599)]
    assert judges == pytest.approx([0.01 * training.rate_at(500), training.rate_at(599)])
    falling = CodecTraining(learning_rate=1.0, warmup_steps=0, schedule="exponential", decay=0.5)
    assert [falling.rate_at(step) for step in (0, 1000, 2000)] == pytest.approx([1, 0.5, 0.25])
    still = CodecTraining(learning_rate=1.0, warmup_steps=0, schedule="constant", discriminator_learning_rate=0.5)
    assert (still.rate_at(9999), still.rate_at(9999, of_discriminators=True)) == (1.0, 0.5)


# ---- averages and means ----------------------------------------------------------------------------


def test_the_average_is_that_of_the_weights_and_copies_what_is_no_float():
    network, average = nn.BatchNorm1d(1), WeightAverage(nn.BatchNorm1d(1), 0.5)
    values = []
    expected = 1.0
    for step, value in enumerate((2.0, -1.0, 7.0)):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(value)
            network.num_batches_tracked.fill_(step)
        average.update(network, step)
        past = min(0.5, (1 + step) / (10 + step))
        expected = past * expected + (1 - past) * value
        values.append(average.network.weight.item())
        assert values[-1] == pytest.approx(expected)
        assert int(average.network.num_batches_tracked) == step
    assert average.network.running_mean.item() == pytest.approx(expected - 0.1 * 2 / 11 * 0.25)  # it began at 0
    assert not average.network.weight.requires_grad


def test_codebooks_notice_that_their_average_moved():
    book, other = Codebook(4, 2), Codebook(4, 2, seed=1)
    average = WeightAverage(book, 0.0)
    rows = torch.randn(20, 2)
    book.search(rows)  # makes the table that is kept
    average.update(other, 0)
    assert torch.equal(book.search(rows), other.search(rows))


def test_means_are_over_the_steps_that_had_a_value():
    meters = Meters()
    meters.add({"mel": torch.tensor(1.0), "discriminator": torch.tensor(5.0)})
    meters.add({"mel": torch.tensor(3.0)})
    assert {name: float(value) for name, value in meters.means().items()} == {"mel": 2.0, "discriminator": 5.0}
    meters.add({"mel": torch.tensor(math.nan)})
    assert math.isnan(meters.means()["mel"])
    meters.clear()
    assert meters.count == 0


# ---- codebooks -------------------------------------------------------------------------------------


def test_health_is_that_of_the_last_whole_window():
    health = CodebookHealth([4, 8])
    assert health.figures() == {}
    health.add(torch.zeros(1, 2, 10, dtype=torch.int64))
    assert health.figures() == {"usage": [0.25, 0.125], "perplexity": [1.0, 1.0], "dead": [3, 7], "revived": [0, 0]}
    health.add(torch.zeros(1, 2, 246, dtype=torch.int64))  # 256 = 32 * 8
    assert health.figures()["dead"] == [3, 7]
    even = torch.arange(256).expand(1, 2, 256) % torch.tensor([[4], [2]])
    health.add(even[:, :, :100])
    assert health.figures()["dead"] == [3, 7]  # not whole yet
    health.add(even[:, :, 100:])
    found = health.figures()
    assert found == {"usage": [1.0, 0.25], "perplexity": [4.0, 2.0], "dead": [0, 6], "revived": [3, 1]}
    again = CodebookHealth([4, 8])
    again.load(health.saved(), main=True)
    assert again.figures() == found


@torch.no_grad()
def test_codebooks_begin_as_kmeans_of_many_frames():
    torch.manual_seed(0)
    network = CodecNetwork(CodecConfig.from_dict(TINY)).train()
    crops = Crops(pool_of("tests/data/audio"), samples=3200, seed=0)
    assert start_codebooks(network, crops, step=5, rows=2)
    wav = torch.cat([crops.draw(100 + step, 16) for step in range(8)])
    latents = network.encode(wav)
    left_over, errors = latents.transpose(1, 2).reshape(-1, 8), []
    for layer in network.quantizer.layers:
        book = layer.book()
        assert bool(book.started)
        assert float(book.uses.sum()) == pytest.approx(20, rel=0.05)  # frames of one step
        torch.testing.assert_close(book.sums / book.uses[:, None], book.entries, rtol=1e-3, atol=1e-4)
        errors.append(float(left_over.square().mean()))
        tokens = book.search(left_over)
        assert len(tokens.unique()) > 50
        left_over = left_over - book.entries[tokens]
    errors.append(float(left_over.square().mean()))
    assert all(after < 0.6 * before for before, after in pairwise(errors))
    entries = network.quantizer.layers[0].book().entries.clone()
    assert not start_codebooks(network, crops, step=6, rows=2)  # once
    assert torch.equal(network.quantizer.layers[0].book().entries, entries)


def test_a_codec_may_go_without_its_quantizer():
    torch.manual_seed(0)
    network = CodecNetwork(CodecConfig.from_dict(TINY)).train()
    codec, wav = TrainedCodec(network), 0.1 * torch.randn(2, 1, 3200)
    before = {name: value.clone() for name, value in network.quantizer.state_dict().items()}
    output = codec(wav, quantize=False)
    assert torch.equal(output.quantized.quantized, output.latents)
    assert output.quantized.tokens.shape == (2, 3, 0)
    torch.testing.assert_close(output.wav, network.decode(output.latents))
    (output.wav.square().sum() + output.quantized.loss).backward()
    assert all(one.grad is not None for one in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.quantizer.state_dict().items())
    assert codec(wav).quantized.tokens.shape == (2, 3, 10)


# ---- distances and validation ----------------------------------------------------------------------


def test_distances_are_those_with_a_weight():
    wav, made = (0.1 * torch.randn(2, 1, 4000) for _ in range(2))
    losses = WaveDistances(LossWeights(time=0.5), 16000)(made, wav)
    assert losses["mel"] == MultiScaleMel(16000)(made[:, 0], wav[:, 0])
    assert losses["stft"] == MultiResolutionStft()(made[:, 0], wav[:, 0])
    assert losses["time"] == (made - wav).abs().mean()
    assert WaveDistances(LossWeights(stft=0, time=0), 16000)(made, wav).keys() == {"mel"}


def test_distances_of_magnitudes_are_zero_for_the_right_ones():
    torch.manual_seed(0)
    config = CodecConfig.from_dict({**TINY, "network": {**TINY["network"], "phase": "griffin-lim", "iterations": 2}})
    network, wav = CodecNetwork(config), 0.1 * torch.randn(2, 1, 3200)
    distances = distances_of(LossWeights(), network)
    assert isinstance(distances, MagnitudeDistances)
    right = network.magnitudes(wav).log()
    assert {name: round(float(value), 2) for name, value in distances(right, wav).items()} == {"mel": 0.0, "stft": 0.0}
    tenfold = distances(right + math.log(10), wav)
    assert float(tenfold["mel"]) == pytest.approx(1, abs=0.01)
    assert float(tenfold["stft"]) == pytest.approx(9 + math.log(10), abs=0.05)
    with pytest.raises(InputError, match="needs a weight of mel or stft above 0"):
        distances_of(LossWeights(mel=0, stft=0, time=1), network)


def test_si_snr_is_that_of_its_construction():
    torch.manual_seed(0)
    wav = torch.randn(8000)
    noise = torch.randn(8000)
    wav, noise = wav - wav.mean(), noise - noise.mean()
    noise = noise - (noise @ wav) / (wav @ wav) * wav
    noise = noise * (wav.norm() / noise.norm()) / 10
    assert si_snr(wav, 3 * (wav + noise) + 5) == pytest.approx(20, abs=1e-3)
    assert si_snr(wav, 0.5 * wav) > 80
    assert math.isnan(si_snr(torch.zeros(100), wav[:100]))


def test_scores_that_cannot_be_computed_are_left_out():
    scores = speech_scores(16000)
    assert scores.keys() == {"stoi", "pesq"}
    silence, noise = torch.zeros(16000), 0.1 * torch.randn(16000)
    assert all(math.isnan(score(silence, noise)) for score in scores.values())
    assert math.isnan(scores["pesq"](noise, silence))
    assert math.isnan(scores["stoi"](noise[:2048], noise[:2048]))  # too short, which pystoi answers with a constant
    assert speech_scores(24000).keys() == {"stoi"}


def test_validation_means_are_over_all_and_by_domain():
    rows = [
        {"path": "tests/data/audio/speech_en_1.flac", "domain": "speech"},
        {"path": "tests/data/audio/speech_fr_2.flac", "domain": "speech"},
        {"path": "tests/data/audio/music_16k_1.flac", "domain": "music"},
    ]
    validation = Validation(pool_of(rows), seconds=1.0)
    assert [len(wav) for _, wav in validation.clips] == [16000] * 3

    class Halved(nn.Module):
        def forward(self, wav):
            from audiotok.codec import CodecOutput

            return CodecOutput(wav, None, 0.5 * wav, None)

    found, made = validation.measure(Halved(), torch.device("cpu"))
    assert found.keys() == {
        *("mel", "si_snr", "stoi", "pesq", "mel/speech", "si_snr/speech", "stoi/speech", "pesq/speech"),
        *("mel/music", "si_snr/music"),
    }
    assert torch.equal(made[1], 0.5 * validation.clips[1][1])
    assert found["mel"] == pytest.approx((2 * found["mel/speech"] + found["mel/music"]) / 3, abs=1e-4)
    assert 0.2 < found["mel/music"] <= 0.302  # log10 of 2, less where the floor is met
    assert found["si_snr"] > 50
    assert found["stoi"] == found["stoi/speech"] == pytest.approx(1, abs=1e-3)
    assert found["pesq"] == pytest.approx(4.64, abs=0.01)


def test_a_board_that_is_wanted_and_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs tensorboard: pip install 'audiotok\[train\]'"):
        Board(tmp_path, step=0, wanted=True)
    Board(tmp_path, step=0).scalars("train", {"mel": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []
