"""`token_lm`: how well a small causal transformer predicts tokens, in bits for each second of audio."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..codes import Codes
from ..errors import CodesMismatchError, InputError
from ..lm import Layout
from ..spec import Spec
from .seen_tokens import SeenTokens

_DIM, _HEADS, _LAYERS = 96, 4, 2
_BATCH = 16
_SECONDS = 3.0  # of audio in one sequence
_MOST = 4096  # tokens of a codebook that are predicted each for itself: with 65,536, scores would take all the time
_PEAK_RATE = 3e-3
_IGNORED = -100


@dataclass(frozen=True)
class TokenLmResult:
    """What the language models found.

    Attributes:
        bits: for each seed, for each codebook, the mean bits of a held-out token.
        frame_rate: frames per second.
        train_frames: that each model learnt from, with the first seed.
        held_out_frames: that it was asked for, with the first seed.

    Example:
        >>> result = TokenLmResult(bits=((3.0, 5.0), (3.0, 5.0)), frame_rate=50.0, train_frames=9, held_out_frames=1)
        >>> result.perplexity, result.bits_per_second
        (16.0, 400.0)
    """

    bits: tuple[tuple[float, ...], ...]
    frame_rate: float
    train_frames: int
    held_out_frames: int

    @property
    def perplexities(self) -> tuple[float, ...]:
        """Of all tokens, for each seed: 2 to the power of the mean bits of a token."""
        return tuple(2 ** statistics.fmean(bits) for bits in self.bits)

    @property
    def perplexity(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.perplexities)

    @property
    def perplexity_deviation(self) -> float:
        """Standard deviation over seeds (N - 1); 0 of a single one."""
        return statistics.stdev(self.perplexities) if len(self.bits) > 1 else 0.0

    @property
    def bits_per_second(self) -> float:
        """Bits that an arithmetic coder with this model would need for a second of audio, the mean over seeds."""
        return self.frame_rate * statistics.fmean(sum(bits) for bits in self.bits)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with those of the properties."""
        return {
            **asdict(self),
            "bits": [list(bits) for bits in self.bits],
            "perplexity": self.perplexity,
            "perplexity_deviation": self.perplexity_deviation,
            "bits_per_second": self.bits_per_second,
        }


def token_lm(
    codes: Sequence[Codes],
    *,
    num_codebooks: int | None = None,
    seeds: Sequence[int] = (0, 1),
    steps: int = 200,
    held_out: float = 0.2,
) -> TokenLmResult:
    """Trains small causal transformers on tokens and measures how surprised they are by those of other items.

    Several codebooks are laid out as `audiotok.lm.Layout("delay", ...)` has them, the scheme of MusicGen (Copet et al.
    2023, arXiv 2306.05284): codebook k is predicted from all codebooks of earlier frames and from those before it of
    its own, so that the bits of all codebooks add up to those of the whole. Tokens that came once or never in training,
    or are not among the 4096 most frequent of their codebook, share one id. When it comes, it costs as many bits more
    as it takes to say which of them it is, by how often each came.

    Model and training are the same for every tokenizer: 2 layers of 96 channels, `steps` steps of 16 pieces of at most
    3 s of *audio*, whatever the frame rate, so that every model has seen the same audio. Perplexities of tokenizers
    with unlike frame rates or codebooks do not compare; bits per second do. A lower figure means tokens that are easier
    to model, not better ones: a tokenizer that throws everything away needs 0 bits.

    Args:
        codes: of one tokenizer, of many items.
        num_codebooks: the first ones only; None takes all. 1 is the first codebook alone.
        seeds: of split, start and order, one training each. The same items and seeds give the same result.
        steps: of training.
        held_out: share of the items.

    Raises:
        InputError: fewer than two items with frames, or arguments out of range. CodesMismatchError: codes of unlike
            tokenizers.
    """
    if not seeds or steps < 1 or not 0 < held_out < 1:
        raise InputError(
            f"a language model wants seeds, at least 1 step and a share held out between 0 and 1, not {list(seeds)}, "
            f"{steps} and {held_out}"
        )
    for one in codes:
        if one.spec != codes[0].spec:
            raise CodesMismatchError(f"codes of {one.spec.name} are not of the tokenizer {codes[0].spec.name}")
    rows = [row if num_codebooks is None else row.truncate(num_codebooks) for one in codes for row in one]
    rows = [row.to("cpu") for row in rows if row.tokens.shape[2]]
    if len(rows) < 2:
        raise InputError(f"a language model wants at least two items with frames, not {len(rows)}")
    sides = [_split(rows, seed, held_out) for seed in seeds]
    return TokenLmResult(
        bits=tuple(_bits(*side, seed, steps) for side, seed in zip(sides, seeds, strict=True)),
        frame_rate=rows[0].spec.frame_rate,
        train_frames=sum(row.tokens.shape[2] for row in sides[0][0]),
        held_out_frames=sum(row.tokens.shape[2] for row in sides[0][1]),
    )


