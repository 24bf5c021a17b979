"""What a fit says of itself."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..quantize import KMeansQuantizer


@dataclass(frozen=True)
class FitReport:
    """Figures of a k-means fit. Distortion is the squared distance of a frame to its reconstruction, averaged.

    distortion, usage, perplexity and entropy have one number per codebook and are measured on held-out frames:
    distortion with that codebook and (but for layers) all before it, usage as the share of entries that occur, entropy
    in bits of how often each does, perplexity as 2 to the entropy. A report made by an older audiotok lacks the fields
    that have a default here.
    """

    features: str
    layers: list[int]  # of an SSL model, one for each codebook; else none
    k: int
    num_codebooks: int
    engine: str
    iterations: int
    seed: int
    files: int  # items of the source
    files_failed: int
    hours: float
    frames_seen: int
    frames_used: int
    frames_held_out: int
    variance: list[float]  # of held-out frames: the distortion of a codebook with one entry
    distortion: list[float]
    usage: list[float]
    perplexity: list[float]
    seconds_reading: float
    seconds_fitting: float
    entropy: list[float] = field(default_factory=list)
    frame_rate: float = 0.0  # frames per second
    restarts: int = 1
    spherical: bool = False
    minibatch: bool = False
    source: str = ""
    source_identity: str = ""  # changes when items do
    held_out: str = ""  # another source; empty when it is items or frames of the same one

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @property
    def share_left(self) -> list[float]:
        """Distortion as a share of the variance, one for each codebook."""
        pairs = zip(self.distortion, self.variance, strict=True)
        return [distortion / variance if variance else 0.0 for distortion, variance in pairs]

    def table(self) -> str:
        """A Markdown table, a line per codebook."""
        lines = [
            f"| {'layer' if self.layers else 'codebooks'} "
            "| held-out distortion | share of variance | entries used | perplexity |",
            "|" + " ---: |" * 5,
        ]
        names = self.layers or range(1, len(self.usage) + 1)
        columns = (names, self.distortion, self.share_left, self.usage, self.perplexity)
        for name, distortion, share, usage, perplexity in zip(*columns, strict=True):
            lines.append(f"| {name} | {distortion:.4f} | {share:.2%} | {usage:.1%} | {perplexity:.0f} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Measured:
    """What frames say of codebooks, one value for each: the fields of `FitReport`, and how often each entry occurs."""

    variance: list[float]
    distortion: list[float]
    usage: list[float]
    perplexity: list[float]
    entropy: list[float]
    counts: list[Tensor]  # each [V]

    def figures(self) -> dict[str, list[float]]:
        """Those that a report has."""
        return {name: value for name, value in vars(self).items() if name != "counts"}


def join(parts: Sequence[Measured]) -> Measured:
    """What was measured of several layers, one after the other."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Measured(*([value for part in column for value in part] for column in columns))


def measure(quantizer: KMeansQuantizer, frames: Tensor) -> Measured:
    """How well residual codebooks code frames [N, D]."""
    wide = frames.double()
    tokens = quantizer.encode(frames.t()[None])
    distortion, usage, entropy, found = [], [], [], []
    for row, size in enumerate(quantizer.codebook_sizes):
        decoded = quantizer.decode(tokens[:, : row + 1])[0].t()
        distortion.append(float((wide - decoded).square().sum(1).mean()))
        counts = torch.bincount(tokens[0, row], minlength=size).double()
        usage.append(float((counts > 0).double().mean()))
        entropy.append(float(torch.special.entr(counts / counts.sum()).sum()) / math.log(2))
        found.append(counts.cpu())
    variance = float((wide - wide.mean(0)).square().sum(1).mean())
    perplexity = [2**bits for bits in entropy]
    return Measured([variance] * len(usage), distortion, usage, perplexity, entropy, found)
