"""Residual k-means over log-mel frames: a tokenizer without a network, and the offline default."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..quantize import KMeansQuantizer
from ..spec import Spec
from ..tokenizer import Tokenizer
from .logmel import LogMel

_MOST_ITERATIONS = 1024


class LogMelKMeans(Tokenizer):
    """Tokens are the nearest k-means centres of log-mel frames, each further codebook coding what the ones before
    left over; decoding sums the centres and inverts the log-mel frames (`LogMel.invert`).

    Args:
        spec: mono, at the rate and hop of `mel`.
        mel: the features, or their values as a dict.
        codebooks: K tables [V, n_mels]; None makes empty ones of the spec's sizes, for `load` to fill.
        iterations: of phase estimation in `decode`, 0 to 1024.
        lookup: "euclidean", or "cosine" for the nearest direction (spherical k-means).
    """

    family: ClassVar[str] = "logmel-kmeans"

    def __init__(
        self,
        spec: Spec,
        mel: LogMel | dict[str, Any],
        codebooks: Sequence[Tensor] | None = None,
        iterations: int = 32,
        lookup: str = "euclidean",
    ) -> None:
        super().__init__(spec)
        self.mel = mel if isinstance(mel, LogMel) else LogMel(**mel)
        if not isinstance(iterations, int) or not 0 <= iterations <= _MOST_ITERATIONS:
            raise InputError(f"iterations must be a whole number from 0 to {_MOST_ITERATIONS}, not {iterations!r}")
        self.iterations = iterations
        if (spec.sample_rate, spec.hop_length, spec.channels) != (
            self.mel.sample_rate,
            self.mel.hop_length,
            1,
        ):
            raise InputError(f"{spec.name}: its rate, hop and one channel must be those of its log-mel features")
        if codebooks is None:
            codebooks = [torch.zeros(size, self.mel.n_mels) for size in spec.codebook_sizes]
        self.lookup = lookup
        self.quantizer = KMeansQuantizer(codebooks, lookup=lookup)
        self.context = self.mel.reach
        self.decode_context = self.mel.invert_reach * (iterations + 1)

    def _config(self) -> dict[str, Any]:
        unusual = {} if self.lookup == "euclidean" else {"lookup": self.lookup}  # so that fingerprints stay
        return {"mel": asdict(self.mel), "iterations": self.iterations, **unusual}

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return self.mel(wav[:, 0])

    def _quantize(self, features: Tensor) -> Tensor:
        return self.quantizer.encode(features, num_codebooks=self.spec.num_codebooks)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)

    def _synthesize(self, features: Tensor) -> Tensor:
        return self.mel.invert(features, iterations=self.iterations)[:, None]

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks[: self.spec.num_codebooks]
