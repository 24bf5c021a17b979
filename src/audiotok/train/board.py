"""TensorBoard, where it is installed."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import MissingDependencyError


class Board:
    """Writes scalars and audio for TensorBoard to a folder.

    Args:
        folder: of the event files.
        step: that is gone on from: what an earlier run wrote beyond it is hidden.
        wanted: None means where tensorboard is installed; False writes nothing.

    Raises:
        MissingDependencyError: `wanted` is True, and it is not installed.
    """

    def __init__(self, folder: Path, *, step: int, wanted: bool | None = None) -> None:
        self._writer: Any = None
        installed = importlib.util.find_spec("tensorboard") is not None
        if wanted and not installed:
            raise MissingDependencyError("this needs tensorboard: pip install 'audiotok[train]'")
        if installed and wanted is not False:
            module = importlib.import_module("torch.utils.tensorboard")
            self._writer = module.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        """Numbers, and lists of them with a number for each codebook."""
        if self._writer is None:
            return
        for name, value in values.items():
            if isinstance(value, list):
                for place, one in enumerate(value):
                    self._writer.add_scalar(f"{group}/{name}/{place}", one, step)
            else:
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def audio(self, wavs: Sequence[Tensor], step: int, sample_rate: int) -> None:
        """Audio [T] each."""
        if self._writer is not None:
            for number, wav in enumerate(wavs):
                self._writer.add_audio(f"samples/{number:02d}", wav[None].clamp(-1, 1), step, sample_rate)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
