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
from ..ssl.logmel import LogMel
from ..tokenizer import Tokenizer
from .engines import Engine, choose_engine, fit_centroids
from .features import Features, features_of
from .report import FitReport, measure
from .sample import FrameSample

ROWS_PER_CENTROID = 384
ITERATIONS = 7
_HELD_OUT = 0.05  # share of files (of frames, when there are few files)
_HELD_OUT_FRAMES = 50_000
_MANY_FILES = 20

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def fit_kmeans(
    source: Source,
    *,
    features: str | os.PathLike[str] | LogMel = "logmel",
    layers: Sequence[int] | None = None,
    k: int = 1000,
    num_codebooks: int = 1,
    engine: Engine = "auto",
    max_frames: int | None = None,
    max_bytes: int = 2 << 30,
    iterations: int = ITERATIONS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    name: str = "",
    progress: bool = True,
) -> Tokenizer:
    """Fits a k-means tokenizer on audio files: on log-mel frames, or on layers of an SSL model, all in one pass over
    the audio, a codebook for each layer.

    Frames are sampled uniformly over the whole corpus within the byte budget; the corpus is never held whole, and no
    padding is ever seen. A file that cannot be read is left out with a warning. One file in twenty is held out for
    the report.

    Args:
        source: a folder (searched with its subfolders), a file, or a list of them.
        features: "logmel" (16 kHz, 80 bands, 50 frames per second), a `LogMel` of your own, or an SSL model
            (WavLM, HuBERT, wav2vec 2.0) as a folder or Hub repository, such as "microsoft/wavlm-large".
        layers: of the SSL model; log-mel has none.
        k: entries per codebook.
        num_codebooks: for log-mel: each further codebook is fitted on what the ones before leave over (residual
            vector quantization, without training).
        engine: "faiss", "torch", or "auto": FAISS on a CPU where it is installed.
        max_frames: sampled to fit on; default 384·k, within `max_bytes`.
        max_bytes: largest sample to hold.
        iterations: of Lloyd's algorithm, from a k-means++ start; the first half on a quarter of the sample.
        seed: of the sample and the start. On a CPU the same seed gives the same tokenizer.
        device: where to compute features and fit.
        name: of the tokenizer; default from features, k and num_codebooks.
        progress: whether to show a bar.

    Returns:
        A tokenizer; its figures are in `provenance["fit"]` (a `FitReport` as a dict). One over an SSL model encodes
        only; `audiotok train vocoder` gives it a way back to sound.

    Raises:
        FitError: more clusters than frames, constant features, or no readable audio.
        InputError: an argument out of range, or no audio in the folder.

    Example:
        tok = audiotok.fit_kmeans("my_corpus/", k=500, num_codebooks=4)
        tok.save("./my-tok")
    """
    fits = fit_several(
        source,
        [k],
        features=features,
        layers=layers,
        num_codebooks=num_codebooks,
        engine=engine,
        max_frames=max_frames,
        max_bytes=max_bytes,
        iterations=iterations,
        seed=seed,
        device=device,
        name=name,
        progress=progress,
    )
    return fits[k]


