"""How many codes change when the audio hardly does, and in which ways of encoding; as plain numbers for a report."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import audio
from ..errors import InputError
from ..inputs import Wav, rows_of
from ..testing import allowed_share, parity
from ..tokenizer import Tokenizer

_NOISES = (40, 30)  # signal to noise, dB
_GAINS = (-6, -3, 3)  # dB


@dataclass(frozen=True)
class CodeChanges:
    """The codes that one change of the audio changes.

    Attributes:
        change: "shift by 1/4 hop", "noise at 40 dB", "gain of -6 dB", ...
        frames: that were compared.
        different: of each codebook, the frames whose token is another.

    Example:
        >>> changes = CodeChanges("noise at 40 dB", frames=10, different=(1, 4))
        >>> changes.shares, changes.share
        ((0.1, 0.4), 0.25)
    """

    change: str
    frames: int
    different: tuple[int, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each codebook, the share of tokens that change, 0 to 1."""
        return tuple(count / self.frames for count in self.different)

    @property
    def share(self) -> float:
        """Of all tokens."""
        return sum(self.different) / (self.frames * len(self.different))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with those of the properties."""
        values = {**asdict(self), "different": list(self.different)}
        return {**values, "shares": list(self.shares), "share": self.share}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CodeChanges":
        """The inverse of `to_dict`. Raises `InputError` for anything else."""
        try:
            return cls(str(values["change"]), int(values["frames"]), tuple(values["different"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these are no changes of codes: {error!r}") from error


def code_changes(tokenizer: Tokenizer, wav: Tensor, sample_rate: int | None = None, *, key: str) -> list[CodeChanges]:
    """Encodes a piece of audio as it is and with small changes, and counts the codes that differ, frame by frame.

    Shifts: by one sample, and 1/8, 1/4 and 1/2 of a hop. A shift by s samples leaves the grid of frames where it is and
    moves the audio: with x[0 : N] the audio as it is and x[s : N + s] the shifted one, both whole recordings to the
    tokenizer, frame f of the one is compared with frame f of the other, whose hop begins s samples later. At half a
    hop frame f + 1 would be as good a match, so that some change is right; a shift by one sample nobody can hear.
    White noise: 40 and 30 dB below the audio's mean power, drawn by the key. Gain: -6, -3 and +3 dB; audio that would
    clip with +3 dB is first brought down to a peak of -3 dB, for all comparisons alike.

    Args:
        tokenizer: all versions of the audio go in one call of `encode`.
        wav: [C, T], longer than a hop and a half.
        sample_rate: in Hz; None means the tokenizer's. Another one is resampled before anything is changed.
        key: of the item, such as its id: the same key gives the same noise.

    Returns:
        One for each change, in this order.

    Raises:
        InputError: audio that is too short, or that `encode` does not take.
    """
    spec = tokenizer.spec
    row = rows_of([wav], spec, sample_rate, None, torch.device("cpu"))[0]
    room = spec.hop_length // 2
    samples = row.shape[1] - room
    if samples < spec.hop_length:
        raise InputError(f"robustness wants audio of {spec.hop_length + room} samples or more, not {row.shape[1]}")
    row = row * min(1.0, 10 ** (-max(_GAINS) / 20) / max(float(row.abs().max()), 1e-9))
    plain = row[:, :samples]
    versions = {
        **{f"shift by {name}": row[:, shift : shift + samples] for name, shift in _shifts(spec.hop_length).items()},
        **{f"noise at {decibels} dB": plain + _noise(plain, decibels, key) for decibels in _NOISES},
        **{f"gain of {decibels:+d} dB": plain * 10 ** (decibels / 20) for decibels in _GAINS},
    }
    tokens = tokenizer.encode([plain, *versions.values()]).tokens
    different = (tokens[1:] != tokens[0]).sum(2).tolist()  # [versions][K]
    return [
        CodeChanges(change, tokens.shape[2], tuple(counts)) for change, counts in zip(versions, different, strict=True)
    ]


def merge_changes(items: Iterable[Sequence[CodeChanges]]) -> list[CodeChanges]:
    """The sums over items of one tokenizer, as `code_changes` gave them, or over parts that were summed before.

    Raises:
        InputError: changes of unlike numbers of codebooks.
    """
    sums: dict[str, CodeChanges] = {}
    for one in (change for item in items for change in item):
        before = sums.get(one.change, CodeChanges(one.change, 0, (0,) * len(one.different)))
        if len(before.different) != len(one.different):
            raise InputError(f"changes of {len(one.different)} codebooks cannot be added to {len(before.different)}")
        different = tuple(a + b for a, b in zip(before.different, one.different, strict=True))
        sums[one.change] = CodeChanges(one.change, before.frames + one.frames, different)
    return list(sums.values())


def parity_rows(tokenizer: Tokenizer, wavs: Sequence[Wav]) -> list[dict[str, Any]]:
    """What `audiotok.testing.parity` finds, as plain values, ready for JSON.

    Args:
        tokenizer: on any device; left as it was.
        wavs: rows [T_i] or [C, T_i] at its sample rate; several, of different lengths.

    Returns:
        For each way of encoding: way, codes, different, share, allowed (the largest share that the tokenizer may
        change in that way) and passed.
    """
    found = []
    for one in parity(tokenizer, [audio.as_samples(wav) for wav in wavs]):
        allowed = allowed_share(one.way, tokenizer)
        found.append({**asdict(one), "share": one.share, "allowed": allowed, "passed": one.share <= allowed})
    return found


def _shifts(hop: int) -> dict[str, int]:
    """Samples of each shift that is one, above 0 and below a hop."""
    shifts = {"1 sample": 1, "1/8 hop": hop // 8, "1/4 hop": hop // 4, "1/2 hop": hop // 2}
    return {name: shift for name, shift in shifts.items() if 0 < shift < hop}


def _noise(wav: Tensor, decibels: float, key: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{decibels} {key}".encode()).digest()[:7], "big")
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(seed))
    return noise * wav.square().mean().sqrt() * 10 ** (-decibels / 20)
