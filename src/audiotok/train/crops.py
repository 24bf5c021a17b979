"""Random crops of audio, drawn in a way that depends on nothing but seed, step and process."""

import math
from collections.abc import Collection, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import FitError, InputError
from .pool import Pool, Samples

Padding = Literal["repeat", "mirror"]
_ATTEMPTS = 50  # at a row whose items cannot be read
_SILENCE = 1e-10  # mean square below which nothing is mixed
_TRAINING = 1  # sets these draws apart from others of the same seed


@dataclass(frozen=True)
class Augmentation:
    """What is done to crops, each time anew.

    Attributes:
        gain_db: lowest and highest of a gain, drawn uniformly; (0, 0) is none.
        mix: probability, from 0 to 1, that another crop is added.
        mix_snr_db: lowest and highest ratio of the crop's power to that of the added one, drawn uniformly.

    Raises:
        InputError: a value out of range.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    mix: float = 0.0
    mix_snr_db: tuple[float, float] = (0.0, 20.0)

    def __post_init__(self) -> None:
        for name in ("gain_db", "mix_snr_db"):
            low, high = _pair(name, getattr(self, name))
            object.__setattr__(self, name, (low, high))  # JSON and YAML have lists only
        if not 0 <= self.mix <= 1:
            raise InputError(f"mix is a probability from 0 to 1, not {self.mix}")


@dataclass(frozen=True)
class _Row:
    """A crop as it was drawn."""

    pieces: tuple[tuple[int, int, int], ...]  # item, first sample, samples; the second, if any, is mixed in
    phases: tuple[int, ...]  # where in a piece that is too short the crop begins
    gain_db: float
    snr_db: float

    @property
    def item(self) -> int:
        """Whose audio it is; -1 where it is not one item's."""
        return self.pieces[0][0] if len(self.pieces) == 1 else -1


@dataclass(frozen=True)
class Drawn:
    """Crops of a training step.

    wav: [B, 1, T] float32.
    items: [B] int64, the numbers of the pool's items that they are crops of; -1 where another one is mixed in.
    """

    wav: Tensor
    items: Tensor


