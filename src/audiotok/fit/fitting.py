"""`fit_kmeans`: audio in, a tokenizer out."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..errors import FitError, InputError
from ..hub import resolve_device
from ..sources import open_source
from ..tokenizer import Tokenizer
from .checkpoint import FOLDER, Checkpoint
from .clusters import Method
from .engines import ITERATIONS, Engine, choose_engine
from .features import FeaturesLike, features_of
from .job import Job
from .page import save_fits
from .reading import HELD_OUT_FRAMES

Executor = Literal["local", "ray"]
ROWS_PER_CENTROID = 384


def fit_kmeans(
    source: Any,
    *,
    features: FeaturesLike = "logmel",
    layers: Sequence[int] | None = None,
    k: int = 1000,
    num_codebooks: int = 1,
    engine: Engine = "auto",
    max_frames: int | None = None,
    max_bytes: int = 2 << 30,
    iterations: int = ITERATIONS,
    restarts: int = 1,
    spherical: bool = False,
    minibatch: bool = False,
    seed: int = 0,
    held_out: Any = None,
    device: str | torch.device = "cpu",
    num_workers: int | None = None,
    executor: Executor = "local",
    name: str = "",
    out_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Tokenizer:
    """Fits a k-means tokenizer on audio: on log-mel frames, on layers of an SSL model (a codebook for each), or on the
    latents of a codec, all in one pass over the audio.

    Frames are sampled uniformly over the whole corpus within the byte budget; the corpus is never held whole, and no
    padding is ever seen. An item that cannot be read is left out with a warning. One item in twenty is held out for
    the report.

    Args:
        source: what `audiotok.sources.open_source` takes: a folder, a list of files, a manifest, tars, a dataset.
        features: "logmel" (16 kHz, 80 bands, 50 frames per second) or a `LogMel` of your own; an SSL model (WavLM,
            HuBERT, wav2vec 2.0) as a folder or Hub repository, such as "microsoft/wavlm-large"; or a codec whose
            latents are taken before it quantizes them: a `Tokenizer`, its catalog name, folder or Hub repository.
        layers: of the SSL model; nothing else has any.
        k: entries per codebook.
        num_codebooks: each further codebook is fitted on what the ones before leave over (residual vector
            quantization, without training); layers have one each.
        engine: "faiss", "torch", or "auto": torch, but FAISS where it is installed on a CPU without bfloat16 products.
        max_frames: sampled to fit on; default 384·k, within `max_bytes`.
        max_bytes: largest sample to hold.
        iterations: of Lloyd's algorithm, from a good start (`fit.engines.fit_centroids`).
        restarts: fits of each codebook, of which the best is kept.
        spherical: compares directions only, here and in the tokenizer (Dhillon and Modha 2001).
        minibatch: fits on every frame as it is read (`quantize.minibatch.MiniBatchKMeans`), and not on a sample: for
            corpora of which no sample that fits in memory will do. It is the slower and, by a little, the worse way.
        seed: of the sample and the start. On a CPU the same seed gives the same tokenizer.
        held_out: another source to measure on; nothing of `source` is then held out.
        device: where to compute features and fit; a `Tokenizer` given as features stays where it is.
        num_workers: processes that read and resample; default one for each CPU but one, at most 8. 0 reads in between.
        executor: "local", or "ray" to read and compute features on a cluster; the sample comes here and is fitted here.
        name: of the tokenizer; default from features, k and num_codebooks.
        out_dir: folder that the tokenizer is saved in, with report.md and its plots. A fit that was stopped, in
            whatever way, goes on when it is called again with the same arguments, and gives the same tokenizer.
        resume: False refuses a folder in which a fit was begun.
        progress: whether to show bars.

    Returns:
        A tokenizer; its figures are in `provenance["fit"]` (a `FitReport` as a dict). One over an SSL model encodes
        only; `audiotok train vocoder` gives it a way back to sound.

    Raises:
        FitError: more clusters than frames, constant features, or no readable audio.
        InputError: an argument out of range, no audio in the source, or `out_dir` was begun with other arguments.

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
        restarts=restarts,
        spherical=spherical,
        minibatch=minibatch,
        seed=seed,
        held_out=held_out,
        device=device,
        num_workers=num_workers,
        executor=executor,
        name=name,
        out_dir=out_dir,
        resume=resume,
        progress=progress,
    )
    return fits[k]


