"""Codecs made of layers that take pieces: long audio in bounded memory, and streams, with the codes of the whole."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..nn.flow import Flow, Pieces, Ragged
from ..pieces import spans
from ..quantize.base import Quantizer
from ..spec import Spec
from ..streams import Step
from ..tokenizer import Tokenizer


class ConvolutionalCodec(Tokenizer):
    """Encoder, quantizer and decoder whose layers take a `Flow`. A subclass builds the three.

    Attributes:
        encoder: wav [B, T, C] to latents [B, F, D].
        quantizer: latents [B, D, F] to tokens and back.
        decoder: latents [B, F, D] to wav [B, about F·hop, C].
    """

    encoder_parts = ("encoder",)
    decoder_parts = ("decoder",)
    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.chunk_seconds = 10.0

    def padded_length(self, num_samples: int) -> int:
        """Samples that the encoder sees of so many, the rest being zeros."""
        return num_samples

    def _quantize(self, features: Tensor) -> Tensor:
        return self.quantizer.encode(features, self.spec.num_codebooks)  # type: ignore[call-arg]

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat(list(self._latents(wav, lengths)), 1).transpose(1, 2)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.cat([self._quantize(one.transpose(1, 2)) for one in self._latents(wav, lengths)], 2), {}

    def _synthesize(self, features: Tensor) -> Tensor:
        return self.decode_pieces(features, lambda piece: piece)

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        return self.decode_pieces(tokens, self._embed)

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks[: self.spec.num_codebooks]

    def _stream_encoder(self) -> Step:
        if not self.spec.streamable:
            return super()._stream_encoder()
        flow = Pieces(last=False)
        samples = 0

        def step(wav: Tensor, last: bool) -> Tensor:
            nonlocal samples
            samples += wav.shape[2]
            flow.last = last
            if last:
                wav = nn.functional.pad(wav, (0, self.padded_length(samples) - samples))
            return self._quantize(self.push_encoder(wav, flow).transpose(1, 2))

        return step

    def _stream_decoder(self) -> Step:
        if not self.spec.streamable:
            return super()._stream_decoder()
        flow = Pieces(last=False)

        def step(tokens: Tensor, last: bool) -> Tensor:
            flow.last = last
            return self.push_decoder(self._embed(tokens), flow).transpose(1, 2)

        return step

    def push_encoder(self, wav: Tensor, flow: Flow) -> Tensor:
        """Latents [B, f, D] that a piece wav [B, C, t] completes."""
        found: Tensor = self.encoder(wav.transpose(1, 2).to(self.dtype), flow)
        return found

    def push_decoder(self, features: Tensor, flow: Flow) -> Tensor:
        """wav [B, t, C] that a piece of features [B, D, f] completes."""
        found: Tensor = self.decoder(features.transpose(1, 2).to(self.dtype), flow)
        return found

    def decode_pieces(self, frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """wav [B, C, T] of tokens or features [B, K or D, F]; `embed` makes features [B, D, f] of a piece of them."""
        flow = Pieces(last=False)
        found = [self.push_decoder(embed(piece), flow) for piece in self._frame_pieces(frames, flow)]
        return torch.cat(found, 1).transpose(1, 2)

    def _latents(self, wav: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """Latents [B, f, D], piece by piece; rows of different lengths come in one piece, padded with garbage."""
        sizes = lengths.tolist()
        total = self.padded_length(wav.shape[2])
        step = max(1, self._chunk_frames()) * self.spec.hop_length
        if len(set(sizes)) > 1:
            wav = nn.functional.pad(wav, (0, total - wav.shape[2]))
            yield self.push_encoder(wav, Ragged([self.padded_length(size) for size in sizes]))
            return
        flow = Pieces(last=False)
        for start, end in spans(total, step):
            flow.last = end == total
            piece = wav[:, :, start:end]
            piece = nn.functional.pad(piece, (0, end - start - piece.shape[2]))
            yield self.push_encoder(piece, flow)

    def _frame_pieces(self, frames: Tensor, flow: Pieces) -> Iterator[Tensor]:
        for start, end in spans(frames.shape[2], self._chunk_frames()):
            flow.last = end == frames.shape[2]
            yield frames[:, :, start:end]
