"""Audio in and out: read, write, resample, pad. soundfile reads, soxr resamples, nothing else does."""

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from .errors import AudioFileError, InputError
from .files import atomic_write

#: File name endings that `find_audio` looks for: what libsndfile reads.
EXTENSIONS = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
    ".caf",
    ".w64",
    ".rf64",
)
_ROUNDING_SECONDS = 0.01  # by which a segment may seem to end behind its file
_MARGIN_SAMPLES = 512  # around a segment, at the lower of the two rates: further than soxr's filter reaches
_LEAD_SECONDS = 0.25  # decoded and thrown away before a place in an MP3 file
_VORBIS_PAGE_SAMPLES = 255 * 1024  # at most, as libvorbis encodes: packets of 2048 samples that overlap by half
_BLOCK_SECONDS = 30  # read and resampled at a time, so that only the result is ever whole in memory


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says: samples [C, T] at a rate in Hz."""

    num_samples: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length."""
        return self.num_samples / self.sample_rate


def info(source: str | os.PathLike[str] | BinaryIO) -> AudioInfo:
    """Reads the header of an audio file, and nothing else.

    Raises:
        AudioFileError: missing, or not audio.
    """
    with _opened(source) as (file, _):
        return AudioInfo(file.frames, file.samplerate, file.channels)


