"""`.dac` files: what the `dac` package's `compress` and `decompress` write and read. They are pickles; none is run."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import audio
from ..checkpoint import CheckpointWriteError, read_npy_object
from ..errors import CheckpointError, InputError, UnsupportedError
from ..files import atomic_write
from ..inputs import Wav
from ..nn.conv import Conv, ConvTranspose, without_padding
from ..nn.flow import Pieces

if TYPE_CHECKING:
    from .dac import DAC

_SILENCE_DB = -70.0  # loudness is never taken to be lower
_LEAST_SECONDS = 0.5  # of audio whose loudness is measured; shorter audio is filled up with zeros
_BLOCK, _OVERLAP = 0.4, 0.75  # seconds of a block, share that the next one covers too
_RELATIVE_GATE_DB = -10.0
_VERSION = "1.0.0"  # of the format


@dataclass(frozen=True)
class DacFile:
    """Contents of a `.dac` file.

    Attributes:
        codes: [C, K, F] int64, window after window.
        chunk_length: frames of each window.
        padded: whether the audio was coded whole, with padding.
        loudness_db: [1] or [C], of the audio that went in.
        original_length: its samples, at `sample_rate`.
        sample_rate: in Hz.
        channels: of the audio.
    """

    codes: Tensor
    chunk_length: int
    padded: bool
    loudness_db: tuple[float, ...]
    original_length: int
    sample_rate: int
    channels: int

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as the `dac` package does, whole or not at all.

        Raises:
            CheckpointWriteError: the file cannot be written.
        """
        metadata = {
            "input_db": np.array(self.loudness_db, dtype=np.float32),
            "original_length": self.original_length,
            "sample_rate": self.sample_rate,
            "chunk_length": self.chunk_length,
            "channels": self.channels,
            "padding": self.padded,
            "dac_version": _VERSION,
        }
        contents = np.array({"codes": self.codes.cpu().numpy().astype(np.uint16), "metadata": metadata}, dtype=object)
        try:
            with atomic_write(path) as handle:
                np.save(handle, contents, allow_pickle=True)
        except OSError as error:
            raise CheckpointWriteError(error.errno, f"cannot write {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DacFile":
        """Reads a file of the `dac` package, or of `save`.

        Raises:
            CheckpointError: missing, broken or hostile, or not a `.dac` file.
        """
        found: Any = read_npy_object(path)
        try:
            codes, facts = found["codes"], found["metadata"]
            if not isinstance(codes, np.ndarray) or codes.ndim != 3 or codes.dtype.kind not in "iu" or not codes.size:
                raise ValueError("its codes are no [C, K, F] integers")
            file = cls(
                codes=torch.from_numpy(codes.astype(np.int64)),
                chunk_length=_whole(facts["chunk_length"]),
                padded=bool(facts["padding"]),
                loudness_db=tuple(float(value) for value in np.ravel(facts["input_db"])),
                original_length=_whole(facts["original_length"]),
                sample_rate=_whole(facts["sample_rate"]),
                channels=_whole(facts["channels"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{path} is no .dac file: {error}") from error
        if file.channels != len(codes) or len(file.loudness_db) not in (1, len(codes)) or codes.min() < 0:
            raise CheckpointError(f"{path} contradicts itself: {len(codes)} rows of codes, {file.channels} channels")
        if not all(math.isfinite(value) for value in file.loudness_db):
            raise CheckpointError(f"{path}: a loudness of {file.loudness_db} dB")
        return file


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 1 << 40:
        raise ValueError(f"{value!r} where a number from 1 on is wanted")
    return int(value)


def compress(
    tokenizer: "DAC", wav: Wav, sample_rate: int | None, window_seconds: float | None, loudness_db: float | None
) -> DacFile:
    """See `DAC.compress`."""
    spec = tokenizer.spec
    samples = audio.as_samples(wav)
    samples = samples[None] if samples.dim() == 1 else samples
    if samples.dim() != 2 or not samples.numel() or not bool(samples.isfinite().all()):
        raise InputError(f"compress wants finite audio [T] or [C, T], not {list(samples.shape)}")
    given_rate = spec.sample_rate if sample_rate is None else sample_rate
    original = samples.shape[1]
    before = loudness(samples, given_rate)
    samples = audio.resample(samples, given_rate, spec.sample_rate)
    if loudness_db is not None:
        samples = samples * _gain(loudness_db - before)
    samples = samples / samples.abs().amax(1, keepdim=True).clamp(min=1.0)
    samples = samples.to(tokenizer.device)
    length = samples.shape[1]
    if window_seconds is None or length / spec.sample_rate <= window_seconds:
        tokens, chunk, padded = tokenizer._encode(samples[:, None], torch.full((len(samples),), length))[0], 0, True
    else:
        window = math.ceil(window_seconds * spec.sample_rate / spec.hop_length) * spec.hop_length
        tokens, chunk = _windows(tokenizer, samples, window)
        padded = False
    return DacFile(
        codes=tokens,
        chunk_length=chunk or tokens.shape[2],
        padded=padded,
        loudness_db=(before,),
        original_length=original,
        sample_rate=given_rate,
        channels=len(samples),
    )


def _windows(tokenizer: "DAC", samples: Tensor, window: int) -> tuple[Tensor, int]:
    """Tokens of all windows, one after another, and frames of each."""
    delay, step = lost_samples(tokenizer), output_length(tokenizer, window)
    if step < 1:
        raise InputError(f"a window of {window} samples is too short for a network that loses {2 * delay} of them")
    starts = range(0, samples.shape[1], step)
    padded = nn.functional.pad(samples, (delay, max(0, starts[-1] + window - samples.shape[1] - delay)))
    bare = without_padding(tokenizer.encoder)
    found = []
    for start in starts:
        latents = bare(padded[:, start : start + window, None].to(tokenizer.dtype), Pieces())
        found.append(tokenizer._quantize(latents.transpose(1, 2)))
    return torch.cat(found, 2), found[0].shape[2]


def decompress(tokenizer: "DAC", file: DacFile) -> Tensor:
    """See `DAC.decompress`."""
    codes, spec = file.codes.to(tokenizer.device), tokenizer.full_spec
    sizes = torch.tensor(spec.codebook_sizes[: codes.shape[1]], device=codes.device)
    if codes.shape[1] > spec.num_codebooks or bool((codes >= sizes[:, None]).any()):
        raise InputError(f"this file has codes that {spec.name} does not have: it was made by another network")
    with torch.no_grad():
        if file.padded:
            wav = tokenizer._decode(codes, {})[:, 0]
        else:
            bare = without_padding(tokenizer.decoder)
            parts = []
            for chunk in torch.split(codes, file.chunk_length, 2):
                features = tokenizer._embed(chunk).transpose(1, 2).to(tokenizer.dtype)
                parts.append(bare(features, Pieces())[:, :, 0])
            wav = torch.cat(parts, 1)
    wav = wav.float()
    wav = wav * _gain(file.loudness_db[0] - loudness(wav, spec.sample_rate))
    wav = audio.resample(wav, spec.sample_rate, file.sample_rate)[:, : file.original_length]
    return nn.functional.pad(wav, (0, file.original_length - wav.shape[1]))


def loudness(samples: Tensor, sample_rate: int) -> float:
    """Integrated loudness of [C, T] in dB (ITU-R BS.1770-4), at least -70.

    As the `dac` package measures it, whose codes hang on it: filtered in float32 (the recursion's rounding moves the
    result by 5e-5 dB), in blocks up to the end of the audio, the last one filled up with zeros.
    """
    try:
        import pyloudnorm
        from scipy.signal import lfilter
    except ImportError as error:
        raise UnsupportedError(".dac files need the package pyloudnorm: pip install 'audiotok[dac]'") from error
    missing = max(0, math.ceil(_LEAST_SECONDS * sample_rate) - samples.shape[1])
    weighted = nn.functional.pad(samples, (0, missing)).float().cpu().numpy()
    for k_filter in pyloudnorm.Meter(sample_rate)._filters.values():
        weighted = lfilter(k_filter.b.astype(np.float32), k_filter.a.astype(np.float32), weighted)
    size, step = int(_BLOCK * sample_rate), int(_BLOCK * sample_rate * (1 - _OVERLAP))
    blocks = math.ceil((weighted.shape[1] - size) / step) + 1
    filled = np.pad(weighted, ((0, 0), (0, (blocks - 1) * step + size - weighted.shape[1])))
    power = np.lib.stride_tricks.sliding_window_view(np.square(filled), size, 1)[:, ::step].sum(2) / (
        _BLOCK * sample_rate
    )
    total = power.sum(0)
    gated = total[_decibels(total) > _SILENCE_DB]
    if len(gated):
        gated = gated[_decibels(gated) > _decibels(gated.mean()) + _RELATIVE_GATE_DB]
    return max(float(_decibels(gated.mean())), _SILENCE_DB) if len(gated) else _SILENCE_DB


def _decibels(power: Any) -> Any:
    with np.errstate(divide="ignore"):
        return -0.691 + 10 * np.log10(power)


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _layers(tokenizer: "DAC") -> list[Conv | ConvTranspose]:
    networks = (tokenizer.encoder, tokenizer.decoder)
    return [layer for network in networks for layer in network.modules() if isinstance(layer, Conv | ConvTranspose)]


def output_length(tokenizer: "DAC", samples: int) -> int:
    """Samples that the network without padding gives back of so many."""
    for layer in _layers(tokenizer):
        if isinstance(layer, Conv):
            samples = (samples - layer.window.reach) // layer.stride + 1
        else:
            samples = (samples - 1) * layer.stride + layer.kernel
    return samples


def lost_samples(tokenizer: "DAC") -> int:
    """Samples that the network without padding loses at each end."""
    end = output_length(tokenizer, 0)
    start = end
    for layer in reversed(_layers(tokenizer)):
        if isinstance(layer, Conv):
            start = (start - 1) * layer.stride + layer.window.reach
        else:
            start = math.ceil((start - layer.kernel) / layer.stride + 1)
    return (start - end) // 2
