"""The few collective calls of the quantizers. Alone (no process group, or one of one process) each is the
identity.

Every call has the same shape on every rank and hangs on nothing that only one rank knows, so no rank can wait
for another: a rank without valid frames sends zeros.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of x over all ranks; x itself is left as it was."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def from_first_rank(x: Tensor) -> Tensor:
    """The first rank's x, on every rank."""
    if world_size() > 1:
        x = x.contiguous().clone()
        dist.broadcast(x, 0)
    return x


def pool_rows(rows: Tensor, valid: Tensor, limit: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random sample of the valid rows of all ranks, the same on every rank.

    Args:
        rows: [N, D] float32; N may differ from rank to rank, and be 0.
        valid: [N] bool.
        limit: rows wanted in all; each rank gives an equal share.
        generator: on CPU; the same state on every rank will do.

    Returns:
        [P, D] rows, the valid ones first, and their number as a tensor (P is at least 1; what is not valid is
        zero).
    """
    ranks = world_size()
    share = max(1, -(-limit // ranks))
    key = torch.rand(len(rows), generator=generator).to(rows.device) + (~valid).float()  # the valid ones come first
    order = key.argsort()[:share]
    sample = rows.new_zeros(share if ranks > 1 else max(1, len(order)), rows.shape[1] + 1)
    sample[: len(order), :-1] = torch.where(valid[order, None], rows[order], 0.0)
    sample[: len(order), -1] = valid[order].to(rows.dtype)
    if ranks > 1:
        everyone = [torch.empty_like(sample) for _ in range(ranks)]
        dist.all_gather(everyone, sample)
        sample = torch.stack(everyone, 1).flatten(0, 1)  # the ranks take turns
        sample = sample[sample[:, -1].argsort(descending=True, stable=True)]
    return sample[:, :-1], sample[:, -1].sum().long()
