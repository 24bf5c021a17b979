"""WavTokenizer (Ji et al. 2024, arXiv 2408.16532)."""

import os
from pathlib import Path
from typing import Any

from ..checkpoint import file_sha256
from ..codec.convolutional import ConvolutionalCodec
from ..errors import CheckpointError
from ..nn.seanet import SeanetConfig, seanet_encoder, seanet_names
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from .wavtokenizer_files import read_lightning, read_transformers
from .wavtokenizer_network import wavtokenizer_decoder, wavtokenizer_names
from .weights import build, layout, one_file

_UNUSED = ("cluster_size", "embed_avg", "inited")  # of a codebook's training


class WavTokenizer(ConvolutionalCodec):
    """One codebook over SEANet's latents, and a decoder of the Vocos kind: 40 or 75 tokens a second.

    Long audio is encoded in pieces. The decoder looks at the whole utterance: its memory grows with the length, its
    time with the square of it.

    Args:
        spec: what it takes and gives.
        seanet: sizes of the encoder.
        width: channels of the decoder.
        hidden: channels inside its blocks.
        blocks: how many.
        fft: samples of a window of the inverse STFT.
        groups: of the decoder's channels that are normalised together.
    """

    family = "wavtokenizer"

    def __init__(
        self, spec: Spec, seanet: SeanetConfig, *, width: int, hidden: int, blocks: int, fft: int, groups: int
    ) -> None:
        super().__init__(spec)
        self.seanet = seanet
        self.sizes = {"width": width, "hidden": hidden, "blocks": blocks, "fft": fft, "groups": groups}
        self.encoder = seanet_encoder(seanet)
        self.quantizer = ResidualVQ(
            seanet.dimension, spec.codebook_sizes, spec.num_codebooks, options=VQOptions(update="frozen")
        )
        self.decoder = wavtokenizer_decoder(seanet.dimension, hop=spec.hop_length, **self.sizes)

    def _config(self) -> dict[str, Any]:
        return {"seanet": self.seanet.to_dict(), **self.sizes}

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "WavTokenizer":
        return cls(spec, SeanetConfig.from_dict(config["seanet"]), **{k: v for k, v in config.items() if k != "seanet"})


def read_wavtokenizer(source: Path, *, name: str = "", config: str | os.PathLike[str] | None = None) -> WavTokenizer:
    """Reads a Lightning checkpoint, or a folder of transformers.

    Args:
        source: the folder, or the `.ckpt` or `.safetensors` file itself.
        name: of the tokenizer.
        config: the YAML, if it does not lie alone beside the `.ckpt`. Where there is none, the audio is taken to be at
            24 kHz. Of a `.safetensors`, a `config.json` that does not lie beside it.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("model.safetensors", "*.ckpt"), "weights")
    if path.suffix == ".safetensors":
        found = read_transformers(path, Path(config or path.parent / "config.json"))
    else:
        found = read_lightning(path, Path(config) if config else _yaml_beside(path))
    seanet, weights, sizes = found.seanet, found.weights, found.decoder
    spec = Spec(
        name=name or f"wavtokenizer-{found.sample_rate // 1000}khz-hop{seanet.hop_length}",
        sample_rate=found.sample_rate,
        hop_length=seanet.hop_length,
        codebook_sizes=found.codebook_sizes,
        nested=len(found.codebook_sizes) > 1,
        batching="mask",
    )
    network = layout(lambda: WavTokenizer(spec, seanet, **sizes), path)
    state = weights.fill(network.encoder, seanet_names(seanet, decoder=False), "encoder.")
    state |= weights.fill(network.decoder, wavtokenizer_names(sizes["blocks"]), "decoder.")
    for stage in range(len(found.codebook_sizes)):
        theirs = f"quantizer.layers.{stage}.codebook"
        state[f"quantizer.layers.{stage}.books.0.entries"] = weights.take(f"{theirs}.embed")
        weights.ignore(*(f"{theirs}.{part}" for part in _UNUSED))
    weights.finish()
    tokenizer = build(lambda: WavTokenizer(spec, seanet, **sizes), state, path)
    tokenizer.provenance = {
        "license": "MIT",
        "paper": "arXiv 2408.16532",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer


def _yaml_beside(path: Path) -> Path | None:
    found = sorted(path.parent.glob("*.yaml"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:5])
        raise CheckpointError(f"several configurations lie beside {path} ({names}): name its own one, config=...")
    return found[0] if found else None
