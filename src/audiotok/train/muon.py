"""Muon: momentum whose every update is made orthogonal, for the matrices inside a network."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..errors import InputError

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration that Jordan et al. tuned
_EPSILON = 1e-7


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") for matrices, AdamW for
    everything else.

    The momentum of a matrix is replaced by the nearest orthogonal one, found by five Newton-Schulz steps in bfloat16,
    so that every direction of it moves alike. Steps have the size of AdamW's (Liu et al. 2025, arXiv 2502.16982): 0.2
    sqrt(max(rows, columns)) times the learning rate, so that both share one. Meant for the matrices between layers;
    first and last layers, gains and biases belong to AdamW. `torch.optim.Muon` knows matrices only; here the weight of
    a convolution is one, of its output channels by all the rest.

    Args:
        matrices: parameters of two or more dimensions.
        others: all the others.
        lr: learning rate of both.
        betas: of AdamW.
        weight_decay: of both, decoupled.
        momentum: of the matrices: weight of the past, with Nesterov's look ahead.

    Raises:
        InputError: a matrix of one dimension.

    Example:
        >>> weight = nn.Parameter(torch.eye(2))
        >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
        >>> Muon([weight], [], lr=0.1).step()
        >>> bool(weight[0, 0] < 0.99), bool(weight[1, 1] < 0.99)
        (True, True)
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups = [{"params": list(matrices), "matrices": True}, {"params": list(others), "matrices": False}]
        if any(one.dim() < 2 for one in groups[0]["params"]):  # type: ignore[attr-defined]
            raise InputError("Muon is for matrices and weights of convolutions, not for vectors")
        super().__init__([one for one in groups if one["params"]], lr, betas, weight_decay=weight_decay, fused=True)
        self.momentum = momentum
        # A fused AdamW passes over gradients that are not finite (fp16) by itself. Matrices here would not: so the
        # scaler of gradients shall not call a step with them at all, as it does not for other optimizers.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = []
        for group in self.param_groups:
            if group["matrices"]:
                gradients += [(group, one, one.grad) for one in group["params"] if one.grad is not None]
        for _, one, _ in gradients:
            one.grad = None  # AdamW passes over it
        super().step()
        for group, one, gradient in gradients:
            one.grad = gradient
            self._move(one, gradient, group["lr"], group["weight_decay"])
        return loss

    def _move(self, one: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[one]
        if not state:
            state["step"] = torch.zeros(())  # which AdamW looks for when a state is loaded
            state["momentum"] = torch.zeros_like(one)
        state["step"] += 1
        past = state["momentum"].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(past, self.momentum).flatten(1)
        one.mul_(1 - rate * decay)
        one.add_(orthogonal(ahead).view_as(one), alpha=-rate * 0.2 * max(ahead.shape) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are equal: they end between 0.7 and 1.2. In float32.

    Args:
        matrix: [N, M].
        steps: of the iteration.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.t()
    x = x / (x.norm() + _EPSILON)
    for _ in range(steps):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.t() if tall else x).float()
