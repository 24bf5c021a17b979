"""SNAC: residual quantization at several frame rates, coarse levels first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor

from ..checkpoint import file_sha256, read_json, read_torch
from ..codec.convolutional import ConvolutionalCodec
from ..errors import InputError
from ..nn.flow import Pieces
from ..quantize import MultiScaleRVQ, VQOptions
from ..spec import Spec
from .snac_files import network_sizes, network_spec, network_state, read_weights
from .snac_network import NetworkSizes, decoder, draw_noise, encoder
from .weights import build, number, one_file

_DEFAULTS = {  # of upstream's class, for what a configuration leaves out
    "sampling_rate": 44100,
    "encoder_dim": 64,
    "encoder_rates": [3, 3, 7, 7],
    "decoder_dim": 1536,
    "decoder_rates": [7, 7, 3, 3],
    "attn_window_size": 32,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [8, 4, 2, 1],
    "noise": True,
    "depthwise": True,
}


class SNAC(ConvolutionalCodec):
    """SNAC (Siuzdak et al. 2024, arXiv 2410.14411).

    A level of stride s has a code for every s frames of the network. The codes of one coarse frame are one frame of
    tokens, coarse levels first and ascending in time within a level: with strides 4, 2, 1 the rows belong to levels
    0, 1, 1, 2, 2, 2, 2 (`spec.row_levels`); `quantize.levels.unpack` gives each level's own codes back. Features and
    embeddings [B, D, F] hold the vectors of a coarse frame one after the other: D is stride times the latent width.

    Audio is padded with zeros to whole coarse frames and whole attention windows, as upstream.

    Args:
        spec: what it takes and gives.
        network: `NetworkSizes`, or its values as a dict.
        codebook_dim: width of the search space of each level; None searches among the latents themselves.

    Attributes:
        noise_seed: upstream's decoder adds noise, other noise each time. None leaves it out. With a seed every row gets
            the noise that upstream draws for it alone after `torch.manual_seed(noise_seed)` on a CPU, whatever the
            batch and the pieces; the noise differs where the number of frames differs.

    Raises:
        InputError: the spec is not the network's.
    """

    family: ClassVar[str] = "snac"
    quantizer: MultiScaleRVQ

    def __init__(self, spec: Spec, network: NetworkSizes | dict[str, Any], codebook_dim: int | None = None) -> None:
        super().__init__(spec)
        self.noise_seed: int | None = None
        self.sizes = sizes = network if isinstance(network, NetworkSizes) else NetworkSizes.from_dict(network)
        self.codebook_dim = codebook_dim
        if (spec.hop_length, spec.channels, spec.row_levels) != (sizes.hop_length, 1, sizes.row_levels):
            raise InputError(
                f"{spec.name}: its hop, one channel and levels of rows must be those of its network, "
                f"{sizes.hop_length} and {sizes.row_levels}"
            )
        of_level = dict(zip(spec.row_levels, spec.codebook_sizes, strict=True))
        if spec.codebook_sizes != tuple(of_level[level] for level in spec.row_levels):
            raise InputError(f"{spec.name}: the rows of a level share a codebook, they cannot be {spec.codebook_sizes}")
        self.encoder = encoder(sizes)
        self.quantizer = MultiScaleRVQ(
            sizes.latent,
            list(of_level.values()),
            sizes.strides,
            codebook_dim=codebook_dim,
            options=VQOptions(lookup="cosine", update="frozen", kmeans_init=False),
        )
        self.decoder = decoder(sizes)

    def _config(self) -> dict[str, Any]:
        return {"network": self.sizes.to_dict(), "codebook_dim": self.codebook_dim}

    def padded_length(self, num_samples: int) -> int:
        return -(-num_samples // self.sizes.block_length) * self.sizes.block_length

    def num_frames(self, num_samples: int) -> int:
        """Coarse frames of the audio padded to whole coarse frames and windows."""
        return self.padded_length(num_samples) // self.spec.hop_length

    def _chunk_frames(self) -> int:
        """Whole windows, so that only a last piece is padded."""
        window = self.sizes.block_length // self.sizes.hop_length
        return -(-super()._chunk_frames() // window) * window

    def _quantize(self, features: Tensor) -> Tensor:
        frames = rearrange(features, "b (s d) f -> b d (f s)", s=self.sizes.frames)
        return self.quantizer.encode(frames, self.spec.num_codebooks)

    def _embed(self, tokens: Tensor) -> Tensor:
        return rearrange(self.quantizer.decode(tokens), "b d (f s) -> b (s d) f", s=self.sizes.frames)

    def _frame_pieces(self, frames: Tensor, flow: Pieces) -> Iterator[Tensor]:
        if self.noise_seed is not None:
            draw_noise(self.decoder, flow, frames.shape[2], self.noise_seed)
        yield from super()._frame_pieces(frames, flow)


def read_snac(source: Path, *, name: str = "") -> SNAC:
    """Reads `pytorch_model.bin` and the `config.json` beside it, as published.

    Args:
        source: the folder that holds both, or the file with the weights.
        name: of the tokenizer; default from its rate.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("pytorch_model.bin",), "weights")
    config = path.with_name("config.json")
    facts = _DEFAULTS | read_json(config)
    sizes = network_sizes(facts, config)
    rate = number(facts["sampling_rate"], "sampling_rate", config, high=1 << 20)
    size = number(facts["codebook_size"], "codebook_size", config, high=1 << 24)
    codebook_dim = number(facts["codebook_dim"], "codebook_dim", config)
    weights = read_weights(read_torch(path), path)
    state = network_state(weights, sizes)
    for level in range(len(sizes.strides)):
        theirs, ours = f"quantizer.quantizers.{level}", f"quantizer.layers.{level}"
        for side in ("in", "out"):
            state[f"{ours}.project_{side}.weight"] = weights.take_matrix(f"{theirs}.{side}_proj.weight")
            state[f"{ours}.project_{side}.bias"] = weights.take(f"{theirs}.{side}_proj.bias")
        state[f"{ours}.books.0.entries"] = weights.take(f"{theirs}.codebook.weight")
    weights.finish()
    spec = network_spec(name or f"snac-{rate // 1000}khz", rate, sizes, [size] * len(sizes.strides))
    tokenizer = build(lambda: SNAC(spec, sizes, codebook_dim), state, path)
    tokenizer.provenance = {
        "license": "MIT",
        "paper": "arXiv 2410.14411",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer
