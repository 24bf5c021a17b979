"""What is known of the crops of a training: the classes that a manifest names, and the pitch that is heard."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..codec.pitch import pitch
from ..errors import InputError
from ..sources import Item
from .hooks import PITCH


def classes_of(items: Sequence[Item], labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The values of columns, as texts in the order of the alphabet. They follow from what the source lists, whatever
    of it can be read, so that all processes have the same, and so has a run that is gone on with.

    Args:
        items: of the source.
        labels: columns; "pitch" is passed over.

    Raises:
        InputError: no such column, or one with fewer than two values.

    Example:
        >>> items = [Item(str(number), "", columns={"speaker": name}) for number, name in enumerate(["b", "a", None])]
        >>> classes_of(items, ["speaker", "pitch"])
        {'speaker': ('a', 'b')}
    """
    found = {}
    for label in labels:
        if label == PITCH:
            continue
        values = tuple(sorted({_class(item, label) for item in items} - {""}))
        if len(values) < 2:
            columns = sorted({name for item in items for name in item.columns})
            if label not in columns:
                raise _no_column(label, columns)
            only = f"only {values[0]!r}" if values else "none"
            raise InputError(f"a hook tells two values of a column or more apart, and {label} has {only}")
        found[label] = values
    return found


@dataclass(frozen=True)
class Label:
    """What is known of a batch under one name.

    target: [B] int64 of a column, -1 where it is not known; [B, F] float32 of "pitch", in Hz.
    known: [B] bool, the rows of which something is known.
    """

    target: Tensor
    known: Tensor


class Labels:
    """What is known of each crop.

    Args:
        items: of the pool that the crops are drawn from.
        classes: see `classes_of`.
        sample_rate: of the audio, in Hz.
        frame_rate: of the vectors that the labels are of, in Hz.
    """

    def __init__(
        self, items: Sequence[Item], classes: Mapping[str, Sequence[str]], *, sample_rate: int, frame_rate: float
    ) -> None:
        self.sample_rate, self.frame_rate = sample_rate, frame_rate
        self._tables: dict[str, Tensor] = {}  # [items] class of each, -1 where it is not known
        for label, values in classes.items():
            numbers = {value: number for number, value in enumerate(values)}
            self._tables[label] = torch.tensor([numbers.get(_class(item, label), -1) for item in items])

    def of(self, wav: Tensor, items: Tensor, frames: int, wanted: Iterable[str]) -> dict[str, Label]:
        """Labels by name, on the device of the audio.

        Args:
            wav: [B, 1, T] of crops.
            items: [B] on the CPU, numbers of their items; -1 where it is not one item's audio alone, and nothing known.
            frames: F, of the vectors.
            wanted: names.
        """
        alone, found = items >= 0, {}
        for label in set(wanted):
            if label == PITCH:
                heard = pitch(wav[:, 0], self.sample_rate, frame_rate=self.frame_rate, frames=frames)
                found[label] = Label(heard, alone.to(wav.device, non_blocking=True))
            else:
                target = torch.where(alone, self._tables[label][items], -1).to(wav.device, non_blocking=True)
                found[label] = Label(target, target >= 0)
        return found


def _class(item: Item, label: str) -> str:
    """The text of a column's value; empty where it has none."""
    value: Any = item.columns.get(label)
    return "" if value is None or value != value else str(value)  # NaN is what tables have in place of nothing


def _no_column(label: str, columns: list[str]) -> InputError:
    near = difflib.get_close_matches(label, [*columns, PITCH], n=3, cutoff=0.5)
    known = f"there are {', '.join(columns[:8])}" if columns else "give a manifest that has it"
    hint = f"did you mean {' or '.join(near)}?" if near else known
    return InputError(f"no item has a column {label!r}, which a hook wants: {hint}")
