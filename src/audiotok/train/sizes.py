"""Sizes of a vocoder to train, for any hop."""

from collections.abc import Sequence
from typing import Literal

from ..errors import InputError
from ..spec import Spec
from ..ssl.vocoder_config import VocoderConfig

Size = Literal["published", "small", "tiny"]
#: embedding, hidden size of the attention, channels, residual kernels; what the discriminators are divided by.
_SIZES: dict[str, tuple[int, int, int, tuple[int, ...], int]] = {
    "published": (1024, 128, 512, (3, 7, 11), 1),
    "small": (256, 64, 256, (3, 7, 11), 4),
    "tiny": (48, 24, 64, (3, 7), 32),
}
_MAX_FACTOR = 16


def vocoder_config(spec: Spec, size: Size = "published", *, layers: Sequence[int] | None = None) -> VocoderConfig:
    """A vocoder for the tokens of a tokenizer.

    Args:
        spec: of the tokenizer: its codebooks are the vocoder's layers.
        size: "published" (arXiv 2406.10735), "small" (a quarter of its widths) or "tiny" (for tests).
        layers: the layers' own numbers; default 0, 1, ...

    Raises:
        InputError: no such size, or a hop that no small factors make.

    Example:
        >>> config = vocoder_config(Spec("demo", sample_rate=16000, hop_length=640, codebook_sizes=(500,)))
        >>> config.upsample_factors, config.upsample_kernels
        ((5, 4, 4, 4, 2), (11, 8, 8, 8, 4))
    """
    if size not in _SIZES:
        raise InputError(f"size must be one of {', '.join(_SIZES)}, not {size!r}")
    embedding, attention, channels, kernels, _ = _SIZES[size]
    factors = factors_of(spec.hop_length)
    return VocoderConfig(
        layers=tuple(range(spec.num_codebooks) if layers is None else layers),
        codebook_sizes=spec.codebook_sizes,
        sample_rate=spec.sample_rate,
        embedding_dim=embedding,
        attention_dim=attention,
        initial_channels=max(channels, 2 ** len(factors)),
        upsample_factors=factors,
        upsample_kernels=tuple(2 * factor + factor % 2 for factor in factors),
        resblock_kernels=kernels,
        resblock_dilations=((1, 3, 5),) * len(kernels),
    )


def discriminator_shrink(size: Size) -> int:
    """What the discriminators' widths are divided by."""
    return _SIZES[size][4]


def factors_of(hop: int) -> tuple[int, ...]:
    """Up-sampling factors whose product is the hop, the largest first; those of the published vocoders for theirs.

    Example:
        >>> factors_of(320), factors_of(256), factors_of(441)
        ((5, 4, 4, 2, 2), (4, 4, 4, 4), (7, 7, 3, 3))
    """
    if hop == 320:
        return 5, 4, 4, 2, 2
    primes, left = [], hop
    for prime in range(2, _MAX_FACTOR + 1):
        while left % prime == 0:
            primes.append(prime)
            left //= prime
    if left > 1 or not primes:
        raise InputError(f"a hop of {hop} samples has a factor above {_MAX_FACTOR}: give a vocoder of your own")
    fours = primes.count(2) // 2
    factors = [prime for prime in primes if prime != 2] + [4] * fours + [2] * (primes.count(2) % 2)
    return tuple(sorted(factors, reverse=True))
