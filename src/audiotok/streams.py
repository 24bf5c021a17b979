"""Streams: audio in as it comes, tokens out as soon as they are complete, and back."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from . import audio
from .codes import Codes
from .errors import CodesMismatchError, InputError
from .nn.compiler import left_to_eager
from .spec import Spec

Step = Callable[[Tensor, bool], Tensor]  # a piece, and whether it is the last -> what it completes


@dataclass(frozen=True)
class StreamReport:
    """What a stream did so far.

    Attributes:
        pushes: pieces that came in.
        audio_seconds: of audio in (or out, of a stream that decodes).
        compute_seconds: spent in all pushes.
        slowest_seconds: spent in the slowest push.
        waiting_seconds: of audio that came in and is not in any frame that went out (or the other way round).
    """

    pushes: int
    audio_seconds: float
    compute_seconds: float
    slowest_seconds: float
    waiting_seconds: float

    @property
    def latency_seconds(self) -> float:
        """Mean time from a push to its result."""
        return self.compute_seconds / max(1, self.pushes)


class _Stream:
    """A context that counts and times pushes; `step` keeps the network's state."""

    def __init__(self, spec: Spec, fingerprint: str, device: torch.device, batch_size: int, step: Step) -> None:
        self.spec, self.fingerprint, self.device, self.batch_size = spec, fingerprint, device, batch_size
        self._step = step
        self._times: list[float] = []
        self._samples = 0  # of audio, at the rate of this side
        self._frames = 0
        self._closed = False

    def _run(self, piece: Tensor, last: bool) -> Tensor:
        if self._closed:
            raise InputError("this stream has ended: open a new one with stream()")
        self._closed = last
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = self._step(piece, last)
        self._times.append(time.perf_counter() - start)
        return found

    def _report(self, waiting_seconds: float, audio_seconds: float) -> StreamReport:
        times = self._times
        return StreamReport(len(times), audio_seconds, sum(times), max(times, default=0.0), waiting_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True


@left_to_eager("push", "flush")
class EncodeStream(_Stream):
    """Audio pushed piece by piece gives the codes of the whole. `Codes.join` puts the pieces together.

    Example:
        with tokenizer.stream() as stream:
            pieces = [stream.push(chunk) for chunk in chunks]
            codes = Codes.join([*pieces, stream.flush()])
    """

    def __init__(self, spec: Spec, fingerprint: str, device: torch.device, batch_size: int, step: Step) -> None:
        super().__init__(spec, fingerprint, device, batch_size, step)
        self._covered = 0  # samples that the codes given so far stand for

    def __enter__(self) -> "EncodeStream":
        return self

    def push(self, wav: object) -> Codes:
        """Codes of the frames that this piece completes, possibly none.

        Args:
            wav: [T], [B, T] or [B, C, T] at `spec.sample_rate`, int16 or float in -1..1, of any length.

        Raises:
            InputError: another shape, NaN or infinite samples, or the stream has ended.
        """
        return self._codes(self._checked(wav), last=False)

    def flush(self) -> Codes:
        """Ends the stream: codes of what is left. The last frame is padded as that of a whole file is.

        Raises:
            InputError: nothing was pushed, or the stream has ended.
        """
        if not self._samples:
            raise InputError("nothing was pushed: a stream needs at least one sample")
        return self._codes(torch.zeros(self.batch_size, self.spec.channels, 0, device=self.device), last=True)

    def _codes(self, piece: Tensor, *, last: bool) -> Codes:
        self._samples += piece.shape[2]
        tokens = self._run(piece, last)
        self._frames += tokens.shape[2]
        # Some networks give a frame before all its samples are there.
        covered = self._samples if last else min(self._samples, self._frames * self.spec.hop_length)
        before, self._covered = self._covered, covered
        return Codes(
            tokens=tokens,
            lengths=torch.full((self.batch_size,), tokens.shape[2], device=self.device),
            num_samples=torch.full((self.batch_size,), covered - before, device=self.device),
            spec=self.spec,
            fingerprint=self.fingerprint,
        )

    def _checked(self, wav: object) -> Tensor:
        piece = audio.as_samples(wav)
        if piece.dim() in (1, 2):
            piece = piece.reshape(1, 1, -1) if piece.dim() == 1 else piece[:, None]
        wanted = (self.batch_size, self.spec.channels)
        if piece.dim() != 3 or tuple(piece.shape[:2]) != wanted:
            raise InputError(f"this stream takes pieces [{wanted[0]}, {wanted[1]}, T], not {list(piece.shape)}")
        if not bool(piece.isfinite().all()):
            raise InputError("a piece holds NaN or infinite samples: a stream wants finite audio")
        return piece.to(self.device)

    @property
    def report(self) -> StreamReport:
        """Counts and times so far."""
        rate = self.spec.sample_rate
        waiting = max(0, self._samples - self._frames * self.spec.hop_length)
        return self._report(waiting / rate, self._samples / rate)


@left_to_eager("push", "flush")
class DecodeStream(_Stream):
    """Codes pushed piece by piece give the audio of the whole, without clicks at the joints."""

    def __init__(self, spec: Spec, fingerprint: str, device: torch.device, batch_size: int, step: Step) -> None:
        super().__init__(spec, fingerprint, device, batch_size, step)
        self._owed = 0

    def __enter__(self) -> "DecodeStream":
        return self

    def push(self, codes: Codes) -> Tensor:
        """wav [B, C, T] that these codes complete, possibly of no samples.

        Raises:
            InputError: another batch size, rows of different lengths, or the stream has ended.
            CodesMismatchError: codes of another tokenizer or number of codebooks.
        """
        if codes.fingerprint != self.fingerprint or codes.spec != self.spec:
            raise CodesMismatchError(f"this stream decodes codes of {self.spec.name}, not of {codes.spec.name}")
        if len(codes) != self.batch_size or not bool((codes.lengths == codes.tokens.shape[2]).all()):
            raise InputError(f"this stream takes {self.batch_size} rows of equal length at a time")
        self._frames += codes.tokens.shape[2]
        self._owed += self.spec.output_samples(int(codes.num_samples.max()))
        return self._wav(codes.tokens.to(self.device), last=False)

    def flush(self) -> Tensor:
        """Ends the stream: the audio that is left.

        Raises:
            InputError: nothing was pushed, or the stream has ended.
        """
        if not self._frames:
            raise InputError("nothing was pushed: a stream needs at least one frame")
        empty = torch.zeros(self.batch_size, self.spec.num_codebooks, 0, dtype=torch.int64, device=self.device)
        return self._wav(empty, last=True)

    def _wav(self, tokens: Tensor, *, last: bool) -> Tensor:
        wav = self._run(tokens, last).float()[:, :, : self._owed - self._samples]
        self._samples += wav.shape[2]
        return wav

    @property
    def report(self) -> StreamReport:
        """Counts and times so far."""
        rate = self.spec.output_sample_rate
        return self._report((self._owed - self._samples) / rate, self._samples / rate)
