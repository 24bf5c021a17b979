"""Mini-batch k-means of every frame, for each k and each layer side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..quantize.minibatch import MiniBatchKMeans

_ROWS_PER_CENTROID = 256  # that each keeps, to end with


class Streams:
    """Learns frames of layers side by side.

    Args:
        ks: entries per codebook.
        groups: layers.
        width: values of a frame of one layer.
        seed: of the first layer; the next ones count up.
        spherical: compare directions only.
        max_bytes: of the rows that all of them keep, as far as each has one row for each centroid.
        device: where they learn.
    """

    def __init__(
        self, ks: Sequence[int], groups: int, width: int, *, seed: int, spherical: bool, max_bytes: int, device: str
    ) -> None:
        share = max_bytes // (4 * width * groups * sum(ks))  # rows for each centroid
        rows = max(1, min(_ROWS_PER_CENTROID, share))
        self.device = device
        self._learners = {
            (k, group): MiniBatchKMeans(k, width, seed=seed + group, cosine=spherical, sample_rows=rows * k)
            for k in ks
            for group in range(groups)
        }
        self._width = width

    def add(self, frames: Tensor) -> None:
        """Learns frames [N, groups · width]."""
        parts = torch.split(frames.to(self.device), self._width, dim=1)
        for (_, group), learner in self._learners.items():
            learner.add(parts[group])

    def centroids(self, k: int, group: int, iterations: int) -> Tensor:
        """[k, width] of a layer, after so many last steps on the rows kept."""
        return self._learners[k, group].centroids(iterations)

    def state_dict(self) -> dict[str, Tensor]:
        """All that they have learned."""
        return {
            f"{k}-{group}.{name}": value
            for (k, group), learner in self._learners.items()
            for name, value in learner.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up what `state_dict` gave."""
        for (k, group), learner in self._learners.items():
            part = f"{k}-{group}."
            learner.load_state_dict(
                {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            )
