"""Muon: momentum whose every update is made orthogonal, for the matrices inside a network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration that Jordan et al. tuned
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").

    The momentum of a matrix is replaced by the nearest orthogonal one, found by five Newton-Schulz steps in bfloat16,
    so that every direction of it moves alike. Steps have the size of AdamW's (Liu et al. 2025, arXiv 2502.16982): 0.2
    sqrt(max(rows, columns)) times the learning rate. For the matrices between layers; first and last layers, gains and
    biases belong to AdamW. `torch.optim.Muon` knows matrices only; here the weight of a convolution is one, of its
    output channels by all the rest.

    Args:
        params: of two or more dimensions.
        lr: learning rate, as for AdamW.
        momentum: weight of the past, with Nesterov's look ahead.
        weight_decay: decoupled, as AdamW's.

    Example:
        >>> weight = nn.Parameter(torch.eye(2))
        >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
        >>> Muon([weight], lr=0.1).step()
        >>> torch.allclose(weight, torch.eye(2), atol=0.05), weight[0, 0] < 1, weight[1, 1] < 1
        (True, tensor(True), tensor(True))
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            if any(one.dim() < 2 for one in group["params"]):
                raise ValueError("Muon is for matrices and weights of convolutions")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for one in group["params"]:
                if one.grad is None:
                    continue
                state = self.state[one]
                if not state:
                    state["momentum"] = torch.zeros_like(one)
                past = state["momentum"].lerp_(one.grad, 1 - momentum)
                ahead = one.grad.lerp(past, momentum).flatten(1)
                scale = 0.2 * max(ahead.shape) ** 0.5
                one.mul_(1 - rate * group["weight_decay"])
                one.add_(orthogonal(ahead).view_as(one), alpha=-rate * scale)
        return loss


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
