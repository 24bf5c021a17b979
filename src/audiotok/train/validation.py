"""How well a codec does on audio that it is not trained on, and a few examples to listen to."""

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import audio
from ..codec.network import CodecNetwork
from ..nn.spectra import MultiScaleMel
from ..quantize.distributed import rank, sum_over_ranks, world_size
from ..sources import Item
from .pool import Pool

_LEAST_SAMPLES = 2048  # what the longest window of the mel distance needs, and more
_SPEECH_RATES = {16000: "wb", 8000: "nb"}  # of PESQ
_EPSILON = 1e-8
_QUIETEST = 1e-4  # peak of what speech is looked for in

Score = Callable[[Tensor, Tensor], float]  # reference and estimate [T]


class Validation:
    """The middles of some items, and the same ones each time.

    Mel distance and SI-SNR are measured on all of them; STOI and PESQ, where pystoi and pesq are installed, on those
    whose domain is "speech" or is not known. A score that cannot be computed for an item (PESQ of silence) is left out
    of its mean; one that could be for none is absent. Under several processes each takes its share of the items.

    Args:
        pool: of the items.
        seconds: of each at most.
        column: that names the domain.
    """

    def __init__(self, pool: Pool, *, seconds: float, column: str = "domain") -> None:
        self.sample_rate = pool.sample_rate
        most = max(_LEAST_SAMPLES, round(seconds * pool.sample_rate))
        self.clips: list[tuple[Item, Tensor]] = []
        for number, (item, length) in enumerate(zip(pool.items, pool.lengths.tolist(), strict=True)):
            count = min(most, length)
            samples = pool.read(number, (length - count) // 2, count)
            if samples is not None:
                wav = torch.from_numpy(np.pad(samples, (0, max(0, _LEAST_SAMPLES - len(samples)))))
                self.clips.append((item, wav))
        self.domains = [str(item.columns.get(column) or "") for item, _ in self.clips]
        self._mel = MultiScaleMel(pool.sample_rate)
        self._speech = speech_scores(pool.sample_rate)

    @torch.no_grad()
    def measure(self, network: CodecNetwork, device: torch.device) -> tuple[dict[str, float], list[Tensor]]:
        """Means of the scores, over all clips ("mel") and over those of each domain ("mel/music"), and what the network
        (in evaluation) made of those clips that are this process's, [T] each. To be called by all processes."""
        names = ["mel", "si_snr", *self._speech]
        groups = ["", *sorted(set(self.domains) - {""})] if len(set(self.domains)) > 1 else [""]
        totals = torch.zeros(len(groups), len(names), 2, dtype=torch.float64)  # sums and counts
        made = []
        for number in range(rank(), len(self.clips), world_size()):
            wav, domain = self.clips[number][1], self.domains[number]
            output = network(wav[None, None].to(device)).wav
            assert output is not None  # which it only is where it is not asked for
            estimate = output[0, 0].float().cpu()
            made.append(estimate)
            for place, name in enumerate(names):
                value = self._score(name, wav, estimate, domain)
                if math.isfinite(value):
                    for group in {0, groups.index(domain) if domain in groups else 0}:
                        totals[group, place] += torch.tensor([value, 1.0], dtype=torch.float64)
        sums, counts = sum_over_ranks(totals.float().to(device)).cpu().unbind(2)
        found = {}
        for group, group_name in enumerate(groups):
            for place, name in enumerate(names):
                if counts[group, place]:
                    mean = float(sums[group, place] / counts[group, place])
                    found[f"{name}/{group_name}" if group_name else name] = round(mean, 5)
        return found, made

    def _score(self, name: str, wav: Tensor, estimate: Tensor, domain: str) -> float:
        if name == "mel":
            return float(self._mel(estimate[None], wav[None]))
        if name == "si_snr":
            return si_snr(wav, estimate)
        return self._speech[name](wav, estimate) if domain in ("", "speech") else math.nan


def si_snr(reference: Tensor, estimate: Tensor) -> float:
    """Scale-invariant signal-to-noise ratio in dB of [T] waveforms without their means (Luo and Mesgarani 2018,
    arXiv 1809.07454); NaN for a silent reference.

    Example:
        >>> wav = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> round(si_snr(wav, 5 * wav + torch.tensor([1.0, 1.0, -1.0, -1.0])), 3)  # 25 : 1
        13.979
    """
    reference, estimate = (one.double() - one.double().mean() for one in (reference, estimate))
    power = reference.square().sum()
    if float(power) < _EPSILON:
        return math.nan
    target = (estimate @ reference) / power * reference
    noise = (estimate - target).square().sum()
    return float(10 * torch.log10((target.square().sum() + _EPSILON) / (noise + _EPSILON)))


def speech_scores(sample_rate: int) -> dict[str, Score]:
    """STOI and PESQ, as far as their packages are installed; each gives NaN where it cannot be computed."""
    scores: dict[str, Score] = {}
    if importlib.util.find_spec("pystoi") is not None:
        scores["stoi"] = lambda wav, estimate: _stoi(wav, estimate, sample_rate)
    if importlib.util.find_spec("pesq") is not None and sample_rate in _SPEECH_RATES:
        scores["pesq"] = lambda wav, estimate: _pesq(wav, estimate, sample_rate)
    return scores


def _stoi(wav: Tensor, estimate: Tensor, sample_rate: int) -> float:
    if _is_silent(wav):
        return math.nan
    pystoi: Any = importlib.import_module("pystoi")
    with warnings.catch_warnings(record=True) as caught:  # of too little speech, for which it gives a constant
        warnings.simplefilter("always")
        value = float(pystoi.stoi(wav.numpy(), estimate.numpy(), sample_rate))
    return math.nan if any(issubclass(one.category, RuntimeWarning) for one in caught) else value


def _pesq(wav: Tensor, estimate: Tensor, sample_rate: int) -> float:
    if _is_silent(wav) or _is_silent(estimate):
        return math.nan
    pesq: Any = importlib.import_module("pesq")
    value = pesq.pesq(
        sample_rate, wav.numpy(), estimate.numpy(), _SPEECH_RATES[sample_rate], on_error=pesq.PesqError.RETURN_VALUES
    )
    return float(value) if value > 0 else math.nan  # negative numbers are errors


def _is_silent(wav: Tensor) -> bool:
    return float(wav.abs().max()) < _QUIETEST


def write_samples(folder: Path, step: int, clips: Sequence[Tensor], made: Sequence[Tensor], sample_rate: int) -> None:
    """Each clip as NN_original.flac, once, and as the codec makes it after `step` as NN_step-NNNNNNNNN.flac."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (wav, estimate) in enumerate(zip(clips, made, strict=True)):
        original = folder / f"{number:02d}_original.flac"
        if not original.exists():
            audio.save(original, wav, sample_rate)
        audio.save(folder / f"{number:02d}_step-{step:09d}.flac", estimate, sample_rate)
