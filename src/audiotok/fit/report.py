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
    with that codebook and all before it, usage as the share of entries that occur, perplexity as 2 to the
    entropy of the entries.
    """

    features: str
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
    variance: float  # of held-out frames: the distortion of a codebook with one entry
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
            "| codebooks | held-out distortion | share of variance | entries used | perplexity |",
            "|" + " ---: |" * 5,
        ]
        for i, (distortion, usage, perplexity) in enumerate(
            zip(self.distortion, self.usage, self.perplexity, strict=True), start=1
        ):
            share = distortion / self.variance if self.variance else 0.0
            lines.append(f"| {i} | {distortion:.4f} | {share:.2%} | {usage:.1%} | {perplexity:.0f} |")
        return "\n".join(lines)


def measure(quantizer: KMeansQuantizer, frames: Tensor) -> dict[str, Any]:
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
    return {"variance": variance, "distortion": distortion, "usage": usage, "perplexity": perplexity}
