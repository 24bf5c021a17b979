"""Semantic distillation: the first codebook learns to tell what a self-supervised network hears."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..quantize.base import masked_mean
from ..tokenizer import Tokenizer

Likeness = Literal["cosine", "log-sigmoid"]


class SemanticDistillation(nn.Module):
    """A linear map from the vectors of the first codebook to a teacher's features, and how far it is from them.

    "cosine": one less the cosine of the two vectors of a frame, averaged over frames (Mimi: Défossez et al. 2024,
    "Moshi", arXiv 2410.00037, section 3.3.2). "log-sigmoid": −log σ(cosine) of the two courses of a feature over time,
    averaged over features (SpeechTokenizer: Zhang et al. 2023, arXiv 2308.16692, section 3.2, the "D-axis"); it is
    0.313 at best, and every feature counts alike, however small.

    The teacher is not part of this module: its weights are neither trained nor saved with it.

    Args:
        dim: D, of the quantized vectors.
        teacher_dim: of the teacher's features; see `feature_size`.
        likeness: "cosine" or "log-sigmoid".

    Raises:
        InputError: no such likeness.

    Example:
        >>> distillation = SemanticDistillation(8, 8)
        >>> with torch.no_grad():
        ...     _ = distillation.project.weight.copy_(torch.eye(8)[:, :, None]), distillation.project.bias.zero_()
        >>> vectors = torch.randn(2, 8, 5)
        >>> [round(distillation(vectors, sign * vectors).item(), 5) + 0.0 for sign in (1, -1)]
        [0.0, 2.0]
    """

    def __init__(self, dim: int, teacher_dim: int, *, likeness: Likeness = "cosine") -> None:
        super().__init__()
        if likeness not in get_args(Likeness):
            raise InputError(f"likeness must be one of {get_args(Likeness)}, not {likeness!r}")
        self.likeness = likeness
        self.project = nn.Conv1d(dim, teacher_dim, 1)

    def forward(self, vectors: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """A scalar, with a gradient in the vectors and in the map.

        Args:
            vectors: [B, D, F] of the first codebook, from `stage_vectors`.
            target: [B, teacher_dim, F] from `teacher_features`.
            mask: [B, F], True on the frames that count; None means all.

        Raises:
            InputError: vectors and target have different numbers of frames.
        """
        if vectors.shape[2] != target.shape[2]:
            raise InputError(
                f"{vectors.shape[2]} frames of vectors, {target.shape[2]} of the teacher: align them with "
                "teacher_features"
            )
        mapped, target = self.project(vectors).float(), target.detach().float()
        if self.likeness == "cosine":
            return masked_mean(1 - functional.cosine_similarity(mapped, target, dim=1), mask)
        if mask is not None:
            mapped, target = (torch.where(mask[:, None], one, 0.0) for one in (mapped, target))
        return -functional.logsigmoid(functional.cosine_similarity(mapped, target, dim=2)).mean()


def feature_size(teacher: Tokenizer) -> int:
    """How many features a frame has; all layers of an SSL tokenizer count, one after another.

    Raises:
        UnsupportedError: this tokenizer has no features before quantization.
    """
    return teacher.features(torch.zeros(1, teacher.spec.sample_rate))[0].shape[1]


def teacher_features(teacher: Tokenizer, wav: Tensor, sample_rate: int, *, frame_rate: float, frames: int) -> Tensor:
    """What a teacher hears at the frames of a codec.

    Args:
        teacher: any mono tokenizer with `features`, for example one of an SSL layer ("dhubert-layer9-k1000"): before
            its k-means, so the number of centres does not matter.
        wav: [B, 1, T], at `sample_rate`; resampled to the teacher's rate where the two differ.
        sample_rate: in Hz.
        frame_rate: of the codec, in Hz.
        frames: F, how many the codec gives for wav.

    Returns:
        [B, teacher_dim, F] float32, without a gradient.
    """
    features, _ = teacher.features(wav, sample_rate)
    return at_rate(features.float(), teacher.spec.frame_rate, frame_rate, frames)


def at_rate(features: Tensor, from_rate: float, to_rate: float, frames: int) -> Tensor:
    """Features [B, D, F'] at another frame rate: [B, D, frames]. Both kinds of frames are taken at their middles.

    A higher rate interpolates linearly. A lower one averages under a triangle that reaches one new frame to each side
    (8 frames for 50 Hz to 12.5 Hz; Mimi averages as many under a rectangle), so that nothing aliases. Beyond the
    first and the last frame these are repeated.

    Example:
        >>> at_rate(torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), 50, 100, 8)[0, 0]
        tensor([0.0000, 0.2500, 0.7500, 1.2500, 1.7500, 2.2500, 2.7500, 3.0000])
    """
    count, ratio = features.shape[2], from_rate / to_rate
    places = ((torch.arange(frames, device=features.device) + 0.5) * ratio - 0.5).clamp(0, count - 1)
    distance = (places - torch.arange(count, device=features.device)[:, None]).abs()
    weights = (1 - distance / max(1.0, ratio)).clamp(min=0)  # [F', frames]
    return features @ (weights / weights.sum(0)).to(features.dtype)
