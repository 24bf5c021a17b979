"""Real-time factors, peak memory, parameters, multiplications: against what they must be by construction."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import audiotok
from audiotok import Spec, Tokenizer, convert
from audiotok.backends.dac import DAC
from audiotok.errors import AudiotokError, InputError, UnsupportedError
from audiotok.evaluate import cost, peak_memory
from audiotok.evaluate.base import Outcome, System
from audiotok.evaluate.cost import count_macs, count_parameters, measure_cost, speed
from audiotok.evaluate.systems import TokenizerSystem
from audiotok.nn.conv import convolve
from audiotok.nn.products import linear

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECOND = torch.zeros(1, 16000)


class Clockwork(System):
    """Takes the times that it is given, one after the other, and notes how many threads it had."""

    def __init__(self, *times: float) -> None:
        super().__init__("clockwork", "clockwork")
        self.times, self.threads = iter(times), []

    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        self.threads.append(torch.get_num_threads())
        seconds = next(self.times)
        return Outcome(wav, 0.0, seconds, 10 * seconds)


class Layers(Tokenizer):
    """A frame is 160 samples: two convolutions, a product and attention of one head, 64 entries, and back."""

    family = "layers"
    encoder_parts = ("encoder", "tied")
    decoder_parts = ("decoder",)

    def __init__(self, *, decodable: bool = True) -> None:
        spec = Spec("layers", sample_rate=16000, hop_length=160, codebook_sizes=(64,), decodable=decodable)
        super().__init__(spec)
        torch.manual_seed(0)
        self.encoder = nn.Conv1d(1, 24, 160, stride=160)  # 24 * 160 + 24
        self.tied = self.encoder
        self.table = nn.Parameter(torch.randn(64, 24))
        self.register_buffer("shift", torch.zeros(3))
        self.decoder = nn.Linear(24, 160, bias=False)
        self.requires_grad_(False)

    def _config(self) -> dict[str, object]:
        return {}

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        x = nn.functional.pad(wav, (0, -wav.shape[2] % 160)).transpose(1, 2)
        x = convolve(x, self.encoder.weight, self.encoder.bias, stride=160)  # oneDNN's own operator, on a CPU
        x = nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        return x.transpose(1, 2)

    def _quantize(self, features: Tensor) -> Tensor:
        return linear(features.transpose(1, 2), self.table, None).argmax(2)[:, None]

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens[:, 0]].transpose(1, 2)

    def _synthesize(self, features: Tensor) -> Tensor:
        return linear(features.transpose(1, 2), self.decoder.weight, None).flatten(1)[:, None]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_a_real_time_factor_is_the_median_after_a_warm_up():
    system = Clockwork(9.0, 0.3, 0.1, 0.2)
    found = speed(system, SECOND.repeat(1, 2), 16000, runs=3)
    assert (found.encode, found.decode) == (pytest.approx(0.1), pytest.approx(1.0))  # 0.2 s for 2 s of audio


def test_threads_are_as_asked_and_then_as_before():
    before = torch.get_num_threads()
    one, three = Clockwork(*[1.0] * 3), Clockwork(*[1.0] * 3)
    speed(one, SECOND, 16000, threads=1, runs=2)
    speed(three, SECOND, 16000, threads=3, runs=2)
    assert (one.threads, three.threads) == ([1, 1, 1], [3, 3, 3])
    with pytest.raises(StopIteration):
        next(one.times)
    with pytest.raises(InputError, match="wants finite audio"):
        speed(one, SECOND * torch.nan, 16000, threads=3)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"runs": 0}])
def test_no_threads_or_runs(wrong):
    with pytest.raises(InputError, match="at least one thread and one run are wanted, not"):
        speed(Clockwork(), SECOND, 16000, **wrong)


def test_a_tokenizer_that_only_encodes_has_one_half():
    system = TokenizerSystem("layers", "layers", Layers(decodable=False))
    found = speed(system, SECOND, 16000, runs=1)
    assert found.encode > 0
    assert found.decode is None
    assert count_macs(system.tokenizer, SECOND, 16000).decode is None


# ---- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_by_what_each_half_needs():
    tok = Layers()
    found = count_parameters(tok)
    assert (found.encoder, found.quantizer, found.decoder) == (24 * 160 + 24, 64 * 24 + 3, 24 * 160)
    assert found.total == 24 * 160 + 24 + 64 * 24 + 3 + 24 * 160
    assert tok.mode == "both"
    assert tok.decoder is not None


def test_parameters_of_a_real_codec_are_those_of_its_parts():
    tok = convert("dac", FIXTURES / "dac-native" / "16k-like")
    before = tok.fingerprint
    parts = {name: sum(value.numel() for value in getattr(tok, name).state_dict().values()) for name in tok._modules}
    found = count_parameters(tok)
    assert parts == {"encoder": found.encoder, "quantizer": found.quantizer, "decoder": found.decoder}
    assert tok._hash() == before


def test_half_a_tokenizer_is_not_counted():
    with pytest.raises(UnsupportedError, match="load it without mode="):
        count_parameters(Layers().use_mode("encode"))


# ---- multiplications -------------------------------------------------------------------------------------------------


def test_every_product_convolution_and_attention_is_counted():
    tok, frames = Layers(), 100
    found = count_macs(tok, SECOND, 16000)
    attention = 2 * frames * frames * 24  # queries with keys, and weights with values
    assert found.encode == frames * 160 * 24 + attention + frames * 24 * 64
    assert found.decode == frames * 24 * 160


def test_they_are_given_for_a_second_of_audio():
    found = count_macs(Layers(), SECOND.repeat(1, 3), 16000)
    assert found.encode == (300 * 160 * 24 + 2 * 300 * 300 * 24 + 300 * 24 * 64) / 3
    assert found.decode == 100 * 24 * 160


class Recurrent(Layers):
    """Its features go through an LSTM, which oneDNN and cuDNN have an operator for that nobody counts."""

    family = "recurrent"

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 24, batch_first=True).requires_grad_(False)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return self.lstm(super()._features(wav, lengths).transpose(1, 2))[0].transpose(1, 2)


def test_recurrent_layers_are_counted():
    assert count_macs(Recurrent(), SECOND, 16000).encode - count_macs(Layers(), SECOND, 16000).encode == (
        100 * 4 * 24 * (24 + 24)  # in each frame four gates, of what comes in and of the state
    )


def test_counting_leaves_libraries_as_they_were():
    def enabled() -> tuple[bool, bool]:
        return torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled

    before = enabled()
    count_macs(Layers(), SECOND, 16000)
    with pytest.raises(InputError):
        count_macs(Layers(), SECOND * torch.nan, 16000)
    assert enabled() == before
    with cost._without_libraries():
        assert enabled() == (False, False)


def test_a_small_codec_counted_by_hand(speech):
    """DAC with strides of 2 and 4: what every convolution and codebook does, layer by layer."""
    width, latent, size, dim, books = 6, 10, 32, 4, 3
    spec = Spec("small", sample_rate=16000, hop_length=8, codebook_sizes=(size,) * books, nested=True)
    tok = DAC(
        spec,
        encoder_width=width,
        rates=[2, 4],
        latent=latent,
        decoder_width=4 * width,
        decoder_rates=[4, 2],
        codebook_dim=dim,
    )
    wav = speech[0][:, :16000]

    def unit(channels: int) -> int:  # three residual units, each of a kernel of 7 and one of 1
        return 3 * (7 + 1) * channels * channels

    low, middle, high = 16000, 8000, 2000  # samples after each stride
    encode = low * (7 * width + unit(width)) + middle * (4 * width * 2 * width + unit(2 * width))
    encode += high * (8 * 2 * width * 4 * width + 3 * 4 * width * latent)
    search = high * books * (latent * dim + dim * size)  # into a space of few dimensions, and to all entries there
    decode = high * 7 * latent * 4 * width
    # A transposed convolution of kernel 2s gives s samples to each window of 2: one window more than there are samples.
    decode += (high + 1) * 2 * 4 * width * 4 * 2 * width + middle * unit(2 * width)
    decode += (middle + 1) * 2 * 2 * width * 2 * width + low * (unit(width) + 7 * width)
    found = count_macs(tok, wav, 16000)
    assert found.encode == encode + search
    assert found.decode == decode  # entries are taken out of that space once, not frame by frame


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_growth_at_the_peak_is_what_was_held_then():
    code = """
