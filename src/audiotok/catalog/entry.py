"""`Entry`: what the catalog says of one tokenizer."""

from dataclasses import asdict, dataclass
from typing import Any

from ..spec import Spec


@dataclass(frozen=True)
class Taxonomy:
    """A tokenizer's place in the survey of Mousavi et al. (2025, arXiv 2506.10274), in its terms."""

    domains: tuple[str, ...]  # of "speech", "music", "audio"
    architecture: str  # of encoder and decoder: "CNN", "Transformer", ...
    representation: str  # of the input: "T" time, "T-F" time-frequency
    quantizer: str  # "RVQ", "SVQ", "GVQ", "FSQ", "MSRVQ", "CSRVQ", "PQ", "K-Means"
    bitrate: str = "fixed"  # or "adaptive"
    objective: str = ""
    auxiliary: str = ""
    joint: bool = True  # quantizer trained together with the network


@dataclass(frozen=True)
class Entry:
    """One name that `load` knows.

    Attributes:
        name: what `load` is called with.
        loader: "package.module:function"; called as `function(entry, revision, cache_dir)`, gives a Tokenizer.
        summary: one line.
        source: where its weights are: "embedded", or a Hub repository.
        spec: what it takes and gives.
        taxonomy: its place in the field.
        paper: title and identifier.
        licence_code, licence_weights: SPDX identifiers or the words of the source.
        commercial: whether the licences allow commercial use; None when they do not say.
        extra: of audiotok, that must be installed ("" when none).
        parameters_millions: size.
    """

    name: str
    loader: str
    summary: str
    source: str
    spec: Spec
    taxonomy: Taxonomy
    paper: str = ""
    licence_code: str = "Apache-2.0"
    licence_weights: str = "Apache-2.0"
    commercial: bool | None = None
    extra: str = ""
    parameters_millions: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with the rates that follow from the spec."""
        spec = self.spec
        rates = {
            "frame_rate": spec.frame_rate,
            "bitrate_bps": spec.bitrate_bps,
            "vocab_size": spec.vocab_size,
        }
        return {**asdict(self), "spec": {**spec.to_dict(), **rates}}
