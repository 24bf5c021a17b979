"""Losses of unlike scales, balanced by the gradients that they send into the model's output."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..quantize.distributed import sum_over_ranks

_EPSILON = 1e-12


class Balancer(nn.Module):
    """Gives every loss a share of the gradient that is its weight's share, whatever the loss's own scale (Défossez et
    al. 2022, "High fidelity neural audio compression", arXiv 2210.13438, section 3.4).

    With g_i the gradient of loss i in the model's output, ⟨|g_i|⟩ the moving average over steps of its norm, and w_i
    its weight, the output gets

        R · Σ_i (w_i / Σ_j w_j) · g_i / ⟨|g_i|⟩,

    the sums over the losses of this step, so that R is kept while the discriminators are not yet in. Norms are those
    of single rows of the batch, averaged over the batch and over all processes; the moving average has no bias
    towards its start. A norm that is not finite (a step that a gradient scaler will skip) enters no average.

    Every loss costs a backward pass from the loss to the output: losses that go through the same network (adversarial
    and feature matching) cost half when they are given as one, already weighted against each other.

    The averages are buffers: `state_dict` holds all there is to resume from, and they are the same on every process.

    Args:
        weights: of each loss, above zero.
        decay: of the moving averages, from 0 (this step alone) to below 1.
        total_norm: R, the norm of the balanced gradient in a row of the output, if all g_i pointed one way. A batch's
            gradient is the sum of its rows', whatever its size: weights of losses beside these are against that.

    Attributes:
        weights: of the losses, in the order of their names.
        sums: [N] float32, decayed sums of norms, in that order.
        counts: [N] float32, decayed numbers of them.

    Raises:
        InputError: no weights, or a value out of range.

    Example:
        >>> output = torch.zeros(2, 1, 8, requires_grad=True)
        >>> balancer = Balancer({"mel": 3.0, "l1": 1.0})
        >>> balancer({"mel": 1000 * output.sum(), "l1": -output.sum()}, output).backward()
        >>> output.grad.norm(dim=(1, 2))  # 3/4 - 1/4
        tensor([0.5000, 0.5000])
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, weights: Mapping[str, float], *, decay: float = 0.999, total_norm: float = 1.0) -> None:
        super().__init__()
        if not weights or not all(weight > 0 for weight in weights.values()):
            raise InputError(f"every loss needs a weight above zero (leave out the others), not {dict(weights)}")
        if not 0 <= decay < 1 or not total_norm > 0:
            raise InputError(f"decay must lie in 0..1, total_norm be above 0, not {decay} and {total_norm}")
        self.weights, self.decay, self.total_norm = dict(sorted(weights.items())), decay, total_norm
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))

    @property
    def norms(self) -> dict[str, float]:
        """The averages as they stand, of the losses seen so far."""
        averages = zip(self.weights, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in averages if count > 0}

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """A scalar whose gradient in `output` is the balanced one (its value says nothing). Add to it the losses that
        do not go through the output (commitment), and call `backward` once.

        Args:
            losses: scalars by name, each a function of `output`; some may be absent, on all processes alike.
            output: [B, ...] what the model gave, asking for a gradient.

        Raises:
            InputError: a loss without a weight, or none at all.
        """
        unknown = [name for name in losses if name not in self.weights]
        if unknown or not losses:
            raise InputError(f"wanted losses among {list(self.weights)}, not {unknown or 'none at all'}")
        names = [name for name in self.weights if name in losses]  # in one order on all processes
        gradients = [torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() for name in names]
        places = torch.tensor([i for i, name in enumerate(self.weights) if name in losses], device=self.sums.device)
        averages = self._update(places, torch.stack([_row_norms(one).sum() for one in gradients]), len(output))
        weights = output.new_tensor([self.weights[name] for name in names], dtype=torch.float32)
        scales = self.total_norm * weights / weights.sum() / (averages + _EPSILON)
        balanced = sum(scale * one for scale, one in zip(scales, gradients, strict=True))
        surrogate: Tensor = (output * balanced).sum()
        return surrogate

    @torch.no_grad()
    def _update(self, places: Tensor, totals: Tensor, rows: int) -> Tensor:
        """Averages [n] of the losses at `places`, this step's norms included: sums over `rows` rows in `totals`."""
        totals = sum_over_ranks(torch.cat([totals, totals.new_tensor([rows])]))
        norms = totals[:-1] / totals[-1]
        usable = norms.isfinite()
        sums, counts = self.sums[places], self.counts[places]
        sums = torch.where(usable, self.decay * sums + norms, sums)
        counts = torch.where(usable, self.decay * counts + 1, counts)
        self.sums[places], self.counts[places] = sums, counts
        return sums / counts


def _row_norms(gradient: Tensor) -> Tensor:
    """[B] of [B, ...]."""
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norms
