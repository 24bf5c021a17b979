"""`Job`: a fit from source to tokenizers."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ..errors import FitError, FitWarning
from ..quantize import KMeansQuantizer
from ..sources import Source
from ..tokenizer import Tokenizer
from .checkpoint import Checkpoint
from .clusters import Method, check_frames, fit_residual, fit_stream
from .features import Features
from .page import Fitted, failure_line
from .ray_extraction import extract_on_ray
from .reading import HELD_OUT_EVERY, HELD_OUT_FRAMES, Collected, Extracted, collect, extract, passes_of
from .report import FitReport, join, measure
from .sample import FrameSample
from .stream import Streams


@dataclass(frozen=True)
class Job:
    """What to fit, on what, how.

    Attributes:
        source, held_out: of the audio; without the second, items or frames of the first are held out.
        extractor: of frames.
        method: of k-means.
        ks: entries per codebook, ascending: a tokenizer for each.
        sample_frames: most frames to fit on (with mini-batches, to look at before and after).
        max_bytes: that mini-batch k-means keeps of them.
        num_workers: processes that read; None extracts frames on a Ray cluster.
        name: of the tokenizers.
        progress: whether to show bars.
    """

    source: Source
    held_out: Source | None
    extractor: Features
    method: Method
    ks: Sequence[int]
    sample_frames: int
    max_bytes: int
    num_workers: int | None
    name: str
    progress: bool

    def facts(self) -> dict[str, Any]:
        """All that the result depends on, plain JSON values."""
        extractor = self.extractor
        return {
            "audiotok": version("audiotok"),
            "source": self.source.identity(),
            "held_out": None if self.held_out is None else self.held_out.identity(),
            "features": {"label": extractor.label, "layers": list(extractor.layers), **extractor.facts()},
            "k": list(self.ks),
            "sample_frames": self.sample_frames,
            "max_bytes": self.max_bytes,
            "name": self.name,
            **asdict(self.method),
        }

    def run(self, checkpoint: Checkpoint | None) -> list[Fitted]:
        """Reads and fits what the checkpoint does not have yet.

        Raises:
            FitError: as `fit_kmeans`.
        """
        state = self._read(checkpoint)
        frames, test = _split(state)
        return [self._fit(k, frames, test, state, checkpoint) for k in self.ks]

    def _read(self, checkpoint: Checkpoint | None) -> Collected:
        """The sample to fit on and the held-out one, from the audio or as far as they go from the checkpoint."""
        passes = passes_of(self.source, self.held_out, self.method.seed)
        dim, seed = self.extractor.width * max(1, len(self.extractor.layers)), self.method.seed
        apart = any(one.held is None or one.held for one in passes)
        streams = self._streams() if self.method.minibatch else None
        test = None
        if apart or streams is not None:  # a stream cannot give back frames of the sample
            test = FrameSample(min(HELD_OUT_FRAMES, self.sample_frames), dim, seed)
        state = Collected(
            FrameSample(self.sample_frames, dim, seed), test, streams, by_frame=not apart and test is not None
        )
        before = checkpoint.load_reading() if checkpoint is not None else None
        if before is not None:
            state.restore(*before)
        collect(
            passes,
            state,
            extract=self._extract,
            checkpoint=checkpoint,
            progress=self.progress,
        )
        if state.failures:
            total, failed = sum(state.positions), len(state.failures)
            shown = "; ".join(map(failure_line, state.failures[:3])) + ("; ..." if failed > 3 else "")
            message = f"{failed} of {total} items could not be read: {shown}"
            if failed == total:
                raise FitError(message)
            warnings.warn(message, FitWarning, stacklevel=5)
        return state

    def _extract(self, source: Source, first: int, state: Collected) -> Iterator[Extracted]:
        if self.num_workers is None:
            return extract_on_ray(source, first, self.extractor, self.method.seed, state)
        return extract(source, first, self.extractor, self.num_workers)

    def _fit(self, k: int, frames: Tensor, test: Tensor, state: Collected, checkpoint: Checkpoint | None) -> Fitted:
        method, extractor = self.method, self.extractor
        check_frames(frames, k, state.positions[0] - state.failed[0])
        fits = [
            fit_stream(part, k, method, state.streams, group=i, checkpoint=checkpoint)
            if state.streams is not None
            else fit_residual(part, k, method, group=i, checkpoint=checkpoint, progress=self.progress)
            for i, part in enumerate(self._groups(frames))
        ]
        measured = join(
            [
                measure(KMeansQuantizer(fit.tables, lookup=method.lookup), part)
                for fit, part in zip(fits, self._groups(test), strict=True)
            ]
        )
        tokenizer = extractor.tokenizer(self.name, [table for fit in fits for table in fit.tables], method.lookup)
        report = FitReport(
            features=extractor.label,
            layers=list(extractor.layers),
            k=k,
            num_codebooks=method.num_codebooks,
            engine=method.engine,
            iterations=method.iterations,
            seed=method.seed,
            files=state.positions[0],
            files_failed=state.failed[0],
            hours=state.seconds[0] / 3600,
            frames_seen=state.frames_seen,
            frames_used=state.sample.seen if method.minibatch else len(frames),
            frames_held_out=len(test),
            seconds_reading=state.spent,
            seconds_fitting=sum(fit.seconds for fit in fits),
            frame_rate=tokenizer.spec.frame_rate,
            restarts=method.restarts,
            spherical=method.spherical,
            minibatch=method.minibatch,
            source=self.source.label,
            source_identity=self.source.identity(),
            held_out="" if self.held_out is None else self.held_out.label,
            **measured.figures(),
        )
        _warn_of_unused(report)
        tokenizer.provenance = self._provenance(tokenizer, report)
        return Fitted(tokenizer, report, measured.counts, state.failures)

    def _streams(self) -> Streams:
        method, extractor = self.method, self.extractor
        return Streams(
            self.ks,
            max(1, len(extractor.layers)),
            extractor.width,
            seed=method.seed,
            spherical=method.spherical,
            max_bytes=self.max_bytes,
            device=method.device,
        )

    def _groups(self, frames: Tensor) -> Iterator[Tensor]:
        """Frames of each layer, where they are fitted."""
        for part in torch.split(frames, self.extractor.width, dim=1):
            yield part.to(self.method.device)

    def _provenance(self, tokenizer: Tokenizer, report: FitReport) -> dict[str, Any]:
        return {
            "license": "unknown",
            **tokenizer.provenance,
            **self.extractor.card(),
            "made_with": f"audiotok {version('audiotok')}",
            "fit": report.to_dict(),
        }


def _split(state: Collected) -> tuple[Tensor, Tensor]:
    """Frames to fit on, and frames to measure on, which are never the same."""
    frames = state.sample.frames()
    if state.held_out is not None and state.held_out.seen:
        return frames, state.held_out.frames()
    count = min(HELD_OUT_FRAMES, max(1, round(len(frames) / HELD_OUT_EVERY)))
    return frames[count:], frames[:count]  # they are in random order


def _warn_of_unused(report: FitReport) -> None:
    if report.frames_held_out >= 20 * report.k and min(report.usage) < 0.5:
        message = (
            f"only {min(report.usage):.0%} of the {report.k} entries of a codebook occur on held-out audio: a "
            "smaller k would lose little"
        )
        warnings.warn(message, FitWarning, stacklevel=6)