def load(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> tuple[Tensor, int]:
    """Reads an audio file or a segment of it, mixes it to the channels wanted and resamples it.

    A segment is cut where it lies in the whole file at the rate of the result: samples round(start · rate) to
    round(end · rate), so that segments which follow one another neither share nor lose a sample. It is resampled with
    the audio around it, as if the whole file had been.

    Args:
        source: path, or a seekable binary file object.
        sample_rate: rate of the result in Hz; None keeps the file's own.
        channels: None keeps the file's own; 1 averages all channels; another number must be the file's own,
            except that a mono file is copied to every channel.
        start: of the segment, in seconds.
        end: of the segment, in seconds; None is the end of the file. It may lie 10 ms behind that, since manifests
            round.

    Returns:
        wav [C, T] float32 in -1..1, and its sample rate.

    Raises:
        AudioFileError: missing, not audio, truncated, or with no samples in it.
        InputError: its channels cannot be mixed to `channels`, or the segment does not lie in it.
    """
    with _opened(source) as (file, name):
        target = sample_rate or file.samplerate
        segment = _Segment.of(file, target, start, end, name)
        pieces = list(_resampled(_mixed(file, channels, name, segment), file.samplerate, target))
        missing = segment.seek + segment.count - file.tell() if file.seekable() else 0
        rate = file.samplerate
    if missing > 0:
        raise AudioFileError(f"{name} is truncated: {missing / rate:.2f} s that its header promises are missing")
    wav = torch.from_numpy(np.ascontiguousarray(np.concatenate(pieces).T)) if pieces else torch.empty(1, 0)
    if wav.shape[1] == 0:
        raise AudioFileError(f"{name} holds no samples")
    if (segment.first, segment.last) != (0, None):
        wav = wav[:, segment.first : segment.last].clone()
    return wav, target


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """A file that is open for reading, and its name for messages."""
    name = str(getattr(source, "name", "audio data") if hasattr(source, "read") else os.fspath(source))
    try:
        with soundfile.SoundFile(_libsndfile_name(source)) as file:
            yield file, name
    except TypeError as error:  # what soundfile makes of a .raw file
        raise AudioFileError(f"cannot read {name}: raw samples have no header that says what they are") from error
    except soundfile.LibsndfileError as error:
        missing_file = not hasattr(source, "read") and not Path(name).exists()
        reason = error.error_string
        if missing_file or "does not exist" in reason:  # which libsndfile says of an MP3 without a frame, too
            reason = "no such file" if missing_file else "no audio in it"
        raise AudioFileError(f"cannot read {name}: {reason}") from error


@dataclass(frozen=True)
class _Segment:
    """Which samples of a file to read, and which of them to keep once they are resampled."""

    seek: int
    count: int
    first: int = 0
    last: int | None = None

    @classmethod
    def of(cls, file: soundfile.SoundFile, target: int, start: float, end: float | None, name: str) -> "_Segment":
        if start == 0 and end is None:
            return cls(0, file.frames)
        rate, length = file.samplerate, file.frames / file.samplerate
        if not 0 <= start < (length if end is None else min(end, length)) or (end or 0) > length + _ROUNDING_SECONDS:
            until = "its end" if end is None else f"{end:g} s"
            raise InputError(f"{name} has {length:.3f} s: there is no segment from {start:g} s to {until}")
        first = round(start * target)
        last = None if end is None or end >= length else round(end * target)
        # Both signals meet on a grid of `step` samples in; from a point of it a part resamples as the whole does.
        step = rate // math.gcd(rate, target)
        margin = 0 if rate == target else round(_MARGIN_SAMPLES * max(1, rate / target))
        seek = max(0, first * rate // target - margin) // step * step
        stop = file.frames if last is None else min(file.frames, -(-last * rate // target) + margin)
        offset = seek // step * (target // math.gcd(rate, target))
        return cls(seek, stop - seek, first - offset, None if last is None else last - offset)


def _libsndfile_name(source: str | os.PathLike[str] | BinaryIO) -> str | bytes | BinaryIO:
    """On POSIX a path is bytes, so that names which are not UTF-8 can be read too."""
    if not isinstance(source, str | os.PathLike):
        return source
    return os.fsencode(source) if os.name == "posix" else os.fspath(source)


def _mixed(
    file: soundfile.SoundFile, channels: int | None, name: object, segment: _Segment
) -> Iterator[npt.NDArray[np.float32]]:
    if channels not in (None, 1, file.channels) and file.channels != 1:
        raise InputError(f"{name} has {file.channels} channels, which cannot be mixed to {channels}")
    for block in _blocks(file, segment.seek, segment.seek + segment.count):
        if channels == 1 and file.channels > 1:
            yield block.mean(axis=1, keepdims=True)
        elif channels is not None and channels != file.channels:
            yield np.repeat(block, channels, axis=1)
        else:
            yield block


def _blocks(file: soundfile.SoundFile, begin: int, end: int) -> Iterator[npt.NDArray[np.float32]]:
    """Samples [T, C] from `begin` to `end`, as they are when the whole file is read at once."""
    at, position = begin, 0
    while at < end:
        entry = _entry(file, at)
        if entry != position:
            file.seek(entry)
        count = at - entry + min(_BLOCK_SECONDS * file.samplerate, end - at)
        block = file.read(count, dtype="float32", always_2d=True)[at - entry :]
        if len(block) == 0:
            return
        at = position = at + len(block)
        yield block


def _entry(file: soundfile.SoundFile, frame: int) -> int:
    """Where to begin to decode for the samples from `frame` on, all in one call: soundfile seeks after each.

    An MP3 frame needs those before it (the bit reservoir). libsndfile takes a place in the last page of a Vorbis file
    for a later one, by the samples that the file's end cuts off; a page has at most 255 packets.
    """
    if frame == 0 or not file.seekable():
        return frame
    if file.format == "MP3":
        return max(0, frame - round(_LEAD_SECONDS * int(file.samplerate)))
    if file.subtype == "VORBIS":
        return max(0, min(frame, int(file.frames) - _VORBIS_PAGE_SAMPLES))
    return frame


def _resampled(
    blocks: Iterable[npt.NDArray[np.float32]], source_rate: int, target_rate: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks [T, C] at another rate. soxr's stream gives bit for bit what it gives for the whole signal."""
    if source_rate == target_rate:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(source_rate, target_rate, block.shape[1], dtype="float32")
        yield stream.resample_chunk(block)
    if stream is not None:
        yield stream.resample_chunk(block[:0], last=True)


def save(target: str | os.PathLike[str] | BinaryIO, wav: Tensor, sample_rate: int, *, format: str = "WAV") -> None:
    """Writes 16-bit audio; samples outside -1..1 are clipped.

    Args:
        target: path, whose ending chooses the format, or a binary file object, which gets `format`.
        wav: [T] or [C, T], float.
        sample_rate: in Hz.

    Raises:
        InputError: wrong rank. AudioFileError: unknown ending, or the file cannot be written (nothing
            half-written is left).
    """
    if wav.dim() not in (1, 2):
        raise InputError(f"audio.save wants [T] or [C, T], not {list(wav.shape)}")
    samples = (wav if wav.dim() == 2 else wav[None]).detach().float().cpu().clamp(-1, 1).T.numpy()
    if hasattr(target, "write"):
        _write(target, samples, sample_rate, format, None)
        return
    path = Path(target)
    known = {
        **{key: key for key in soundfile.available_formats()},
        "OPUS": "OGG",
        "OGA": "OGG",
        "AIF": "AIFF",
    }
    ending = path.suffix[1:].upper()
    if ending not in known:
        raise AudioFileError(f"cannot write {path}: use an ending such as .wav or .flac, not {path.suffix!r}")
    subtype = "OPUS" if ending == "OPUS" else None
    try:
        data = io.BytesIO()  # libsndfile does not report a full disk through a file object
        _write(data, samples, sample_rate, known[ending], subtype)
        with atomic_write(path) as file:
            file.write(data.getbuffer())
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioFileError(f"cannot write {path}: {error}") from error


def _write(target: Any, samples: npt.NDArray[np.float32], sample_rate: int, format: str, subtype: str | None) -> None:
    """Second by second: libsndfile's Vorbis encoder overruns its stack when it is given a minute at once."""
    with soundfile.SoundFile(target, "w", sample_rate, samples.shape[1], subtype, format=format) as file:
        for start in range(0, len(samples), sample_rate):
            file.write(samples[start : start + sample_rate])


def resample(wav: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resamples [..., T] with soxr's HQ filter, on the CPU; the result lies where wav lay.

    Returns:
        [..., T'] float32, T' = round(T · target_rate / source_rate).
    """
    if source_rate == target_rate:
        return wav
    flat = wav.detach().float().cpu().reshape(-1, wav.shape[-1])
    out = soxr.resample(np.ascontiguousarray(flat.T.numpy()), source_rate, target_rate)
    return torch.from_numpy(np.ascontiguousarray(out.T)).reshape(*wav.shape[:-1], -1).to(wav.device)


def pad_batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Joins rows [C, T_i] into one batch, zeros after each row's end.

    Returns:
        wav [B, C, max T_i] and lengths [B] int64.
    """
    longest = max(row.shape[-1] for row in rows)
    lengths = torch.tensor([row.shape[-1] for row in rows], device=rows[0].device)
    if len(rows) == 1:
        return rows[0][None], lengths
    wav = rows[0].new_zeros(len(rows), rows[0].shape[0], longest)
    for target, row in zip(wav, rows, strict=True):
        target[:, : row.shape[-1]] = row
    return wav, lengths


def find_audio(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Audio files of a folder (with all its subfolders, sorted), of one file, or of a list of both.

    Raises:
        AudioFileError: a path that does not exist. InputError: a folder with no audio in it.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    found: list[Path] = []
    for path in map(Path, sources):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not inside:
                raise InputError(f"no audio in {path}: looked for {' '.join(EXTENSIONS)}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise AudioFileError(f"no such file or folder: {path}")
    return found


def as_samples(array: Any) -> Tensor:
    """A tensor or array of int16 or float samples as float32 (int16 is divided by 32768).

    Raises:
        InputError: another type.
    """
    if not isinstance(array, Tensor):
        try:
            array = torch.as_tensor(np.asarray(array))
        except (TypeError, ValueError) as error:
            raise InputError(f"audio must be a tensor, an array or a list of them: {error}") from error
    samples: Tensor = array
    if samples.dtype == torch.int16:
        return samples.float() / 32768
    if not torch.is_floating_point(samples):
        raise InputError(f"audio must be int16 or float, not {samples.dtype}: scale it to -1..1 first")
    return samples.float()
