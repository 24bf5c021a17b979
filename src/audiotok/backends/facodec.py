"""`FACodec` (Ju et al. 2024, "NaturalSpeech 3", arXiv 2403.03100), versions 1 and 2, and its published checkpoints."""

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256
from ..errors import CheckpointError, InputError
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from ..tokenizer import Tokenizer
from .facodec_config import FACodecConfig
from .facodec_files import pair_of_files, read_weights, sizes_of, state_of
from .facodec_network import ConvDecoder, Prosody, Transformer, conv_encoder, needed


class FACodec(Tokenizer):
    """Speech as codes of prosody, content and acoustic detail, and one vector of the speaker's timbre.

    Rows of tokens are those of prosody first, then content, then detail. The timbre travels in `extras["speaker"]`
    [B, D], and `decode` needs it: put another speaker's there and the voice changes.

    A row is encoded as upstream encodes it alone. The convolutions take long audio in pieces; the transformers (timbre
    and, in version 2, prosody) see the whole utterance.

    Args:
        spec: mono, with the hop of the network and a codebook for each row.
        config: the sizes of the network.

    Attributes:
        use_detail: whether `decode` and `embed` use the rows of detail. Upstream leaves them out to convert a voice,
            since some of the source speaker's timbre is in them.

    Raises:
        InputError: spec and config do not fit one another.
    """

    family: ClassVar[str] = "facodec"
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder", "timbre", "prosody")
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder",)

    def __init__(self, spec: Spec, config: FACodecConfig) -> None:
        super().__init__(spec)
        found = (spec.hop_length, spec.num_codebooks, spec.channels, spec.output_sample_rate)
        if found != (config.hop_length, sum(config.codebooks), 1, spec.sample_rate):
            raise InputError(
                f"{spec.name}: its hop and number of codebooks must be those of the network, {config.hop_length} and "
                f"{sum(config.codebooks)}, with one channel and the same rate in and out"
            )
        self.config = config
        self.use_detail = True
        self.encoder = conv_encoder(config)
        self.prosody = Prosody(config) if config.mel_bands else None
        self.timbre = Transformer(config)
        options = VQOptions(lookup="cosine", update="frozen", kmeans_init=False)
        sizes = iter(spec.codebook_sizes)
        self.quantizers = nn.ModuleList(
            ResidualVQ(
                config.dim,
                [next(sizes) for _ in range(rows)],
                rows,
                codebook_dim=config.codebook_dim,
                options=options,
            )
            for rows in config.codebooks
        )
        self.decoder = ConvDecoder(config)
        self.min_samples = config.min_samples
        self._encoder_span = needed(self.encoder, 0, 0)  # samples that frame 0 depends on
        first, last = needed(self.decoder.stack, 0, config.hop_length - 1)
        self.decode_context = max(-first, last)
        super().train(False)

    def _config(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "FACodec":
        return cls(spec, FACodecConfig(**config))

    @property
    def required_extras(self) -> tuple[str, ...]:
        return ("speaker",)

    def num_frames(self, num_samples: int) -> int:
        return self.config.num_frames(num_samples)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self._features(wav, lengths)
        speaker = self.timbre(features[:, : self.config.dim]).mean(dim=2)
        return self._quantize(features), {"speaker": speaker.float()}

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """The latent [B, D, F]; in version 2 [B, 2·D, F], what prosody is taken from after it."""
        latent = self._latent(wav.to(self.dtype))
        if self.prosody is None:
            return latent
        # With more than three quarters of a hop left over, the convolutions give a frame that the spectrogram lacks
        # (upstream then fails).
        lack = max(0, latent.shape[2] * self.spec.hop_length - wav.shape[2])
        return torch.cat([latent, self.prosody(nn.functional.pad(wav, (0, lack)))], dim=1)

    def _latent(self, wav: Tensor) -> Tensor:
        """[B, D, F] of wav [B, 1, T], in pieces that reach beyond what is kept of them as far as a frame sees."""
        hop, frames, step = self.spec.hop_length, self.num_frames(wav.shape[2]), self._chunk_frames()
        if frames <= step:
            return cast(Tensor, self.encoder(wav))
        before, behind = -(self._encoder_span[0] // hop), self._encoder_span[1] - hop + 1
        kept = []
        for start in range(0, frames, step):
            end, first = min(start + step, frames), max(0, start - before)
            piece = wav[:, :, first * hop : None if end == frames else end * hop + behind]
            kept.append(self.encoder(piece)[:, :, start - first : end - first])
        return torch.cat(kept, dim=2)

    def _quantize(self, features: Tensor) -> Tensor:
        dim, (prosody, content, *detail) = self.config.dim, self._groups_of_books()
        latent = features[:, :dim].float()
        tokens = [prosody.encode(features[:, -dim:]), content.encode(latent)]
        for quantizer in detail:
            rest = latent - (prosody.decode(tokens[0]) + content.decode(tokens[1]))
            tokens.append(quantizer.encode(rest))
        return torch.cat(tokens, dim=1)

    def _embed(self, tokens: Tensor) -> Tensor:
        parts = zip(self._groups_of_books(), torch.split(tokens, list(self.config.codebooks), dim=1), strict=True)
        prosody, content, *detail = (quantizer.decode(part) for quantizer, part in parts)
        return sum(detail, prosody + content) if self.use_detail else prosody + content

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        speaker, wanted = extras["speaker"], (len(tokens), self.config.dim)
        if speaker.shape != wanted or not speaker.is_floating_point():
            raise InputError(
                f"{self.spec.name} needs a speaker vector of floats {list(wanted)}, not {list(speaker.shape)} "
                f"{speaker.dtype}"
            )
        return cast(Tensor, self.decoder(self._embed(tokens).to(self.dtype), speaker.to(self.dtype)))

    def _groups_of_books(self) -> list[ResidualVQ]:
        return [cast(ResidualVQ, quantizer) for quantizer in self.quantizers]

    @property
    def codebooks(self) -> list[Tensor]:
        return [table for quantizer in self._groups_of_books() for table in quantizer.codebooks]


def read_facodec(
    source: Path, *, name: str = "", version: int | None = None, heads: int = 4, sample_rate: int = 16000
) -> FACodec:
    """A tokenizer from a published pair of files, encoder and decoder. Nothing in them is run.

    Sizes come from the weights, and so does the version: a decoder of version 2 has a transformer for prosody.

    Args:
        source: the folder with ns3_facodec_encoder.bin and ns3_facodec_decoder.bin, or with both names ending in
            _v2.bin; or one of the two files, with the other beside it.
        name: of the tokenizer; default facodec or facodec-v2.
        version: 1 or 2, which pair to read of a folder that holds both.
        heads: of attention; no file says it, and all published models have 4.
        sample_rate: in Hz; likewise.

    Raises:
        InputError: no such version, a folder with both and none chosen, or another option that cannot be.
        CheckpointError: a file is missing, broken, hostile or of another kind.
    """
    encoder, decoder = pair_of_files(source, version)
    halves = read_weights(encoder), read_weights(decoder)
    twice = sorted(halves[0].keys() & halves[1].keys())
    if twice:
        raise CheckpointError(f"{encoder} and {decoder} both hold {', '.join(twice[:5])}: is one a copy of the other?")
    weights = halves[0] | halves[1]
    try:
        config, codebook_sizes = sizes_of(weights, heads)
        spec = Spec(
            name=name or ("facodec-v2" if config.mel_bands else "facodec"),
            sample_rate=sample_rate,
            hop_length=config.hop_length,
            codebook_sizes=codebook_sizes,
        )
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in FACodec(spec, config).state_dict().items()}
        state = state_of(weights, shapes, config)
    except CheckpointError as error:
        raise CheckpointError(f"{encoder} and {decoder.name}: {error}") from error
    tokenizer = FACodec(spec, config)
    tokenizer.load_state_dict(state)
    tokenizer.requires_grad_(False)
    tokenizer.provenance = {
        "license": "apache-2.0",
        "paper": "https://arxiv.org/abs/2403.03100",
        "converted_from": {
            "file": decoder.name,
            "sha256": file_sha256(decoder),
            "encoder_file": encoder.name,
            "encoder_sha256": file_sha256(encoder),
        },
    }
    return tokenizer