class Crops:
    """Crops of the items of a pool. Each second of audio is as likely as any other, unless domains have weights.

    Items shorter than a crop are repeated, from a random place in them, or mirrored back and forth. Where audio is read
    from disk an item that cannot be read is replaced by another draw. A row that would exceed ±1 after augmentation is
    made as loud as ±1.

    Args:
        pool: of items.
        samples: of a crop.
        seed: of the draws.
        weights: how much of the crops comes from items with that value in `column`; items with another value are
            never drawn.
        column: of the items.
        padding: "repeat" or "mirror".
        augmentation: of crops.
        held_out: ids of items that are never drawn.

    Raises:
        InputError: weights that are not above zero, or of values that no item has.

    Example:
        >>> import audiotok.sources
        >>> source = audiotok.sources.open_source("tests/data/audio")
        >>> pool = Pool(source, list(source.items()), sample_rate=16000)
        >>> Crops(pool, samples=4000, seed=0).draw(step=7, rows=2).shape
        torch.Size([2, 1, 4000])
    """

    def __init__(
        self,
        pool: Pool,
        *,
        samples: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        column: str = "domain",
        padding: Padding = "repeat",
        augmentation: Augmentation | None = None,
        held_out: Collection[str] = (),
    ) -> None:
        if padding not in ("repeat", "mirror"):
            raise InputError(f"padding must be 'repeat' or 'mirror', not {padding!r}")
        if samples < 1:
            raise InputError(f"samples must be at least 1, not {samples}")
        self.pool, self.samples, self.seed, self.padding = pool, samples, seed, padding
        self.augmentation = augmentation or Augmentation()
        self._groups, self._shares = _groups_of(pool, weights, column, held_out)
        self._ends = [np.cumsum(pool.lengths[group]) for group in self._groups]

    @property
    def seconds(self) -> float:
        """Of audio that may be drawn."""
        return float(sum(ends[-1] for ends in self._ends)) / self.pool.sample_rate

    def draw(self, step: int, rows: int, *, process: int = 0) -> Tensor:
        """wav [rows, 1, samples] float32 of training step `step`."""
        return self._drawn(step, rows, process).wav

    def batches(self, steps: range, rows: int, *, process: int = 0) -> Generator[Drawn, None, None]:
        """What `draw` gives for each of the steps, and of which items it is, made ready in a thread while the caller
        works on the batch before."""
        made = self._from_memory(steps, rows, process) if self.pool.in_memory else self._from_disk(steps, rows, process)
        with ThreadPoolExecutor(1) as ahead:
            batch = ahead.submit(next, made, None)
            for _ in steps:
                current, batch = batch.result(), ahead.submit(next, made, None)
                if current is not None:
                    yield current

    def _drawn(self, step: int, rows: int, process: int) -> Drawn:
        return _batch([self._filled(step, process, row, 0) for row in range(rows)])

    def _from_memory(self, steps: range, rows: int, process: int) -> Iterator[Drawn]:
        return (self._drawn(step, rows, process) for step in steps)

    def _from_disk(self, steps: range, rows: int, process: int) -> Iterator[Drawn]:
        def plans(step: int) -> list[_Row]:
            return [self._plan(step, process, row, 0) for row in range(rows)]

        wanted = ([piece for plan in plans(step) for piece in plan.pieces] for step in steps)
        for step, found in zip(steps, self.pool.read_many(wanted), strict=True):
            left = iter(found)
            made = []
            for row, plan in enumerate(plans(step)):
                one = self._made(plan, list(islice(left, len(plan.pieces))))
                made.append(self._filled(step, process, row, 1) if one is None else (one, plan.item))
            yield _batch(made)

    def _filled(self, step: int, process: int, row: int, attempt: int) -> tuple[Samples, int]:
        for again in range(attempt, _ATTEMPTS):
            plan = self._plan(step, process, row, again)
            made = self._made(plan, [self.pool.read(*piece) for piece in plan.pieces])
            if made is not None:
                return made, plan.item
        raise FitError(f"{_ATTEMPTS} items drawn one after the other cannot be read: {'; '.join(self.pool.failed[:3])}")

    def _plan(self, step: int, process: int, row: int, attempt: int) -> _Row:
        random = np.random.default_rng([self.seed, _TRAINING, step, process, row, attempt])
        options = self.augmentation
        count = 2 if random.random() < options.mix else 1
        drawn = [self._place(random) for _ in range(count)]
        gain, snr = random.uniform(*options.gain_db), random.uniform(*options.mix_snr_db)
        return _Row(tuple(piece for piece, _ in drawn), tuple(phase for _, phase in drawn), gain, snr)

    def _place(self, random: np.random.Generator) -> tuple[tuple[int, int, int], int]:
        chosen = int(np.searchsorted(self._shares, random.random(), side="right"))
        group, ends = self._groups[chosen], self._ends[chosen]
        number = int(group[np.searchsorted(ends, int(random.integers(ends[-1])), side="right")])
        length = int(self.pool.lengths[number])
        if length < self.samples:
            return (number, 0, length), int(random.integers(length))
        return (number, int(random.integers(length - self.samples + 1)), self.samples), 0

    def _made(self, plan: _Row, pieces: list[Samples | None]) -> Samples | None:
        rows = []
        for piece, phase in zip(pieces, plan.phases, strict=True):
            if piece is None or not len(piece):
                return None
            rows.append(piece if len(piece) == self.samples else self._padded(piece, phase))
        wav = rows[0] * np.float32(10 ** (plan.gain_db / 20)) if plan.gain_db else rows[0]
        if len(rows) == 2:
            wav = _mixed(wav, rows[1], plan.snr_db)
        peak = float(np.abs(wav).max())
        return wav / np.float32(peak) if peak > 1 else wav

    def _padded(self, piece: Samples, phase: int) -> Samples:
        period = piece if self.padding == "repeat" else np.concatenate([piece, piece[::-1]])
        places = (phase + np.arange(self.samples)) % len(period)
        return period[places]


def _groups_of(
    pool: Pool, weights: Mapping[str, float] | None, column: str, held_out: Collection[str]
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
    """Numbers of the items of each domain, and the cumulated shares of the domains."""
    kept = [(number, item.columns.get(column)) for number, item in enumerate(pool.items) if item.id not in held_out]
    if weights is None:
        return [np.array([number for number, _ in kept], dtype=np.int64)], np.array([])
    if not weights or not all(0 < weight < math.inf for weight in weights.values()):
        raise InputError(f"weights of domains must be above 0, not {dict(weights)}")
    groups = []
    for name in weights:
        numbers = np.array([number for number, value in kept if value == name], dtype=np.int64)
        if not len(numbers):
            found = sorted({str(value) for _, value in kept if value is not None})[:8]
            raise InputError(f"no item has {column} {name!r}; found: {', '.join(found) or 'no such column'}")
        groups.append(numbers)
    shares = np.cumsum(list(weights.values())) / sum(weights.values())
    return groups, shares[:-1]


def _mixed(wav: Samples, other: Samples, snr_db: float) -> Samples:
    power, other_power = (float(np.dot(one, one)) / len(one) for one in (wav, other))
    if min(power, other_power) < _SILENCE:
        return wav
    return wav + other * np.float32(math.sqrt(power / other_power / 10 ** (snr_db / 10)))


def _batch(rows: list[tuple[Samples, int]]) -> Drawn:
    wav = torch.from_numpy(np.stack([samples for samples, _ in rows]))[:, None]
    return Drawn(wav, torch.tensor([item for _, item in rows]))


def _pair(name: str, values: tuple[float, ...]) -> tuple[float, float]:
    if not isinstance(values, list | tuple) or len(values) != 2 or not -math.inf < values[0] <= values[1] < math.inf:
        raise InputError(f"{name} must be a lowest and a highest number, not {values!r}")
    return float(values[0]), float(values[1])
