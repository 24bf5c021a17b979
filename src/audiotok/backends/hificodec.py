"""HiFi-Codec: a convolutional codec with four codebooks, in two groups of two residual stages."""

import os
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..checkpoint import file_sha256
from ..errors import InputError
from ..quantize import GroupedResidualVQ, VQOptions
from ..spec import Spec
from ..tokenizer import Tokenizer
from .hificodec_files import codebooks_of, network_sizes, read_published, sample_rate_of
from .hificodec_network import Encoder, NetworkSizes, check_size, generator_of
from .weights import build

FROZEN = VQOptions(update="frozen", kmeans_init=False)
_MAX_ENTRIES = 2**20


class HiFiCodec(Tokenizer):
    """HiFi-Codec (Yang et al. 2023, arXiv 2305.02765).

    T samples give floor(T / hop) frames, as upstream: what is left over is heard by the last frame but not given back.
    Every frame depends on the whole utterance through the encoder's group norms, so audio is encoded whole. Rows are
    ordered stage by stage: row i belongs to stage i // groups, group i % groups.

    Args:
        spec: mono, with the network's hop, all codebooks of one size.
        network: `NetworkSizes`, or its values as a dict.
        groups: of the quantizer; they share the latent channels evenly.

    Raises:
        InputError: values that do not fit one another.
    """

    family: ClassVar[str] = "hificodec"
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder",)
    decoder_parts: ClassVar[tuple[str, ...]] = ("generator",)

    def __init__(self, spec: Spec, network: NetworkSizes | dict[str, Any], groups: int) -> None:
        super().__init__(spec)
        self.sizes = network if isinstance(network, NetworkSizes) else NetworkSizes.from_dict(network)
        sizes, rows = set(spec.codebook_sizes), len(spec.codebook_sizes)
        check_size("groups", groups, rows)
        if (spec.hop_length, spec.channels) != (self.sizes.hop_length, 1) or len(sizes) != 1 or rows % groups:
            raise InputError(f"{spec.name}: its hop, one channel and {rows} codebooks must be those of its network")
        size = sizes.pop()
        check_size("codebook size", size, _MAX_ENTRIES)
        self.generator = generator_of(self.sizes)
        self.encoder = Encoder(self.sizes)
        self.quantizer = GroupedResidualVQ(
            self.sizes.latent_dim, size, num_stages=rows // groups, groups=groups, options=FROZEN
        )
        self.min_samples = self.sizes.hop_length
        self.decode_context = self.generator.context_frames

    def _config(self) -> dict[str, Any]:
        return {"network": self.sizes.to_dict(), "groups": self.quantizer.num_groups}

    def num_frames(self, num_samples: int) -> int:
        """floor(T / hop): the formula of every strided convolution, one after another."""
        return num_samples // self.spec.hop_length

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        frames: Tensor = self.encoder(wav.to(self.dtype))
        return frames

    def _quantize(self, features: Tensor) -> Tensor:
        return self.quantizer.encode(features, self.spec.num_codebooks)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)

    def _synthesize(self, features: Tensor) -> Tensor:
        wav: Tensor = self.generator(features.to(self.dtype))
        return wav

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks[: self.spec.num_codebooks]


def read_hificodec(
    source: Path,
    *,
    name: str = "",
    config: str | os.PathLike[str] | None = None,
    sample_rate: int | None = None,
) -> HiFiCodec:
    """A checkpoint of AcademiCodec's HiFi-Codec. Nothing in it is run.

    Args:
        source: the checkpoint, a file without a suffix ("HiFi-Codec-24k-320d"), or a folder with one such file and
            its config*.json.
        name: of the tokenizer; default from rate and hop.
        config: the JSON file that belongs to it; None takes the one in the folder, if there is one.
        sample_rate: in Hz, where there is no JSON file. Factors and dilations are then those of the published
            checkpoints with the same kernels.

    Raises:
        CheckpointError: a file is missing, broken, hostile or of another kind, or the JSON does not fit the weights.
        InputError: nothing says the sample rate, or it is said twice and differently.
    """
    published = read_published(source, config)
    sizes = network_sizes(published)
    groups, stages, entries = codebooks_of(published)
    rate = sample_rate_of(published, sample_rate)
    spec = Spec(
        name=name or f"hificodec-{rate // 1000}khz-hop{sizes.hop_length}",
        sample_rate=rate,
        hop_length=sizes.hop_length,
        codebook_sizes=(entries,) * (groups * stages),
        nested=groups == 1,  # the groups of a stage each hold a part of the channels
    )
    tokenizer = build(lambda: HiFiCodec(spec, sizes, groups), published.state, published.path)
    tokenizer.provenance = {
        "license": "not stated",
        "paper": "arXiv 2305.02765",
        "converted_from": {"file": published.path.name, "sha256": file_sha256(published.path)},
    }
    return tokenizer
