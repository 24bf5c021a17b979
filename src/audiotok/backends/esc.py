"""`ESC`: the Efficient Speech Codec, and its reader."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoint import file_sha256
from ..errors import InputError
from ..spec import Spec
from ..tokenizer import Tokenizer
from .esc_config import ESCConfig
from .esc_files import our_weights, read_config, read_weights
from .esc_network import Decoder, Encoder, cross_scale_quantizer, decode_context, encode_context, fold, unfold
from .weights import build


class ESC(Tokenizer):
    """Efficient Speech Codec (Gu & Diao 2024, arXiv 2404.19441): cross-scale residual product quantization of a complex
    spectrum.

    Rows of tokens go stream by stream, coarsest first, and the groups of a stream side by side: whole streams decode
    without the later ones. A row whose length makes no whole frames is filled up with zeros. Long audio goes in pieces
    that begin where attention windows do and see as much around them as the layers look at, so tokens are the same.

    Args:
        spec: what `config.spec` gives.
        config: the network's sizes.

    Raises:
        InputError: a spec that is not that of the sizes.
    """

    family: ClassVar[str] = "esc"
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder",)
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(self, spec: Spec, config: ESCConfig) -> None:
        super().__init__(spec)
        if spec != config.spec(spec.name):
            raise InputError(f"{spec.name}: its rates and codebooks must be those of its network")
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = cross_scale_quantizer(config)
        self.decoder = Decoder(config)
        self.context = encode_context(config, self.encoder, self.quantizer)
        self.decode_context = decode_context(config, self.quantizer, self.decoder)
        self.chunk_seconds = 10.0  # longer pieces only need more memory

    def _config(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "ESC":
        return cls(spec, ESCConfig.from_dict(config))

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks[: self.spec.num_codebooks]

    def num_frames(self, num_samples: int) -> int:
        """F for audio of so many samples; between two lengths that upstream takes, that of the longer one."""
        return self.config.num_frames(num_samples)

    def _chunk_frames(self) -> int:
        grid = self.config.grid  # attention windows must fall on the same frames in every piece
        return -(-super()._chunk_frames() // grid) * grid

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """The features of all levels that are quantized, coarsest first, under one another."""
        samples = wav.shape[2]
        levels = self.encoder(functional.pad(wav[:, 0], (0, self.config.padded_samples(samples) - samples)))
        return torch.cat([fold(level, self.config.overlap) for level in reversed(levels)], 1)

    def _quantize(self, features: Tensor) -> Tensor:
        levels = torch.split(features, list(self.quantizer.dims[1:]), 1)
        return self.quantizer.encode_features([levels[0], *levels], self.spec.num_codebooks)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)

    def _synthesize(self, features: Tensor) -> Tensor:
        wav: Tensor = self.decoder(unfold(features, self.config.overlap, self.config.height(1)))
        return wav[:, None]


def read_esc(source: Path, *, name: str = "") -> ESC:
    """ESC as its authors publish it: model.pth and, beside it, config.yaml.

    Args:
        source: the folder, or model.pth in it.
        name: of the tokenizer; default from its bit rate.

    Raises:
        CheckpointError: a file that is missing, broken or hostile, or a network of another kind.
    """
    path = source / "model.pth" if source.is_dir() else source
    config = read_config(path.with_name("config.yaml"))
    spec = config.spec("esc")
    spec = config.spec(name or f"esc-{spec.bitrate_bps / 1000:.3g}kbps")
    with torch.device("meta"):
        layout = ESC(spec, config)
    weights = our_weights(layout, config, read_weights(path))
    tokenizer = build(lambda: ESC(spec, config), weights, path)
    tokenizer.provenance = {
        "license": "not stated for the weights; the code is MIT",
        "paper": "arXiv 2404.19441",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer
