"""Heads that make chosen codebooks tell something about the audio, or keep it from them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..quantize.base import check_positive, masked_mean

_KERNEL = 5


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """x itself, whose gradient is multiplied by −scale on the way back (Ganin and Lempitsky 2015, arXiv 1409.7495).

    What follows learns to do its task; what comes before learns to make that hard.

    Example:
        >>> x = torch.ones(3, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000, -0.5000])
    """
    reversed_x: Tensor = _Reversed.apply(x, scale)  # type: ignore[no-untyped-call]
    return reversed_x


class Hook(nn.Module):
    """Base of the heads: a loss on the vectors of some codebooks and a label, added to a codec's training.

    As in FACodec (Ju et al. 2024, "NaturalSpeech 3", arXiv 2403.03100, section 3.2.2) a head either supervises its
    codebooks (`reverse` 0), or keeps the label out of them: then it learns as well as it can, and the codec receives
    the reversed gradient. A new head writes `loss`.

    Args:
        label: name of the label that it wants.
        codebooks: the range that it looks at, for `stage_vectors`: first one, and the one after the last.
        reverse: 0, or what the reversed gradient is multiplied by.

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, label: str, *, codebooks: tuple[int, int] = (0, 1), reverse: float = 0.0) -> None:
        super().__init__()
        if not 0 <= codebooks[0] < codebooks[1]:
            raise InputError(f"codebooks must be a range from 0 on, not {codebooks}")
        if reverse < 0:
            raise InputError(f"reverse must not be negative (it is what the reversed gradient is scaled by): {reverse}")
        self.label, self.codebooks, self.reverse = label, codebooks, reverse

    def forward(self, vectors: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of `judge`."""
        return self.judge(vectors, target, mask)[0]

    def judge(self, vectors: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar, and others for the log beside it, by name.

        Args:
            vectors: [B, D, F] of its codebooks.
            target: the label.
            mask: [B, F], True on the frames that count; None means all.
        """
        if self.reverse:
            vectors = reverse_gradient(vectors, self.reverse)
        scores = self.scores(vectors, mask)
        return self.loss(scores, target, mask), self.figures(scores.detach(), target)

    def scores(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """What the head reads out of the vectors, for `loss` and `figures`; here the vectors themselves."""
        return vectors

    def loss(self, scores: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """How far that is from the label: a scalar."""
        raise NotImplementedError

    def figures(self, scores: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Scalars beside the loss; none here."""
        return {}


class ClassHook(Hook):
    """What holds for a whole row, such as its speaker or its language: cross entropy of one of so many classes, from a
    small convolution averaged over frames.

    Args:
        dim: D, of the vectors.
        num_classes: from 2.
        label: wants [B] int64 from 0; −1 where it is not known, a row that then counts for nothing.
        codebooks, reverse: as for `Hook`.
        hidden: channels in between.

    Example:
        >>> keep_out = ClassHook(8, 4, codebooks=(0, 1), reverse=1.0)
        >>> keep_out(torch.randn(3, 8, 20), torch.tensor([2, -1, 0])).shape
        torch.Size([])
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        label: str = "speaker",
        codebooks: tuple[int, int] = (0, 1),
        reverse: float = 0.0,
        hidden: int = 128,
    ) -> None:
        super().__init__(label, codebooks=codebooks, reverse=reverse)
        check_positive(dim=dim, hidden=hidden)
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, not {num_classes}")
        self.conv = nn.Conv1d(dim, hidden, _KERNEL, padding=_KERNEL // 2)
        self.classify = nn.Linear(hidden, num_classes)

    def scores(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [B, num_classes] of vectors [B, D, F]."""
        frames = functional.gelu(self.conv(_masked(vectors, mask)))
        if mask is None:
            pooled = frames.mean(2)
        else:
            pooled = _masked(frames, mask).sum(2) / mask.sum(1, keepdim=True).clamp(min=1)
        scores: Tensor = self.classify(pooled).float()
        return scores

    def loss(self, scores: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        losses = functional.cross_entropy(scores, target, ignore_index=-1, reduction="sum")
        return losses / (target >= 0).sum().clamp(min=1)

    def figures(self, scores: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy`: the share of the rows whose class is known that get it right; 0 where none is known."""
        known = target >= 0
        right = (scores.argmax(1) == target) & known
        return {"accuracy": right.sum() / known.sum().clamp(min=1)}


class PitchHook(Hook):
    """The course of the pitch, frame by frame: whether a frame is voiced (cross entropy), and where it is, how many
    octaves above the row's own mean (mean absolute difference): intonation and not the height of the voice.

    Args:
        dim: D, of the vectors.
        label: wants [B, F] in Hz, 0 where there is no pitch; `audiotok.codec.pitch.pitch` finds it.
        codebooks, reverse: as for `Hook`.
        hidden: channels in between.

    Example:
        >>> supervise = PitchHook(8, codebooks=(1, 2))
        >>> supervise(torch.randn(3, 8, 20), torch.full((3, 20), 120.0)).shape
        torch.Size([])
    """

    def __init__(
        self,
        dim: int,
        *,
        label: str = "pitch",
        codebooks: tuple[int, int] = (0, 1),
        reverse: float = 0.0,
        hidden: int = 128,
    ) -> None:
        super().__init__(label, codebooks=codebooks, reverse=reverse)
        check_positive(dim=dim, hidden=hidden)
        self.conv = nn.Conv1d(dim, hidden, _KERNEL, padding=_KERNEL // 2)
        self.read = nn.Conv1d(hidden, 2, 1)

    def scores(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """[B, 2, F]: the logit of being voiced, and octaves above the mean."""
        scores: Tensor = self.read(functional.gelu(self.conv(_masked(vectors, mask)))).float()
        return scores

    def loss(self, scores: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        voiced = target > 0 if mask is None else (target > 0) & mask
        octaves = torch.where(voiced, target, 1.0).log2()
        mean = octaves.sum(1, keepdim=True) / voiced.sum(1, keepdim=True).clamp(min=1)
        voicing = functional.binary_cross_entropy_with_logits(scores[:, 0], voiced.float(), reduction="none")
        return masked_mean(voicing, mask) + masked_mean((scores[:, 1] - (octaves - mean)).abs(), voiced)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, D, F] with zeros where the mask is False, so that padding reaches no neighbour."""
    return x if mask is None else torch.where(mask[:, None], x, 0.0)
