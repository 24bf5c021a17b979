"""EnCodec (Défossez et al. 2022, arXiv 2210.13438) of the encodec package, audiocraft and transformers."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256
from ..codec.convolutional import ConvolutionalCodec
from ..errors import CheckpointError, InputError
from ..nn.seanet import SeanetConfig, plain_names, seanet_decoder, seanet_encoder, seanet_names
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from .encodec_files import Found, find_encodec
from .weights import Weights, build, folded, layout

_TRAINING = ("inited", "cluster_size", "embed_avg")  # the state of a codebook's training
_EPSILON = 1e-8  # added to the loudness that a segment is divided by
_TOGETHER = 16  # segments in one call, where that is not slower


class EnCodec(ConvolutionalCodec):
    """Residual vector quantization of SEANet's latents.

    The causal networks stream. Where `segment` is set (48 kHz), audio is cut into segments that overlap a little, each
    encoded by itself; where `normalize` is set, each is first divided by its loudness, which travels in
    `extras["scale"]` [B, segments]. Decoding joins the segments with triangular weights.

    Args:
        spec: what it takes and gives.
        seanet: sizes of the network.
        segment: samples of a segment, or None for none.
        overlap: share of a segment that the next one covers too.
        normalize: whether each segment (all audio, if there are none) is brought to one loudness.
    """

    family = "encodec"

    def __init__(
        self,
        spec: Spec,
        seanet: SeanetConfig,
        *,
        segment: int | None = None,
        overlap: float = 0.01,
        normalize: bool = False,
    ) -> None:
        super().__init__(spec)
        self.seanet, self.segment, self.overlap, self.normalize = seanet, segment, overlap, normalize
        self.encoder = seanet_encoder(seanet)
        self.quantizer = ResidualVQ(
            seanet.dimension, spec.codebook_sizes, spec.num_codebooks, options=VQOptions(update="frozen")
        )
        self.decoder = seanet_decoder(seanet)

    def _config(self) -> dict[str, Any]:
        return {
            "seanet": self.seanet.to_dict(),
            "segment": self.segment,
            "overlap": self.overlap,
            "normalize": self.normalize,
        }

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "EnCodec":
        return cls(spec, SeanetConfig.from_dict(config["seanet"]), **{k: v for k, v in config.items() if k != "seanet"})

    @property
    def required_extras(self) -> tuple[str, ...]:
        return (*(("scale",) if self.normalize else ()), *(("segment_frames",) if self.segment else ()))

    @property
    def segment_step(self) -> int:
        """Samples from the start of one segment to that of the next."""
        assert self.segment is not None
        return max(1, int((1 - self.overlap) * self.segment))

    @property
    def _most_together(self) -> int:
        return 1 if self.device.type == "cpu" else _TOGETHER

    def segment_lengths(self, num_samples: int) -> list[int]:
        """Samples of each segment of audio of so many."""
        assert self.segment is not None
        return [min(self.segment, num_samples - start) for start in range(0, num_samples, self.segment_step)]

    def num_frames(self, num_samples: int) -> int:
        frames = super().num_frames
        return sum(map(frames, self.segment_lengths(num_samples))) if self.segment else frames(num_samples)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        if self.segment or self.normalize:
            return torch.cat([one for one, _ in self._segments(wav)], 2)
        return super()._features(wav, lengths)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.segment or self.normalize):
            return super()._encode(wav, lengths)
        tokens, scales = [], []
        for features, scale in self._segments(wav):
            tokens.append(self._quantize(features))
            scales.append(scale)
        extras = {}
        if self.segment:
            frames = [super(EnCodec, self).num_frames(length) for length in self.segment_lengths(wav.shape[2])]
            extras["segment_frames"] = torch.tensor(frames, device=wav.device).repeat(len(wav), 1)
        if self.normalize:
            extras["scale"] = torch.stack(scales, 1)
        return torch.cat(tokens, 2), extras

    def _segments(self, wav: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents [B, D, f] and loudness [B] of each segment."""
        rows, _, total = wav.shape
        lengths = self.segment_lengths(total) if self.segment else [total]
        step = self.segment_step if self.segment else 0
        at, most = 0, self._most_together
        while at < len(lengths):
            together = 1
            while at + together < len(lengths) and lengths[at + together] == lengths[at] and together < most:
                together += 1
            batch = torch.cat([wav[:, :, i * step : i * step + lengths[i]] for i in range(at, at + together)])
            scale = batch.new_ones(len(batch))
            if self.normalize:
                scale = batch.mean(1).square().mean(1).sqrt().add_(_EPSILON)
                batch = batch / scale[:, None, None]
            sizes = torch.full((len(batch),), batch.shape[2])
            latents = torch.cat(list(self._latents(batch, sizes)), 1).transpose(1, 2)
            for i in range(together):
                yield latents[i * rows : (i + 1) * rows], scale[i * rows : (i + 1) * rows]
            at += together

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        if not self.segment:
            wav = super()._decode(tokens, extras)
            return wav * extras["scale"][:, :1, None] if self.normalize else wav
        rows = []
        for i, frames in enumerate(extras["segment_frames"].tolist()):
            counts = [count for count in frames if count]  # shorter rows of a batch are filled up with zeros
            rows.append(self._join(counts, tokens[i], extras["scale"][i] if self.normalize else None))
        longest = max(row.shape[1] for row in rows)
        return torch.stack([nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])

    def _join(self, frames: list[int], tokens: Tensor, scales: Tensor | None) -> Tensor:
        """wav [C, T] of the segments of one row's tokens [K, F]."""
        if sum(frames) != tokens.shape[1] or min(frames) < 0:
            raise InputError(
                f"segment_frames add up to {sum(frames)}, but there are {tokens.shape[1]} frames of tokens"
            )
        hop, step = self.spec.output_hop_length, self.segment_step
        ends = [i * step + count * hop for i, count in enumerate(frames)]
        wav = torch.zeros(self.spec.channels, max(ends), device=tokens.device)
        weights = torch.zeros(max(ends), device=tokens.device)
        ramp = torch.linspace(0, 1, frames[0] * hop + 2, device=tokens.device)[1:-1]
        triangle = 0.5 - (ramp - 0.5).abs()
        at, done, most = 0, 0, self._most_together
        while at < len(frames):
            together = 1
            while at + together < len(frames) and frames[at + together] == frames[at] and together < most:
                together += 1
            count = frames[at]
            batch = tokens[:, done : done + together * count].reshape(-1, together, count).transpose(0, 1)
            decoded = super()._decode(batch, {})
            for i in range(together):
                one = decoded[i] if scales is None else decoded[i] * scales[at + i]
                where = slice((at + i) * step, ends[at + i])
                wav[:, where] += triangle[: one.shape[1]] * one
                weights[where] += triangle[: one.shape[1]]
            at, done = at + together, done + together * count
        return wav / weights