def fit_several(
    source: Any,
    ks: Sequence[int],
    *,
    features: FeaturesLike = "logmel",
    layers: Sequence[int] | None = None,
    num_codebooks: int = 1,
    engine: Engine = "auto",
    max_frames: int | None = None,
    max_bytes: int = 2 << 30,
    iterations: int = ITERATIONS,
    restarts: int = 1,
    spherical: bool = False,
    minibatch: bool = False,
    seed: int = 0,
    held_out: Any = None,
    device: str | torch.device = "cpu",
    num_workers: int | None = None,
    executor: Executor = "local",
    name: str = "",
    out_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
) -> dict[int, Tokenizer]:
    """Fits a tokenizer for each of several k on the same sample, in one pass over the audio: how many clusters are
    enough? Arguments and errors as `fit_kmeans`; the sample is sized for the largest k. With `out_dir` each tokenizer
    is saved in a folder kN there, and report.md compares them.

    Returns:
        k -> tokenizer, by ascending k.
    """
    ks = sorted(set(ks))
    _check_numbers(ks, num_codebooks=num_codebooks, iterations=iterations, max_bytes=max_bytes, restarts=restarts)
    where = resolve_device(device)
    method = Method(
        engine=choose_engine(engine, where),
        num_codebooks=num_codebooks,
        iterations=iterations,
        seed=seed,
        restarts=restarts,
        spherical=spherical,
        minibatch=minibatch,
        device=str(where),
    )
    workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if num_workers is None else num_workers
    if workers < 0:
        raise InputError(f"num_workers must be at least 0, not {workers}")
    if minibatch and restarts > 1:
        raise InputError("minibatch sees every frame once: restarts= is for a fit on a sample")
    if executor not in get_args(Executor) or (executor == "ray" and minibatch):
        raise InputError(
            f'executor must be "local", or "ray" without minibatch, of which every frame would have to travel, not '
            f"{executor!r}" + " with it" * minibatch
        )
    extractor = features_of(features, layers, where)
    if num_codebooks > 1 and (extractor.layers or spherical or minibatch):
        raise InputError(
            "num_codebooks above 1 is for log-mel and latents: an SSL model has one codebook for each of its layers, "
            "and neither spherical nor minibatch k-means gives a residual to fit further ones on"
        )
    wanted = max_frames or (
        max(20 * max(ks), HELD_OUT_FRAMES) if minibatch else max(ROWS_PER_CENTROID * max(ks), 10_000)
    )
    job = Job(
        source=open_source(source),
        held_out=None if held_out is None else open_source(held_out),
        extractor=extractor,
        method=method,
        ks=ks,
        sample_frames=min(max(1, max_bytes // (4 * extractor.width * max(1, len(extractor.layers)))), wanted),
        max_bytes=max_bytes,
        num_workers=None if executor == "ray" else workers,
        name=name,
        progress=progress,
    )
    if out_dir is None:
        fits = job.run(None)
    else:
        folder = Path(out_dir)
        if (folder / FOLDER).exists() and not resume:
            raise InputError(f"{folder} was begun already: resume it, or use a new folder")
        checkpoint = Checkpoint(folder / FOLDER, job.facts())
        try:
            fits = job.run(checkpoint)
        except FitError:  # the same arguments would end here again
            checkpoint.remove()
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()
            raise
        save_fits(folder, fits)
        checkpoint.remove()
    return {one.report.k: one.tokenizer for one in fits}


def _check_numbers(ks: Sequence[int], **others: int) -> None:
    if not ks:
        raise InputError("give at least one k")
    for what, value in (*(("k", k) for k in ks), *others.items()):
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
