"""Unit HiFi-GAN: tokens of any subset of layers back to speech (arXiv 2406.10735)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError, UnsupportedError
from ..nn.hifigan import HifiGanGenerator, same_conv
from ..nn.layer_ids import layer_ids
from ..pieces import decode_in_pieces, group_rows
from .vocoder_config import VocoderConfig


class LayerPooling(nn.Module):
    """One vector per frame from those of all layers: a score for each (Linear, ReLU, Linear), softmax over the
    layers, weighted sum. A missing layer has the vector and the score of id 0 and takes part like any other."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, embedded: Tensor) -> Tensor:
        """[B, D, F] of [B, L, F, D]."""
        scores = self.score(functional.relu(self.hidden(embedded)))  # [B, L, F, 1]
        pooled: Tensor = (scores.softmax(dim=1) * embedded).sum(dim=1)  # [B, F, D]
        return pooled.transpose(1, 2)


class DurationPredictor(nn.Module):
    """How many frames each distinct unit lasts: two convolutions with ReLU, a linear layer, exp(x) - 1."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = same_conv(dim, hidden, kernel)
        self.conv2 = same_conv(hidden, hidden, kernel)
        self.proj = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Repeats [B, F] int64, at least 1, of features [B, D, F]."""
        frames = features.shape[2]
        features = lengthened(features, self.conv1.kernel_size[0] // 2 + 1)
        hidden = functional.relu(self.conv2(functional.relu(self.conv1(features))))[:, :, :frames]
        predicted: Tensor = self.proj(hidden.transpose(1, 2))[..., 0]
        return (predicted.float().exp() - 1).round().clamp(1, 10_000).long()


class UnitVocoder(nn.Module):
    """Tokens to a waveform, frame f filling samples f·hop to (f+1)·hop.

    Args:
        config: the network's sizes.

    Attributes:
        config: the same.
        layers: numbers of the layers it knows.

    Example:
        >>> vocoder = UnitVocoder(VocoderConfig((3, 7), (10, 10), initial_channels=32, embedding_dim=8))
        >>> vocoder.decode(torch.zeros(1, 1, 6, dtype=torch.int64), layers=[7]).shape
        torch.Size([1, 1, 1920])
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = config.layers
        self.embedding = nn.Embedding(1 + sum(config.codebook_sizes), config.embedding_dim)
        self.pooling = LayerPooling(config.embedding_dim, config.attention_dim)
        self.duration: DurationPredictor | None = None
        if config.duration_dim:
            self.duration = DurationPredictor(config.embedding_dim, config.duration_dim, config.duration_kernel)
        self.generator = HifiGanGenerator(
            config.embedding_dim + config.speaker_dim,
            initial_channels=config.initial_channels,
            upsample_factors=config.upsample_factors,
            upsample_kernels=config.upsample_kernels,
            resblock_kernels=config.resblock_kernels,
            resblock_dilations=config.resblock_dilations,
            resblock_type=config.resblock_type,
            first_kernel=config.first_kernel,
            last_kernel=config.last_kernel,
            last_bias=config.last_bias,
        )

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> "UnitVocoder":
        """A vocoder without weights from what `to_config` gave."""
        return cls(VocoderConfig.from_dict(values))

    def to_config(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.config.to_dict()

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.generator.hop_length

    @property
    def context_frames(self) -> int | None:
        """Frames on each side of a frame that its audio depends on. None with a duration predictor, whose audio
        lies on no grid of frames."""
        return None if self.duration is not None else self.generator.context_frames

    def forward(self, tokens: Tensor, *, layers: Sequence[int] | None = None, speaker: Tensor | None = None) -> Tensor:
        """Rows of equal length to audio: reflection at the ends makes padded rows inexact, see `decode`.

        Args:
            tokens: [B, K, F] int64, each row counted from 0.
            layers: which of `self.layers` the K rows are, in any order; None means all of them.
            speaker: [B, S] where the vocoder takes speaker vectors.

        Returns:
            wav [B, 1, F·hop] in -1..1; with a duration predictor [1, 1, sum of the repeats · hop].

        Raises:
            InputError: tokens or layers that do not fit, or a speaker vector missing, unwanted or of another size.
            UnsupportedError: several rows for a duration predictor, which gives each its own length.
        """
        frames = tokens.shape[-1]
        ids = layer_ids(tokens, layers, self.layers, self.config.codebook_sizes)
        features = self.pooling(self.embedding(ids))  # [B, D, F]
        if self.duration is not None:
            if len(features) > 1:
                raise UnsupportedError("a vocoder with a duration predictor decodes one row at a time")
            features = features.repeat_interleave(self.duration(features)[0], dim=2)
            frames = features.shape[2]
        features = lengthened(features, self.generator.min_frames)
        vector = self._checked_speaker(speaker, len(features), features.dtype)
        if vector is not None:
            features = torch.cat([features, vector[:, :, None].expand(-1, -1, features.shape[2])], dim=1)
        wav: Tensor = self.generator(features)
        return wav[:, :, : frames * self.hop_length]

    @torch.no_grad()
    def decode(
        self,
        tokens: Tensor,
        *,
        layers: Sequence[int] | None = None,
        lengths: Tensor | None = None,
        speaker: Tensor | None = None,
        chunk_frames: int = 3000,
    ) -> Tensor:
        """Audio of a padded batch: each row is what it is alone, and long ones go in pieces that overlap by the
        receptive field, so that memory does not grow with them.

        Args:
            tokens: [B, K, F] int64. Frames beyond a row's length may hold anything.
            layers: as `forward`.
            lengths: [B] frames of each row; None means all.
            speaker: [B, S] where the vocoder takes speaker vectors.
            chunk_frames: of a piece.

        Returns:
            wav [B, 1, max length · hop] float32, zeros beyond each row's end. With a duration predictor each row
            is as long as its units last.

        Raises:
            InputError: as `forward`, or lengths or chunk_frames out of range.
        """
        if tokens.dim() != 3 or chunk_frames < 1:
            raise InputError(f"wanted tokens [B, K, F] and chunk_frames >= 1, not {list(tokens.shape)}, {chunk_frames}")
        frames = [tokens.shape[2]] * len(tokens) if lengths is None else [int(length) for length in lengths]
        if len(frames) != len(tokens) or not all(1 <= count <= tokens.shape[2] for count in frames):
            raise InputError(f"lengths must be {len(tokens)} numbers in 1..{tokens.shape[2]}, not {frames}")
        vectors = self._checked_speaker(speaker, len(tokens), None)
        rows: list[Tensor] = [torch.empty(0)] * len(tokens)
        alone = self.duration is not None or tokens.device.type == "cpu"  # on a CPU batches are no faster
        for members in group_rows(frames, one_by_one=alone):
            some = tokens[members, :, : frames[members[0]]]
            spoken = None if vectors is None else vectors[members]
            wav = decode_in_pieces(
                some,
                partial(self.forward, layers=layers, speaker=spoken),
                step=chunk_frames,
                context=self.context_frames,
                hop=self.hop_length,
            )
            for i, row in zip(members, wav, strict=True):
                rows[i] = row.float()
        return nn.utils.rnn.pad_sequence([row.t() for row in rows], batch_first=True).transpose(1, 2)

    def _checked_speaker(self, speaker: Tensor | None, rows: int, dtype: torch.dtype | None) -> Tensor | None:
        """Speaker vectors [B, S], normalised once, when the network sees them (`dtype` is not None)."""
        wanted = self.config.speaker_dim
        if (speaker is None) != (wanted == 0):
            raise InputError(
                f"this vocoder wants a speaker vector of {wanted} numbers for each row"
                if wanted
                else "this vocoder takes no speaker vector"
            )
        if speaker is None:
            return None
        if speaker.shape != (rows, wanted):
            raise InputError(f"speaker must be [{rows}, {wanted}], not {list(speaker.shape)}")
        if dtype is None:
            return speaker
        return (functional.normalize(speaker) if self.config.normalize_speaker else speaker).to(dtype)


def lengthened(features: Tensor, frames: int) -> Tensor:
    """Features [B, D, F], their last frame repeated where there are fewer than a network can reflect."""
    missing = frames - features.shape[2]
    return torch.cat([features, features[..., -1:].expand(-1, -1, missing)], dim=2) if missing > 0 else features
