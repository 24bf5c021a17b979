"""What a fit says of itself."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..quantize import KMeansQuantizer


@dataclass(frozen=True)
class FitReport:
    """Figures of a k-means fit. Distortion is the squared distance of a frame to its reconstruction, averaged.

    distortion, usage, perplexity have one number per codebook and are measured on held-out frames: distortion
    with that codebook and (for log-mel) all before it, usage as the share of entries that occur, perplexity as 2 to the
    entropy of the entries.
    """

    features: str
    layers: list[int]  # of an SSL model, one for each codebook; none for log-mel
    k: int
    num_codebooks: int
    engine: str
    iterations: int
    seed: int
    files: int
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A Markdown table, a line per codebook."""
        lines = [
            f"| {'layer' if self.layers else 'codebooks'} "
            "| held-out distortion | share of variance | entries used | perplexity |",
            "|" + " ---: |" * 5,
        ]
        names = self.layers or range(1, len(self.usage) + 1)
        columns = (names, self.distortion, self.variance, self.usage, self.perplexity)
        for name, distortion, variance, usage, perplexity in zip(*columns, strict=True):
            share = distortion / variance if variance else 0.0
            lines.append(f"| {name} | {distortion:.4f} | {share:.2%} | {usage:.1%} | {perplexity:.0f} |")
        return "\n".join(lines)


def measure(quantizer: KMeansQuantizer, frames: Tensor) -> dict[str, list[float]]:
    """variance, distortion, usage and perplexity of frames [N, D], as the fields of `FitReport`."""
    wide = frames.double()
    tokens = quantizer.encode(frames.t()[None])
    distortion, usage, perplexity = [], [], []
    for row, size in enumerate(quantizer.codebook_sizes):
        decoded = quantizer.decode(tokens[:, : row + 1])[0].t()
        distortion.append(float((wide - decoded).square().sum(1).mean()))
        counts = torch.bincount(tokens[0, row], minlength=size).double()
        usage.append(float((counts > 0).double().mean()))
        perplexity.append(float(torch.special.entr(counts / counts.sum()).sum().exp()))
    variance = float((wide - wide.mean(0)).square().sum(1).mean())
    return {"variance": [variance] * len(usage), "distortion": distortion, "usage": usage, "perplexity": perplexity}
