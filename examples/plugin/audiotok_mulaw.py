"""Mu-law companding at 8 kHz as an audiotok tokenizer: one token of 256 for each sample.

The continuous law with mu = 255 that ITU-T G.711 (1972) approximates by straight lines, as in WaveNet (van den Oord
et al. 2016, arXiv 1609.03499): y = sign(x) · log(1 + mu |x|) / log(1 + mu), rounded to 256 levels.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from audiotok import Entry, Spec, Tokenizer
from audiotok.catalog import Taxonomy

MU = 255
SPEC = Spec("mulaw-8khz", sample_rate=8000, hop_length=1, codebook_sizes=(MU + 1,), batching="mask")


class MuLaw(Tokenizer):
    """Tokens are the levels of the companded samples. It has no weights."""

    family: ClassVar[str] = "mulaw"
    context = (0, 0)  # a token depends on its own sample only,
    decode_context = 0  # and a sample on its own token: long audio goes in pieces, with the same result

    def _config(self) -> dict[str, Any]:
        return {}

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:  # [B, 1, T] -> [B, 1, T]
        return wav.sign() * torch.log1p(MU * wav.abs().clamp(max=1)) / math.log1p(MU)

    def _quantize(self, features: Tensor) -> Tensor:  # [B, 1, F] -> [B, 1, F]
        return ((features + 1) / 2 * MU).round().long()

    def _embed(self, tokens: Tensor) -> Tensor:  # [B, 1, F] -> [B, 1, F]
        return 2 * tokens.float() / MU - 1

    def _synthesize(self, features: Tensor) -> Tensor:  # [B, 1, F] -> [B, 1, F]
        return features.sign() * torch.expm1(features.abs() * math.log1p(MU)) / MU

    @property
    def codebooks(self) -> list[Tensor]:
        return [self._embed(torch.arange(MU + 1, device=self.device))[:, None]]  # [V, 1]


def load(entry: Entry, *_: object) -> MuLaw:  # a revision and a cache folder: there is nothing to download
    return MuLaw(entry.spec)


ENTRY = Entry(
    name=SPEC.name,
    loader="audiotok_mulaw:load",
    summary="mu-law companded samples, one token each; the example of a plug-in",
    source="embedded",
    spec=SPEC,
    taxonomy=Taxonomy(("speech",), architecture="none", representation="T", quantizer="scalar", joint=False),
    paper="ITU-T G.711 (1972)",
    commercial=True,
)