def fit_several(
    source: Source,
    ks: Sequence[int],
    *,
    features: str | os.PathLike[str] | LogMel = "logmel",
    layers: Sequence[int] | None = None,
    num_codebooks: int = 1,
    engine: Engine = "auto",
    max_frames: int | None = None,
    max_bytes: int = 2 << 30,
    iterations: int = ITERATIONS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    name: str = "",
    progress: bool = True,
) -> dict[int, Tokenizer]:
    """Fits a tokenizer for each of several k on the same sample, in one pass over the audio: how many clusters are
    enough? Arguments and errors as `fit_kmeans`; the sample is sized for the largest k.

    Returns:
        k -> tokenizer.
    """
    for what, value in (
        *(("k", k) for k in ks),
        ("num_codebooks", num_codebooks),
        ("iterations", iterations),
        ("max_bytes", max_bytes),
    ):
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    where = resolve_device(device)
    chosen = choose_engine(engine, where)
    extractor = features_of(features, layers, where)
    if extractor.layers and num_codebooks > 1:
        raise InputError("num_codebooks is for log-mel: an SSL model has one codebook for each of its layers")
    files = audio.find_audio(source)
    dim = extractor.width * max(1, len(extractor.layers))
    size = min(max(1, max_bytes // (4 * dim)), max_frames or max(ROWS_PER_CENTROID * max(ks), 10_000))

    started = time.perf_counter()
    sample, held_out, seconds, failed = _read(files, extractor, dim, size, seed, progress)
    read = time.perf_counter()
    frames, test = _split(sample, held_out)
    found = {}
    for k in ks:
        began = time.perf_counter()
        _check_frames(frames, k, len(files) - len(failed))
        groups = [
            _fit_residual(part.to(where), k, num_codebooks, chosen, iterations, seed + i, progress)
            for i, part in enumerate(torch.split(frames, extractor.width, dim=1))
        ]
        fitted = time.perf_counter()
        tokenizer = extractor.tokenizer(name, [table for group in groups for table in group])
        report = FitReport(
            features=extractor.label,
            layers=list(extractor.layers),
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
            seconds_fitting=fitted - began,
            **_measured(groups, torch.split(test.to(where), extractor.width, dim=1)),
        )
        _warn_of_unused(report)
        tokenizer.provenance = {"license": "unknown", "fit": report.to_dict()}
        found[k] = tokenizer
    return found


def _measured(groups: list[list[Tensor]], test: Sequence[Tensor]) -> dict[str, list[float]]:
    """The measured fields of `FitReport`, a number for each codebook."""
    each = [measure(KMeansQuantizer(tables), part) for tables, part in zip(groups, test, strict=True)]
    return {key: [number for one in each for number in one[key]] for key in each[0]}


def _read(
    files: list[Path], extractor: Features, dim: int, size: int, seed: int, progress: bool
) -> tuple[FrameSample, FrameSample | None, float, list[str]]:
    """The sample to fit on, the held-out one (None when there are few files), seconds read, and what failed."""
    sample = FrameSample(size, dim, seed)
    held_out, held = None, set()
    if len(files) >= _MANY_FILES:
        held_out = FrameSample(min(_HELD_OUT_FRAMES, size), dim, seed)
        order = np.random.default_rng(seed).permutation(len(files))
        held = set(order[: round(_HELD_OUT * len(files))].tolist())
    seconds, failed = 0.0, []
    for number, path in enumerate(tqdm(files, desc="reading", unit="file", disable=not progress)):
        target = held_out if held_out is not None and number in held else sample
        try:
            wav, rate = audio.load(path, sample_rate=extractor.sample_rate, channels=1)
            if not bool(torch.stack(wav.aminmax()).isfinite().all()):
                raise InputError("it holds NaN or infinite samples")
        except AudiotokError as error:
            failed.append(f"{path}: {error}")
            continue
        seconds += wav.shape[1] / rate
        first = 0
        for frames in extractor.frames(wav):
            target.add(frames, file=number, first_frame=first)
            first += len(frames)
    if failed:
        shown = "; ".join(failed[:3]) + ("; ..." if len(failed) > 3 else "")
        message = f"{len(failed)} of {len(files)} files could not be read: {shown}"
        if len(failed) == len(files):
            raise FitError(message)
        warnings.warn(message, FitWarning, stacklevel=4)
    return sample, held_out, seconds, failed


def _split(sample: FrameSample, held_out: FrameSample | None) -> tuple[Tensor, Tensor]:
    """Frames to fit on, and frames to measure on, which are never the same."""
    frames = sample.frames()
    if held_out is not None and held_out.seen:
        return frames, held_out.frames()
    count = min(_HELD_OUT_FRAMES, max(1, round(_HELD_OUT * len(frames))))
    return frames[count:], frames[:count]  # they are in random order


def _check_frames(frames: Tensor, k: int, readable: int) -> None:
    if len(frames) < k:
        raise FitError(
            f"{k} clusters were asked for, but the {readable} readable files give {len(frames)} frames "
            "to fit on: lower k, give more audio, or raise max_frames or max_bytes"
        )
    if float(frames.std(dim=0, correction=0).max()) < 1e-6:
        raise FitError("all frames are the same: is the audio silent or constant?")
    distinct = len(torch.unique(frames, dim=0)) if len(frames) < 10 * k else k
    if distinct < k:
        raise FitError(f"{k} clusters were asked for, but only {distinct} of the frames differ: lower k")
    if len(frames) < 20 * k:
        message = f"{len(frames)} frames for {k} clusters is few: 20 or more for each fit better"
        warnings.warn(message, FitWarning, stacklevel=4)


def _warn_of_unused(report: FitReport) -> None:
    if report.frames_held_out >= 20 * report.k and min(report.usage) < 0.5:
        message = (
            f"only {min(report.usage):.0%} of the {report.k} entries of a codebook occur on held-out audio: a "
            "smaller k would lose little"
        )
        warnings.warn(message, FitWarning, stacklevel=4)


def _fit_residual(
    frames: Tensor,
    k: int,
    num_codebooks: int,
    engine: Literal["faiss", "torch"],
    iterations: int,
    seed: int,
    progress: bool,
) -> list[Tensor]:
    residual, codebooks = frames.contiguous(), []
    with tqdm(total=num_codebooks * iterations, desc=f"k-means, k = {k}", unit="it", disable=not progress) as bar:
        for stage in range(num_codebooks):

            def step(done: int, distortion: float, first: int = stage * iterations) -> None:
                bar.n = first + done
                bar.set_postfix(distortion=f"{distortion:.4g}")

            centroids = fit_centroids(
                residual, k, engine=engine, iterations=iterations, seed=seed + stage, progress=step
            )
            codebooks.append(centroids)
            if stage + 1 < num_codebooks:
                quantizer = KMeansQuantizer([centroids])
                residual = residual - quantizer.decode(quantizer.encode(residual.t()[None]))[0].t()
        bar.n = num_codebooks * iterations
        bar.refresh()
    return codebooks
