"""`probe`: how much of a label a small classifier can tell from the tokens alone (DASB in miniature)."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .probe_data import LabelledCodes, Split, split_items
from .seen_tokens import SeenTokens

_DIM = 64
_BATCH = 32
_CROP_SECONDS = 2.0  # of each training item, anew each time
_WHOLE_SECONDS = 6.0  # of items held out
_PEAK_RATE = 4e-3
_WITHOUT = 0.1  # share of frames blanked in training


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        label: the column that was to be told.
        group: the column whose values were kept on one side, or None.
        accuracies: share of held-out items that were told right, 0 to 1, for each seed.
        chance: what always guessing the label that is most frequent in training gives, the mean over seeds.
        classes: how many labels there were to choose from.
        train_items: that the classifier learnt from, with the first seed.
        held_out_items: that it was asked for, with the first seed.
    """

    label: str
    group: str | None
    accuracies: tuple[float, ...]
    chance: float
    classes: int
    train_items: int
    held_out_items: int

    @property
    def mean(self) -> float:
        """Of the accuracies."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracies over seeds (N - 1); 0 of a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            **asdict(self),
            "accuracies": list(self.accuracies),
            "mean": self.mean,
            "deviation": self.deviation,
        }


def probe(
    items: Sequence[LabelledCodes],
    label: str,
    *,
    group: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 200,
    held_out: float = 0.25,
    per_label: int = 60,
) -> ProbeResult:
    """Trains a small classifier on tokens and counts how many held-out items it tells right.

    As in DASB (Mousavi et al. 2024, arXiv 2406.14294): a vector for each token of each codebook, those of a frame added
    up; then two convolutions over five frames, the mean over time, and a linear layer. The classifier, its training
    and the data are the same for every tokenizer, so that figures differ by the tokens alone: `steps` steps of 32
    items, of each a random piece of 2 s, whatever the frame rate. Of items held out, the first 6 s are looked at. DASB
    trains larger models on public data sets; figures compare with those of this probe only.

    Args:
        items: codes of one tokenizer with their labels; those without the label are left out.
        label: the column to be told, such as "speaker", "language" or "word" (`with_label` makes columns from paths).
        group: keeps items with the same value of this column on one side: "speaker", so that a language or a word is
            not told by who speaks.
        seeds: of split, start and order, one training each. The same items and seeds give the same result.
        steps: of training.
        held_out: share of each label's items, where there is no group.
        per_label: at most so many items of each label are used.

    Raises:
        InputError: no seeds or steps, a share outside 0..1, or too few labels.
    """
    if not seeds or steps < 1 or not 0 < held_out < 1 or per_label < 2:
        raise InputError(
            f"a probe wants seeds, at least 1 step, a share held out between 0 and 1 and at least 2 items per label, "
            f"not {list(seeds)}, {steps}, {held_out} and {per_label}"
        )
    splits = [
        split_items(items, label, group=group, seed=seed, held_out=held_out, per_label=per_label) for seed in seeds
    ]
    return ProbeResult(
        label=label,
        group=group,
        accuracies=tuple(_accuracy(split, seed, steps) for split, seed in zip(splits, seeds, strict=True)),
        chance=statistics.fmean(split.chance for split in splits),
        classes=len(splits[0].names),
        train_items=len(splits[0].train),
        held_out_items=len(splits[0].held_out),
    )


class TokenClassifier(nn.Module):
    """Ids of tokens to scores of labels.

    Args:
        num_ids: rows of the table of vectors, of all codebooks; id 0 is the zero vector.
        num_labels: scores to give.
    """

    def __init__(self, num_ids: int, num_labels: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(num_ids, _DIM, mode="sum", padding_idx=0)
        # Near zero: tokens too rare to learn from stay quiet, instead of each adding a vector of noise.
        with torch.no_grad():
            self.table.weight.mul_(0.02)
        self.norm = nn.LayerNorm(_DIM, eps=0.01)
        self.convs = nn.ModuleList(nn.Conv1d(_DIM, _DIM, 5, padding=2) for _ in range(2))
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(_DIM, num_labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """[B, labels] of ids [B, F, K] with zeros beyond lengths [B]."""
        mask = (torch.arange(ids.shape[1]) < lengths[:, None])[:, None]  # [B, 1, F]
        summed = self.table(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])  # [B, F, D]
        x = self.norm(summed).transpose(1, 2) * mask
        for conv in self.convs:
            x = (x + functional.gelu(conv(x))) * mask
        scores: Tensor = self.out(self.dropout(x.sum(2) / lengths[:, None]))
        return scores


def _accuracy(split: Split, seed: int, steps: int) -> float:
    """Of one training."""
    seen = SeenTokens(item.codes.tokens[0] for item, _ in split.train)
    starts = torch.tensor([0, *(size - 1 for size in seen.sizes)]).cumsum(0)
    rate = split.train[0][0].codes.spec.frame_rate
    train, held_out = (
        [_ids(seen, starts, item) for item, _ in side] for side in (split.train, split.held_out)
    )  # [F_i, K] each
    targets, answers = (torch.tensor([number for _, number in side]) for side in (split.train, split.held_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenClassifier(int(starts[-1]) + 1, len(split.names))
        _train(model, train, targets, steps, max(1, round(_CROP_SECONDS * rate)))
    longest = max(1, round(_WHOLE_SECONDS * rate))
    model.eval()
    with torch.no_grad():
        right = 0
        for start in range(0, len(held_out), 2 * _BATCH):
            rows = [row[:longest] for row in held_out[start : start + 2 * _BATCH]]
            guesses = model(*_batch(rows)).argmax(1)
            right += int((guesses == answers[start : start + 2 * _BATCH]).sum())
    return right / len(held_out)


def _ids(seen: SeenTokens, starts: Tensor, item: LabelledCodes) -> Tensor:
    """[F, K], each codebook with ids of its own; 0 stays 0."""
    ids = seen.ids(item.codes.tokens[0])  # [K, F]
    return torch.where(ids > 0, ids + starts[:-1, None], 0).T


def _train(model: nn.Module, rows: Sequence[Tensor], targets: Tensor, steps: int, frames: int) -> None:
    """Uses the global random state."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
    model.train()
    order: list[int] = []
    for _ in range(steps):
        while len(order) < _BATCH:
            order += torch.randperm(len(rows)).tolist()
        members, order = order[:_BATCH], order[_BATCH:]
        ids, lengths = _batch([_piece(rows[i], frames) for i in members])
        ids = ids.masked_fill((torch.rand(ids.shape[:2]) < _WITHOUT)[:, :, None], 0)
        loss = functional.cross_entropy(model(ids, lengths), targets[members], label_smoothing=0.1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def _piece(row: Tensor, frames: int) -> Tensor:
    start = int(torch.randint(max(1, len(row) - frames + 1), ()))
    return row[start : start + frames]


def _batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows])
