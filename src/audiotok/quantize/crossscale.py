"""Cross-scale residual quantization: each scale codes what the decoder, run so far, lacks."""

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import Quantized, Quantizer, check_depth, check_mask, check_tokens, check_vectors
from .gradient import estimate


class CrossScaleRVQ(Quantizer):
    """Cross-scale residual quantizer (Gu & Diao 2024, "ESC", arXiv 2404.19441).

    The encoder's features e_0 (coarsest) … e_{S−1} (finest) are coded from coarse to fine. Each scale codes only what
    the decoder, run so far, lacks:

        d_0 = Q_0(e_0),   d_i = u_i + Q_i(e_i − u_i),   u_i = expand_{i−1}(d_{i−1}).

    Scales differ in the number of features D_i; the frame rate is one, as in ESC, whose scales are frequency
    resolutions. Rows of tokens go scale by scale, coarsest first, so the rows of the first scales decode alone: the
    missing ones add nothing. Inside a codec, hand over its features (`encode_features`, `decode_features`,
    `train_features`) and give the decoder's steps as `expand`; alone, `forward` makes the coarser features by `reduce`.

    Args:
        quantizers: Q_0 … Q_{S−1}, from coarse to fine, of any kind; their `dim` are the D_i.
        expand: S − 1 modules [B, D_i, F] to [B, D_{i+1}, F]. Default: each value is repeated D_{i+1} / D_i times.
        reduce: S − 1 modules [B, D_{i+1}, F] to [B, D_i, F]. Default: means of D_{i+1} / D_i values.

    Raises:
        InputError: the number of modules does not fit, or the defaults need a D_{i+1} that is a multiple of D_i.

    Example:
        >>> from audiotok.quantize import FSQ
        >>> vq = CrossScaleRVQ([FSQ([5] * 2), FSQ([5] * 4)]).eval()
        >>> tokens = vq.encode(torch.randn(1, 4, 6))
        >>> tokens.shape, vq.decode(tokens).shape
        (torch.Size([1, 2, 6]), torch.Size([1, 4, 6]))
    """

    def __init__(
        self,
        quantizers: Sequence[Quantizer],
        *,
        expand: Sequence[nn.Module] | None = None,
        reduce: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not quantizers:
            raise InputError("a cross-scale quantizer needs at least one scale")
        self.dims = tuple(quantizer.dim for quantizer in quantizers)
        self.dim = self.dims[-1]
        self.scales = nn.ModuleList(quantizers)
        self.expand = nn.ModuleList(self._ratios(Repeat) if expand is None else expand)
        self.reduce = nn.ModuleList(self._ratios(Mean) if reduce is None else reduce)
        if not len(self.expand) == len(self.reduce) == len(quantizers) - 1:
            raise InputError(
                f"{len(quantizers)} scales have {len(quantizers) - 1} steps between them, not {len(self.expand)} to "
                f"expand and {len(self.reduce)} to reduce"
            )
        self.rates = tuple(quantizer.num_codebooks for quantizer in quantizers)
        self.codebook_sizes = tuple(size for quantizer in quantizers for size in quantizer.codebook_sizes)
        self.gradient = quantizers[-1].gradient

    def scale(self, index: int) -> Quantizer:
        """The quantizer of a scale."""
        return cast(Quantizer, self.scales[index])

    @property
    def codebooks(self) -> list[Tensor]:
        return [table for index in range(len(self.rates)) for table in self.scale(index).codebooks]

    def features(self, x: Tensor) -> list[Tensor]:
        """The features [B, D_i, F] of every scale, coarsest first, made from the finest, x [B, D, F], by `reduce`."""
        check_vectors(x, self.dim)
        found = [x.float()]
        for step in reversed(self.reduce):
            found.insert(0, step(found[0]))
        return found

    @torch.no_grad()
    def encode(self, x: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of x [B, D, F]; with `num_codebooks` the rows of the first scales."""
        return self.encode_features(self.features(x), num_codebooks)

    @torch.no_grad()
    def encode_features(self, features: Sequence[Tensor], num_codebooks: int | None = None) -> Tensor:
        """Tokens [B, K, F] int64 of the encoder's features [B, D_i, F], coarsest first.

        Raises:
            InputError: features are of another number or shape, or num_codebooks does not end with a scale.
        """
        self._check(features)
        tokens: list[Tensor] = []
        decoded: Tensor | None = None
        for index in range(self._used(check_depth(num_codebooks, self.num_codebooks))):
            known = self._known(index, decoded)
            feature = features[index].float()
            tokens.append(self.scale(index).encode(feature if known is None else feature - known))
            part = self.scale(index).decode(tokens[-1])
            decoded = part if known is None else known + part
        return torch.cat(tokens, 1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors [B, D, F] of tokens [B, K, F], or of the rows of the first scales alone."""
        return self.decode_features(tokens)[-1]

    @torch.no_grad()
    def decode_features(self, tokens: Tensor) -> list[Tensor]:
        """The decoder's features d_i [B, D_i, F] of every scale, coarsest first.

        Raises:
            InputError: tokens are of another shape, or out of range.
        """
        tokens = check_tokens(tokens, self.codebook_sizes, prefix=True)
        used = self._used(tokens.shape[1])
        parts = torch.split(tokens, list(self.rates[:used]), 1)
        found: list[Tensor] = []
        for index in range(len(self.rates)):
            known = self._known(index, found[-1] if found else None)
            part = self.scale(index).decode(parts[index]) if index < used else None
            terms = [term for term in (known, part) if term is not None]
            found.append(terms[0] if len(terms) == 1 else terms[0] + terms[1])
        return found

    def train_forward(self, x: Tensor, mask: Tensor | None) -> Quantized:
        return self.train_features(self.features(x), mask)

    def train_features(self, features: Sequence[Tensor], mask: Tensor | None = None) -> Quantized:
        """Quantizes the encoder's features [B, D_i, F], coarsest first, in training: d_{S−1} [B, D, F] and all tokens.

        The gradient reaches every feature and the `expand` steps; the loss is the mean over the scales. In evaluation
        the values are those of `decode_features`.
        """
        self._check(features)
        check_mask(mask, features[-1])
        if not self.training:
            tokens = self.encode_features(features)
            decoded = estimate(features[-1].float(), self.decode(tokens), self.gradient)
            return Quantized(decoded, tokens, decoded.new_zeros(()))
        loss, tokens_of, known = features[0].new_zeros((), dtype=torch.float32), [], None
        current: Tensor | None = None
        for index, feature in enumerate(features):
            known = self._known(index, current)
            result = self.scale(index)(feature.float() if known is None else feature.float() - known, mask)
            current = result.quantized if known is None else known + result.quantized
            loss = loss + result.loss
            tokens_of.append(result.tokens)
        assert current is not None
        return Quantized(current, torch.cat(tokens_of, 1), loss / len(features))

    def _known(self, index: int, decoded: Tensor | None) -> Tensor | None:
        """u_i: what the decoder has of a scale before that is coded; nothing for the first."""
        return None if decoded is None else cast(Tensor, self.expand[index - 1](decoded)).float()

    def _ratios(self, kind: type["Repeat"] | type["Mean"]) -> list[nn.Module]:
        steps: list[nn.Module] = []
        for coarse, fine in zip(self.dims, self.dims[1:], strict=False):
            if fine % coarse:
                raise InputError(f"{fine} features are not a multiple of {coarse}: give expand and reduce modules")
            steps.append(kind(fine // coarse))
        return steps

    def _used(self, rows: int) -> int:
        ends = list(accumulate(self.rates))
        if rows not in ends:
            raise InputError(f"the scales end after {ends} rows of tokens; {rows} rows cut one in two")
        return ends.index(rows) + 1

    def _check(self, features: Sequence[Tensor]) -> None:
        if len(features) != len(self.dims):
            raise InputError(f"{len(self.dims)} scales want as many features, coarsest first, not {len(features)}")
        for feature, dim in zip(features, self.dims, strict=True):
            check_vectors(feature, dim)
            if feature.shape[::2] != features[0].shape[::2]:
                shapes = [list(each.shape) for each in features]
                raise InputError(f"all scales must have the same batch and frames: {shapes}")


class Repeat(nn.Module):
    """Each feature `times` times over: [B, D, F] to [B, times · D, F]."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.times, 1)


class Mean(nn.Module):
    """Mean of each `count` neighbouring features: [B, D, F] to [B, D / count, F]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        total = x[:, :: self.count]
        for offset in range(1, self.count):
            total = total + x[:, offset :: self.count]
        return total / self.count