import torch
from audiotok.evaluate.peak_memory import peak_growth
for megabytes in (96, 48):
    print(peak_growth(lambda: torch.ones(megabytes, 2**18), torch.device("cpu")) / 2**20)
"""
    environment = {**os.environ, **peak_memory._ALLOCATOR}  # a process that has freed much takes from that again
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [float(line) for line in done.stdout.split()] == [pytest.approx(96, abs=4), pytest.approx(48, abs=4)]


def test_what_fails_in_the_process_is_said(monkeypatch, tmp_path):
    with pytest.raises(UnsupportedError, match="original is no tokenizer"):
        peak_memory.peak_memory("original", SECOND, 16000)
    with pytest.raises(AudiotokError, match="measures the memory of default failed: .*device 'cuda:99' cannot be used"):
        peak_memory.peak_memory("default", SECOND, 16000, "cuda:99")
    with pytest.raises(UnsupportedError, match="not on meta here"):
        peak_memory.peak_growth(lambda: None, torch.device("meta"))
    monkeypatch.setattr(peak_memory, "_PROC", tmp_path)  # as on other systems than Linux
    assert not peak_memory.can_measure(torch.device("cpu"))
    with pytest.raises(UnsupportedError, match="on the CPU of Linux, not on cpu here"):
        peak_memory.peak_growth(lambda: None, torch.device("cpu"))


# ---- all together ----------------------------------------------------------------------------------------------------


def test_the_cost_of_a_tokenizer(speech):
    wav, tok = speech[0].repeat(1, 3), audiotok.load("logmel-16khz")
    found = measure_cost("logmel-16khz", wav, 16000, threads=2, runs=1)
    assert (found.seconds, found.threads) == (wav.shape[1] / 16000, 2)
    assert 0 < found.one_core.encode < 5
    assert 0 < found.all_cores.decode < 5
    assert found.parameters == count_parameters(tok)
    assert found.macs == count_macs(tok, wav, 16000)
    assert found.macs.encode > 50 * 8 * 1024 * 80  # the search alone
    frames, bins = wav.shape[1] // 320, tok.mel.n_fft // 2
    assert 2**20 < frames * bins * 16 < found.memory.encode < 2**29  # a spectrogram in double precision
    assert 2**20 < frames * bins * 8 < found.memory.decode < 2**29


def test_the_cost_of_an_anchor_is_its_time(speech):
    found = measure_cost("original", speech[0], 16000, runs=1)
    assert found.one_core == found.all_cores == cost.Speed(0.0, 0.0)
    assert (found.memory, found.parameters, found.macs) == (None, None, None)
    assert found.threads >= 1


def test_on_other_systems_memory_is_left_out(speech, monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "_PROC", tmp_path)
    found = measure_cost("logmel-16khz:1", speech[0], 16000, threads=1, runs=1)
    assert found.memory is None
    assert found.parameters.quantizer == 8 * 1024 * 80