class TokenTransformer(nn.Module):
    """Ids [B, K, L] to scores of the ids that come next.

    Args:
        num_ids: of each codebook's table, special ids included.
        sizes: of each codebook, the ids that are tokens.
        longest: L at most.
    """

    def __init__(self, num_ids: int, sizes: Sequence[int], longest: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(num_ids, _DIM) for _ in sizes)
        self.places = nn.Embedding(longest, _DIM)
        layer = nn.TransformerEncoderLayer(
            _DIM, _HEADS, 4 * _DIM, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, nn.LayerNorm(_DIM), enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(_DIM, size) for size in sizes)
        for table in (*self.tables, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """K times [B, L, size]."""
        length = ids.shape[2]
        x = self.places.weight[:length] + sum(table(ids[:, k]) for k, table in enumerate(self.tables))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.layers(x, mask=mask, is_causal=True)
        return [head(x) for head in self.heads]


def _split(rows: Sequence[Codes], seed: int, held_out: float) -> tuple[list[Codes], list[Codes]]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(len(rows) - 1, max(1, round(held_out * len(rows))))
    return [rows[i] for i in order[count:]], [rows[i] for i in order[:count]]


def _bits(train: Sequence[Codes], held_out: Sequence[Codes], seed: int, steps: int) -> tuple[float, ...]:
    """Of a held-out token of each codebook, after one training."""
    spec = train[0].spec
    seen = SeenTokens((row.tokens[0] for row in train), least=2, most=_MOST)
    layout = Layout("delay", Spec("seen", spec.sample_rate, spec.hop_length, seen.sizes), prefix=("bos",))
    frames = max(1, round(_SECONDS * spec.frame_rate))
    pieces, others = (_pieces(rows, seen, layout, frames) for rows in (train, held_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenTransformer(layout.vocabulary.size, seen.sizes, layout.num_ids(frames))
        _train(model, pieces, seen.sizes, steps)
    nats = _nats(model, others, seen.sizes)
    rare = [seen.bits_of_others(row.tokens[0], spec.codebook_sizes) for row in held_out]
    count = sum(row.tokens.shape[2] for row in held_out)
    return tuple(
        (one / math.log(2) + math.fsum(more)) / count for one, more in zip(nats, zip(*rare, strict=True), strict=True)
    )


def _pieces(rows: Sequence[Codes], seen: SeenTokens, layout: Layout, frames: int) -> list[Tensor]:
    """Ids [K, L] of pieces of at most so many frames, each with "bos" in front."""
    found = []
    for row in rows:
        for tokens in torch.split(seen.ids(row.tokens[0]), frames, 1):
            length = torch.tensor([tokens.shape[1]])
            found += layout.to_ids(Codes(tokens[None], length, length * layout.spec.hop_length, layout.spec))
    return found


def _train(model: nn.Module, pieces: Sequence[Tensor], sizes: Sequence[int], steps: int) -> None:
    """Uses the global random state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    order: list[int] = []
    for _ in range(steps):
        while len(order) < _BATCH:
            order += torch.randperm(len(pieces)).tolist()
        members, order = order[:_BATCH], order[_BATCH:]
        ids, targets = _batch([pieces[i] for i in members], sizes)
        scores = model(ids)
        losses = [
            functional.cross_entropy(one.flatten(0, 1), targets[:, k].flatten(), ignore_index=_IGNORED)
            for k, one in enumerate(scores)
        ]
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(losses).mean())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _nats(model: nn.Module, pieces: Sequence[Tensor], sizes: Sequence[int]) -> list[float]:
    """Of all ids of each codebook together."""
    model.eval()
    found = [0.0] * len(sizes)
    ordered = sorted(pieces, key=lambda piece: piece.shape[1])
    for start in range(0, len(ordered), _BATCH):
        ids, targets = _batch(ordered[start : start + _BATCH], sizes)
        for k, scores in enumerate(model(ids)):
            wanted = targets[:, k].flatten()
            found[k] += float(
                functional.cross_entropy(scores.flatten(0, 1), wanted, ignore_index=_IGNORED, reduction="sum")
            )
    return found


def _batch(pieces: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ids [B, K, L] and those that come next, where they are tokens."""
    longest = max(piece.shape[1] for piece in pieces)
    filled = torch.stack([functional.pad(piece, (0, longest - piece.shape[1]), value=_IGNORED) for piece in pieces])
    ids, targets = filled[:, :, :-1].clamp(min=0), filled[:, :, 1:]
    return ids, torch.where(targets < torch.tensor(sizes)[:, None], targets, _IGNORED)
