"""`fit_kmeans`: a folder of audio in, a tokenizer out."""

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import audio
from ..errors import AudiotokError, FitError, FitWarning, InputError
from ..hub import resolve_device
from ..quantize import KMeansQuantizer
from ..spec import Spec
from ..ssl.logmel import LogMel
from ..ssl.logmel_kmeans import LogMelKMeans
from .engines import Engine, choose_engine, fit_centroids
from .report import FitReport, measure
from .sample import FrameSample

ROWS_PER_CENTROID = 384
ITERATIONS = 7
_HELD_OUT = 0.05  # share of files (of frames, when there are few files)
_HELD_OUT_FRAMES = 50_000
_MANY_FILES = 20


def fit_kmeans(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    features: str | LogMel = "logmel",
    layers: Sequence[int] | None = None,
    k: int = 1000,
    num_codebooks: int = 1,
    engine: Engine = "auto",
    max_frames: int | None = None,
    max_bytes: int = 1 << 30,
    iterations: int = ITERATIONS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    name: str = "",
    progress: bool = True,
) -> LogMelKMeans:
    """Fits a k-means tokenizer on audio files. With `num_codebooks` above 1 each further codebook is fitted on what
    the ones before leave over (residual vector quantization, without training).

    Frames are sampled uniformly over the whole corpus within the byte budget; the corpus is never held whole. A
    file that cannot be read is left out with a warning. One file in twenty is held out for the report.

    Args:
        source: a folder (searched with its subfolders), a file, or a list of them.
        features: "logmel" (16 kHz, 80 bands, 50 frames per second), or a `LogMel` of your own.
        layers: of an SSL model given as features; log-mel has none.
        k: entries per codebook.
        num_codebooks: K.
        engine: "faiss", "torch", or "auto": FAISS on a CPU where it is installed.
        max_frames: sampled to fit on; default 384·k, within `max_bytes`.
        max_bytes: largest sample to hold.
        iterations: of Lloyd's algorithm, from a k-means++ start; the first half on a quarter of the sample.
        seed: of the sample and the start. On a CPU the same seed gives the same tokenizer.
        device: where to fit.
        name: of the tokenizer; default from features, k and num_codebooks.
        progress: whether to show a bar.

    Returns:
        A tokenizer; its figures are in `provenance["fit"]` (a `FitReport` as a dict).

    Raises:
        FitError: more clusters than frames, constant features, or no readable audio.
        InputError: an argument out of range, or no audio in the folder.

    Example:
        tok = audiotok.fit_kmeans("my_corpus/", k=500, num_codebooks=4)
        tok.save("./my-tok")
    """
    mel = _features(features, layers)
    for what, value in (
        ("k", k),
        ("num_codebooks", num_codebooks),
        ("iterations", iterations),
        ("max_bytes", max_bytes),
    ):
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    where = resolve_device(device)
    chosen = choose_engine(engine, where)
    files = audio.find_audio(source)
    limit = max(1, max_bytes // (4 * mel.n_mels))
    size = min(limit, max_frames or max(ROWS_PER_CENTROID * k, 10_000))

    spec = Spec(
        name=name or f"logmel-k{k}" + f"x{num_codebooks}" * (num_codebooks > 1),
        sample_rate=mel.sample_rate,
        hop_length=mel.hop_length,
        codebook_sizes=(k,) * num_codebooks,
        nested=True,
        batching="mask",
    )

    started = time.perf_counter()
    sample, held_out, seconds, failed = _read(files, LogMelKMeans(spec, mel).to(where), size, seed, progress)
    read = time.perf_counter()
    frames, test = _split(sample, held_out)
    _check_frames(frames, k, failed, files)
    codebooks = _fit_residual(frames.to(where), k, num_codebooks, chosen, iterations, seed, progress)
    fitted = time.perf_counter()

    tokenizer = LogMelKMeans(spec, mel, codebooks).to(where)
    report = FitReport(
        features="logmel",
        k=k,
        num_codebooks=num_codebooks,
        engine=chosen,
        iterations=iterations,
        seed=seed,
        files=len(files),
        files_failed=len(failed),
        hours=seconds / 3600,
        frames_seen=sample.seen + (held_out.seen if held_out else 0),
        frames_used=len(frames),
        frames_held_out=len(test),
        seconds_reading=read - started,
        seconds_fitting=fitted - read,
        **measure(tokenizer.quantizer, test.to(where)),
    )
    if len(test) >= 20 * k and min(report.usage) < 0.5:
        warnings.warn(
            f"only {min(report.usage):.0%} of the {k} entries of a codebook occur on held-out audio: a smaller k "
            "would lose little",
            FitWarning,
            stacklevel=2,
        )
    tokenizer.provenance = {"license": "unknown", "fit": report.to_dict()}
    return tokenizer


def _features(features: str | LogMel, layers: Sequence[int] | None) -> LogMel:
    if layers is not None:
        raise InputError("layers= is for an SSL model given as features; log-mel has none")
    if isinstance(features, LogMel):
        return features
    if features == "logmel":
        return LogMel()
    raise InputError(f'features must be "logmel" or a LogMel, not {features!r}')


def _read(
    files: list[Path], tokenizer: LogMelKMeans, size: int, seed: int, progress: bool
) -> tuple[FrameSample, FrameSample | None, float, list[str]]:
    """The sample to fit on, the held-out one (None when there are few files), seconds read, and what failed."""
    mel = tokenizer.mel
    sample = FrameSample(size, mel.n_mels, seed)
    held_out, held = None, set()
    if len(files) >= _MANY_FILES:
        held_out = FrameSample(_HELD_OUT_FRAMES, mel.n_mels, seed)
        order = np.random.default_rng(seed).permutation(len(files))
        held = set(order[: round(_HELD_OUT * len(files))].tolist())
    seconds, failed = 0.0, []
    for number, path in enumerate(tqdm(files, desc="reading", unit="file", disable=not progress)):
        try:
            wav, rate = audio.load(path, sample_rate=mel.sample_rate, channels=1)
            frames, _ = tokenizer.features(wav)
        except AudiotokError as error:
            failed.append(f"{path}: {error}")
            continue
        seconds += wav.shape[1] / rate
        target = held_out if held_out is not None and number in held else sample
        target.add(frames[0].t(), file=number)
    if failed:
        shown = "; ".join(failed[:3]) + ("; ..." if len(failed) > 3 else "")
        message = f"{len(failed)} of {len(files)} files could not be read: {shown}"
        if len(failed) == len(files):
            raise FitError(message)
        warnings.warn(message, FitWarning, stacklevel=3)
    return sample, held_out, seconds, failed


def _split(sample: FrameSample, held_out: FrameSample | None) -> tuple[Tensor, Tensor]:
    """Frames to fit on, and frames to measure on, which are never the same."""
    frames = sample.frames()
    if held_out is not None and held_out.seen:
        return frames, held_out.frames()
    count = min(_HELD_OUT_FRAMES, max(1, round(_HELD_OUT * len(frames))))
    return frames[count:], frames[:count]  # they are in random order


def _check_frames(frames: Tensor, k: int, failed: list[str], files: list[Path]) -> None:
    if len(frames) < k:
        raise FitError(
            f"{k} clusters were asked for, but the {len(files) - len(failed)} readable files give {len(frames)} frames "
            "to fit on: lower k, give more audio, or raise max_frames or max_bytes"
        )
    if float(frames.std(dim=0, correction=0).max()) < 1e-6:
        raise FitError("all frames are the same: is the audio silent or constant?")
    distinct = len(torch.unique(frames, dim=0)) if len(frames) < 10 * k else k
    if distinct < k:
        raise FitError(f"{k} clusters were asked for, but only {distinct} of the frames differ: lower k")
    if len(frames) < 20 * k:
        warnings.warn(
            f"{len(frames)} frames for {k} clusters is few: 20 or more for each fit better",
            FitWarning,
            stacklevel=3,
        )


def _fit_residual(
    frames: Tensor,
    k: int,
    num_codebooks: int,
    engine: Literal["faiss", "torch"],
    iterations: int,
    seed: int,
    progress: bool,
) -> list[Tensor]:
    residual, codebooks = frames, []
    with tqdm(total=num_codebooks * iterations, desc="k-means", unit="it", disable=not progress) as bar:
        for stage in range(num_codebooks):

            def step(done: int, distortion: float, first: int = stage * iterations) -> None:
                bar.n = first + done
                bar.set_postfix(distortion=f"{distortion:.4g}")

            centroids = fit_centroids(
                residual,
                k,
                engine=engine,
                iterations=iterations,
                seed=seed + stage,
                progress=step,
            )
            codebooks.append(centroids)
            if stage + 1 < num_codebooks:
                quantizer = KMeansQuantizer([centroids])
                residual = residual - quantizer.decode(quantizer.encode(residual.t()[None]))[0].t()
        bar.n = num_codebooks * iterations
        bar.refresh()
    return codebooks
