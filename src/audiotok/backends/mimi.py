"""Mimi, the codec of Moshi (Défossez et al. 2024, arXiv 2410.00037)."""

import os
from pathlib import Path
from typing import Any

from ..checkpoint import file_sha256
from ..codec.convolutional import ConvolutionalCodec
from ..spec import Spec
from .mimi_config import MimiConfig
from .mimi_files import read_published
from .mimi_network import MimiDecoder, MimiEncoder, SplitRVQ
from .weights import build


class Mimi(ConvolutionalCodec):
    """Speech at 12.5 frames a second: row 0 of the tokens is semantic, the others are acoustic. It streams.

    Audio is padded with zeros to whole frames. Nothing looks ahead: a frame's tokens are known when its last sample is.

    Args:
        spec: what it takes and gives.
        config: sizes of the network.
    """

    family = "mimi"

    def __init__(self, spec: Spec, config: MimiConfig) -> None:
        super().__init__(spec)
        self.config = config
        self.encoder = MimiEncoder(config)
        self.quantizer = SplitRVQ(
            config.seanet.dimension, spec.codebook_sizes, semantic=config.semantic, codebook_dim=config.codebook_dim
        )
        self.decoder = MimiDecoder(config)

    def _config(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "Mimi":
        return cls(spec, MimiConfig.from_dict(config))

    def padded_length(self, num_samples: int) -> int:
        return self.num_frames(num_samples) * self.spec.hop_length


def read_mimi(source: Path, *, name: str = "", config: str | os.PathLike[str] | None = None) -> Mimi:
    """Reads a folder of transformers, or moshi's `tokenizer-*.safetensors`.

    Args:
        source: the folder that holds it, or the file.
        name: of the tokenizer.
        config: the JSON file with its sizes. None takes config.json beside transformers' weights; beside moshi's, which
            are published without one, a `*mimi_config*.json` or, if there is none, the sizes that the package knows.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    published = read_published(source, config)
    described, network = published.described, published.config
    spec = Spec(
        name=name or "mimi",
        sample_rate=described.sample_rate,
        hop_length=network.seanet.hop_length * network.stride,
        codebook_sizes=(described.codebook_size,) * described.codebooks,
        channels=network.seanet.channels,
        streamable=True,
        nested=True,
        batching="mask",
    )
    tokenizer = build(lambda: Mimi(spec, network), published.state(), published.path)
    tokenizer.provenance = {
        "license": "cc-by-4.0",
        "paper": "arXiv 2410.00037",
        "converted_from": {"file": published.path.name, "sha256": file_sha256(published.path)},
    }
    return tokenizer
