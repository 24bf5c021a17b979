"""Audio in and out: read, write, resample, pad. soundfile reads, soxr resamples, nothing else does."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
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
_BLOCK_SECONDS = 30  # read and resampled at a time, so that only the result is ever whole in memory


def load(
    source: str | os.PathLike[str] | BinaryIO, *, sample_rate: int | None = None, channels: int | None = None
) -> tuple[Tensor, int]:
    """Reads an audio file, mixes it to the channels wanted and resamples it.

    Args:
        source: path, or a seekable binary file object.
        sample_rate: rate of the result in Hz; None keeps the file's own.
        channels: None keeps the file's own; 1 averages all channels; another number must be the file's own,
            except that a mono file is copied to every channel.

    Returns:
        wav [C, T] float32 in -1..1, and its sample rate.

    Raises:
        AudioFileError: missing, not audio, truncated, or with no samples in it.
        InputError: its channels cannot be mixed to `channels`.
    """
    name = getattr(source, "name", "audio data") if hasattr(source, "read") else os.fspath(source)
    try:
        with soundfile.SoundFile(_libsndfile_name(source)) as file:
            target = sample_rate or file.samplerate
            pieces = list(_resampled(_mixed(file, channels, name), file.samplerate, target))
            missing = file.frames - file.tell() if file.seekable() else 0
            rate = file.samplerate
    except TypeError as error:  # what soundfile makes of a .raw file
        raise AudioFileError(f"cannot read {name}: raw samples have no header that says what they are") from error
    except soundfile.LibsndfileError as error:
        missing_file = not hasattr(source, "read") and not Path(name).exists()
        reason = "no such file" if missing_file else error.error_string
        raise AudioFileError(f"cannot read {name}: {reason}") from error
    if missing > 0:
        raise AudioFileError(f"{name} is truncated: {missing / rate:.2f} s that its header promises are missing")
    wav = torch.from_numpy(np.ascontiguousarray(np.concatenate(pieces).T)) if pieces else torch.empty(1, 0)
    if wav.shape[1] == 0:
        raise AudioFileError(f"{name} holds no samples")
    return wav, target


def _libsndfile_name(source: str | os.PathLike[str] | BinaryIO) -> str | bytes | BinaryIO:
    """On POSIX a path is bytes, so that names which are not UTF-8 can be read too."""
    if not isinstance(source, str | os.PathLike):
        return source
    return os.fsencode(source) if os.name == "posix" else os.fspath(source)


def _mixed(file: soundfile.SoundFile, channels: int | None, name: object) -> Iterator[npt.NDArray[np.float32]]:
    if channels not in (None, 1, file.channels) and file.channels != 1:
        raise InputError(f"{name} has {file.channels} channels, which cannot be mixed to {channels}")
    for block in file.blocks(_BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True):
        if channels == 1 and file.channels > 1:
            yield block.mean(axis=1, keepdims=True)
        elif channels is not None and channels != file.channels:
            yield np.repeat(block, channels, axis=1)
        else:
            yield block


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
    samples = wav.detach().float().cpu().clamp(-1, 1).reshape(-1, wav.shape[-1]).T.numpy()
    if hasattr(target, "write"):
        soundfile.write(target, samples, sample_rate, format=format)
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
        soundfile.write(data, samples, sample_rate, format=known[ending], subtype=subtype)
        with atomic_write(path) as file:
            file.write(data.getbuffer())
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioFileError(f"cannot write {path}: {error}") from error


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