def read_encodec(source: Path, *, name: str = "") -> EnCodec:
    """Reads a folder of transformers, a native `encodec_*.th`, or audiocraft's `compression_state_dict.bin`.

    Args:
        source: the folder, or the `.th` or `.bin` file itself. A `config.json` beside a `.th` describes it; without
            one, its name says which of the two published models it is.
        name: of the tokenizer.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    return _build(find_encodec(source), name)


def _build(found: Found, name: str) -> EnCodec:
    seanet, path = found.seanet, found.path
    weights = Weights(folded(plain_names(found.tensors), path), path)
    entries: dict[str, Tensor] = {}
    while f"quantizer.layers.{len(entries)}.codebook.embed" in weights:
        stage = len(entries)
        entries[f"quantizer.layers.{stage}.books.0.entries"] = weights.take(f"quantizer.layers.{stage}.codebook.embed")
        weights.ignore(*(f"quantizer.layers.{stage}.codebook.{part}" for part in _TRAINING))
    if not entries or any(table.dim() != 2 or not table.numel() for table in entries.values()):
        raise CheckpointError(f"{path} holds no codebooks [V, D] of EnCodec")
    plain = not (seanet.group_norm or found.segment or found.normalize)
    spec = Spec(
        name=name or f"encodec-{found.sample_rate // 1000}khz",
        sample_rate=found.sample_rate,
        hop_length=math.prod(seanet.ratios),
        codebook_sizes=tuple(len(table) for table in entries.values()),
        channels=seanet.channels,
        streamable=seanet.causal and plain,
        nested=True,
        batching="mask" if plain else "bucket",
        segmented=found.segment is not None,
    )
    encoder, decoder = layout(lambda: (seanet_encoder(seanet), seanet_decoder(seanet)), path)
    state = entries | weights.fill(encoder, seanet_names(seanet, decoder=False), "encoder.")
    state |= weights.fill(decoder, seanet_names(seanet, decoder=True), "decoder.")
    weights.finish()
    tokenizer = build(
        lambda: EnCodec(spec, seanet, segment=found.segment, overlap=found.overlap, normalize=found.normalize),
        state,
        path,
    )
    tokenizer.provenance = {
        "license": found.licence,
        "paper": "arXiv 2210.13438",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer
