"""`LatentKMeans`: k-means over what a codec's encoder gives, in the place of the codec's own quantizer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..codec.convolutional import ConvolutionalCodec
from ..errors import AudiotokError, InputError
from ..quantize import KMeansQuantizer
from ..registry import family_class
from ..spec import Spec
from ..tokenizer import Tokenizer

_PROBE_FRAMES = 16


class LatentKMeans(Tokenizer):
    """Tokens are the nearest k-means centres of a codec's latents before quantization, each further codebook coding
    what the ones before leave over. It decodes where the codec's decoder takes such latents.

    Args:
        spec: the codec's rate, hop and channels.
        codec: the tokenizer whose latents they are, or its family, spec and configuration as a dict.
        dim: D of its latents.
        lookup: "euclidean", or "cosine" for the nearest direction.

    Raises:
        InputError: values that do not fit one another.
    """

    family: ClassVar[str] = "latent-kmeans"

    def __init__(self, spec: Spec, codec: Tokenizer | dict[str, Any], dim: int, lookup: str = "euclidean") -> None:
        super().__init__(spec)
        self.codec = codec if isinstance(codec, Tokenizer) else _build(codec)
        theirs = self.codec.full_spec
        if isinstance(self.codec, LatentKMeans):
            raise InputError(f"{theirs.name} is k-means over latents already: give the codec that they come from")
        if _facts(theirs) != _facts(spec):
            raise InputError(f"{spec.name}: its rates, hop and channels must be those of its codec, {_facts(theirs)}")
        self.lookup = lookup
        self.quantizer = KMeansQuantizer([torch.zeros(size, dim) for size in spec.codebook_sizes], lookup=lookup)
        self.context = self.codec.context
        self.decode_context = self.codec.decode_context
        self.min_samples = self.codec.min_samples
        self.chunk_miss_rate = self.codec.chunk_miss_rate
        self.chunk_seconds = self.codec.chunk_seconds

    @classmethod
    def of(cls, codec: Tokenizer, tables: Sequence[Tensor], *, name: str, lookup: str = "euclidean") -> "LatentKMeans":
        """A tokenizer of a codec and centres [V, D] of its latents; it shares the codec's weights.

        Args:
            codec: any tokenizer with features.
            tables: residual codebooks.
            name: of the tokenizer.
            lookup: as for the class.

        Raises:
            UnsupportedError: the codec has no features, or half of it was dropped.
            InputError: centres of another size, or features that are not one vector for each frame.
        """
        codec._need("both")
        dim, decodes = cls.width(codec), _decodes(codec)
        if any(table.shape[1] != dim for table in tables):
            raise InputError(f"latents of {codec.spec.name} have {dim} values, not {[t.shape[1] for t in tables]}")
        spec = replace(
            codec.full_spec,
            name=name,
            codebook_sizes=tuple(map(len, tables)),
            row_levels=(),
            nested=True,
            streamable=False,
            decodable=decodes,
        )
        tokenizer = cls(spec, codec, dim, lookup)
        tokenizer.to(codec.device)
        with torch.no_grad():
            for entries, table in zip(tokenizer.quantizer.codebooks, tables, strict=True):
                entries.copy_(table)
        tokenizer._fingerprint = None
        tokenizer.requires_grad_(False)
        tokenizer.provenance = {"license": codec.provenance.get("license", "unknown"), "codec": codec.provenance}
        return tokenizer

    @staticmethod
    def width(codec: Tokenizer) -> int:
        """D of a codec's latents. Errors as `of`."""
        wav = _probe_signal(codec)
        features, _ = codec.features([wav])
        frames = codec.num_frames(wav.shape[1])
        if features.shape[2] != frames:
            raise InputError(f"features of {codec.spec.name} are {list(features.shape)}, not {frames} frames")
        return features.shape[1]

    def _config(self) -> dict[str, Any]:
        codec = {"family": self.codec.family, "spec": self.codec.full_spec.to_dict(), "config": self.codec._config()}
        return {"codec": codec, "dim": self.quantizer.dim, "lookup": self.lookup}

    def num_frames(self, num_samples: int) -> int:
        return self.codec.num_frames(num_samples)

    def latents(self, wav: Tensor) -> Iterator[Tensor]:
        """Latents [N, D] of wav [C, T], in pieces that follow one another, where the codec has them so."""
        row = wav.to(self.device)
        if self._in_pieces():
            row = torch.nn.functional.pad(row, (0, max(0, self.min_samples - row.shape[1])))
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                for piece in self._pieces(row[None], torch.tensor([row.shape[1]])):
                    yield piece[0].t()
        else:
            yield self.features(row)[0][0].t()

    def _in_pieces(self) -> bool:
        return isinstance(self.codec, ConvolutionalCodec) and not self.codec.required_extras

    def _pieces(self, wav: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """[B, D, f] of the pieces that a codec of layers that remember encodes; else of the whole."""
        self.codec.chunk_seconds = self.chunk_seconds
        if self._in_pieces():
            assert isinstance(self.codec, ConvolutionalCodec)
            for piece in self.codec._latents(wav, lengths):
                yield piece.transpose(1, 2)
        else:
            yield self.codec._features(wav, lengths)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat(list(self._pieces(wav, lengths)), 2)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.cat([self._quantize(piece) for piece in self._pieces(wav, lengths)], 2), {}

    def _quantize(self, features: Tensor) -> Tensor:
        return self.quantizer.encode(features, num_codebooks=self.spec.num_codebooks)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        self.codec.chunk_seconds = self.chunk_seconds
        if not isinstance(self.codec, ConvolutionalCodec):
            return super()._decode(tokens, extras)
        return self.codec.decode_pieces(tokens, self._embed)

    def _synthesize(self, features: Tensor) -> Tensor:
        return self.codec._synthesize(features)

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks[: self.spec.num_codebooks]


@torch.no_grad()
def _decodes(codec: Tokenizer) -> bool:
    """Whether a codec's decoder takes its latents: its own embedding has the same shape, and audio follows from that
    alone."""
    if type(codec)._synthesize is Tokenizer._synthesize or not codec.full_spec.decodable or codec.required_extras:
        return False
    wav = _probe_signal(codec)
    return codec.embed(codec.encode([wav])).shape == codec.features([wav])[0].shape


def _probe_signal(codec: Tokenizer) -> Tensor:
    spec = codec.full_spec
    wav = torch.zeros(spec.channels, max(codec.min_samples, _PROBE_FRAMES * spec.hop_length), device=codec.device)
    wav[:, ::7] = 0.1  # not silence, which may be a case of its own
    return wav


def _facts(spec: Spec) -> tuple[int, ...]:
    return spec.sample_rate, spec.hop_length, spec.channels, spec.output_sample_rate


def _build(values: dict[str, Any]) -> Tokenizer:
    """An empty codec of the family, spec and configuration that `_config` wrote."""
    if not isinstance(values.get("config"), dict) or values.get("family") == LatentKMeans.family:
        raise InputError("codec must be the family, spec and config of a tokenizer that has latents of its own")
    codec = family_class(values["family"]).from_config(Spec.from_dict(values["spec"]), values["config"])
    if not isinstance(codec, Tokenizer):
        raise AudiotokError(f"family {values['family']!r} is no Tokenizer")
    return codec
