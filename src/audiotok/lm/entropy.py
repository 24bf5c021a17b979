"""`EntropyModel`: how often each token comes, and which comes after which, counted on many audio files."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import read_safetensors, read_safetensors_metadata, write_safetensors
from ..codes import Codes
from ..errors import CheckpointError, FitError, InputError
from .coding import MAX_CONTEXTS, MAX_SIZE, TOTAL, Integers, Pairs, shared_out

TABLE_KEY = "audiotok.entropy"
_MAX_COUNT = 1 << 38  # of all tokens: larger sums would not fit the coder's integers
_WAITING = 1 << 20  # pairs that are counted together
_WORTH_IT = 0.02  # pairs are kept where they save this part of the bits
_STRENGTHS = (16, 64, 256, 1024, 4096)

Start = tuple[Integers, Pairs | None]  # what to expect of tokens [V], and of pairs of them


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """Tables for `compress`, fitted on other audio: one for each codebook.

    Attributes:
        counts: K arrays [V] int64, how often each token came.
        pairs: K times how often it came after which, or None where that tells too little.

    Example:
        >>> from audiotok import Spec
        >>> codes = Codes(torch.tensor([[[0, 1, 0, 1]]]), torch.tensor([4]), torch.tensor([4]),
        ...               Spec("demo", sample_rate=1, hop_length=1, codebook_sizes=(2,)))
        >>> fit_entropy_model([codes]).counts
        (array([2, 2]),)
    """

    counts: tuple[Integers, ...]
    pairs: tuple[Pairs | None, ...]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """V of each codebook."""
        return tuple(len(counts) for counts in self.counts)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all counts, its first 16 hexadecimal digits: compressed files name the model that they need."""
        digest = hashlib.sha256(json.dumps(self.codebook_sizes).encode())
        for counts, pairs in zip(self.counts, self.pairs, strict=True):
            digest.update(counts.astype("<i8").tobytes())
            if pairs is not None:
                digest.update(b"pairs" + pairs.keys.astype("<i8").tobytes() + pairs.counts.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def numbers(self, codebook: int) -> Integers:
        """[V], in proportion to what to expect: counts and a half (Krichevsky and Trofimov 1981), and for one part in
        16 any token, so that audio unlike that of the table costs at most 4 bits more than log2 V for a token."""
        return 15 * shared_out(2 * self.counts[codebook] + 1) + TOTAL // len(self.counts[codebook])

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a safetensors file. Raises `CheckpointWriteError` when it cannot be written."""
        tensors = {f"counts.{k}": torch.from_numpy(counts) for k, counts in enumerate(self.counts)}
        for k, pairs in enumerate(self.pairs):
            if pairs is not None:
                tensors[f"pairs.{k}"] = torch.from_numpy(pairs.keys.astype(np.int32))
                tensors[f"pair_counts.{k}"] = torch.from_numpy(_narrow(pairs.counts))
        write_safetensors(path, tensors, {TABLE_KEY: json.dumps({"codebooks": len(self.counts)})})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "EntropyModel":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: no such file, not of this kind, or its contents contradict each other.
        """
        metadata, tensors = read_safetensors_metadata(path), read_safetensors(path)
        try:
            codebooks = int(json.loads(metadata[TABLE_KEY])["codebooks"])
            arrays = {name: value.numpy() for name, value in tensors.items()}
            counts = tuple(_counts(arrays.pop(f"counts.{k}"), 0) for k in range(codebooks))
            pairs = tuple(
                _pairs(arrays.pop(f"pairs.{k}"), arrays.pop(f"pair_counts.{k}"), len(counts[k]))
                if f"pairs.{k}" in arrays
                else None
                for k in range(codebooks)
            )
            if not counts or arrays or max(map(len, counts)) > MAX_SIZE:
                raise ValueError(f"{codebooks} codebooks, and {sorted(arrays)} too many")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not an entropy model of audiotok: {error!r}") from error
        return cls(counts, pairs)


def _narrow(counts: Integers) -> NDArray[np.int32] | Integers:
    """In 4 bytes each where that is enough."""
    return counts.astype(np.int32) if not len(counts) or counts.max() < 2**31 else counts


def _counts(values: NDArray[np.int64], least: int) -> Integers:
    """Counts as a file gave them. Raises `ValueError` when they cannot be counts."""
    if values.ndim != 1 or values.dtype.kind != "i" or (values < least).any() or (values > _MAX_COUNT).any():
        raise ValueError("counts that cannot be")
    values = values.astype(np.int64)
    if values.sum() > _MAX_COUNT or (not least and not len(values)):
        raise ValueError("counts that cannot be")
    return values


def _pairs(keys: Integers, counts: Integers, size: int) -> Pairs:
    if keys.ndim != 1 or keys.dtype.kind != "i" or keys.shape != counts.shape or size > MAX_CONTEXTS:
        raise ValueError("pairs of the wrong shape")
    keys = keys.astype(np.int64)
    if len(keys) and (keys[0] < 0 or keys[-1] >= (size + 1) * size or (np.diff(keys) < 1).any()):
        raise ValueError("pairs that are not in order")
    return Pairs(keys, _counts(counts, 1), size)


def fit_entropy_model(codes: Iterable[Codes]) -> EntropyModel:
    """Counts tokens, and pairs of tokens of consecutive frames, over many codes of one tokenizer.

    Codes are taken one by one; what is held is the counts. Pairs are counted for codebooks of at most 4096 entries, and
    kept where they save at least 2 % of the bits, by how well each token is told from all *other* pairs (leave one
    out), so that a table that merely remembers its audio is not taken for a good one.

    Args:
        codes: of one tokenizer with one number of codebooks; of audio like that to be compressed, but other audio.

    Raises:
        FitError: there is not a single frame. InputError: codes of unlike codebooks, or a codebook above 2^20 entries.
    """
    fit = EntropyFit()
    for one in codes:
        fit.add(one)
    return fit.model()


class EntropyFit:
    """`fit_entropy_model` for codes that come one by one."""

    def __init__(self) -> None:
        self._counts: list[Integers] = []
        self._pairs: list[_PairCounter | None] = []

    def add(self, codes: Codes) -> None:
        """Counts the tokens of one or more rows. Raises `InputError`, and then counts nothing of them."""
        sizes = codes.spec.codebook_sizes
        if max(sizes) > MAX_SIZE:
            raise InputError(f"codebooks may have {MAX_SIZE} entries to be compressed, not {max(sizes)}")
        before = tuple(map(len, self._counts)) or sizes
        if sizes != before:
            raise InputError(f"codes of codebooks {sizes} cannot be counted with those of {before}")
        rows = [row.tokens[0].cpu().numpy() for row in codes]
        for row in rows:
            for k, tokens in enumerate(row):
                if len(tokens) and not 0 <= tokens.min() <= tokens.max() < sizes[k]:
                    raise InputError(f"codebook {k} has tokens 0 to {sizes[k] - 1}, not {tokens.min()}..{tokens.max()}")
        if not self._counts:
            self._counts = [np.zeros(size, np.int64) for size in sizes]
            self._pairs = [_PairCounter(size) if 1 < size <= MAX_CONTEXTS else None for size in sizes]
        for row in rows:
            for tokens, counts, pairs in zip(row, self._counts, self._pairs, strict=True):
                counts += np.bincount(tokens, minlength=len(counts))
                if pairs is not None:
                    pairs.add(tokens)

    def model(self) -> EntropyModel:
        """Of everything so far. Raises `FitError` when that is not a single frame."""
        if not self._counts or not self._counts[0].sum():
            raise FitError("there is not a single frame of codes to count")
        pairs = (
            counter.worth_it(single) if counter is not None else None
            for counter, single in zip(self._pairs, self._counts, strict=True)
        )
        return EntropyModel(tuple(counts.copy() for counts in self._counts), tuple(pairs))


class _PairCounter:
    """Counts pairs of one codebook: sorted, and what came since."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[Integers] = []
        self._number = 0

    def add(self, tokens: Integers) -> None:
        """The tokens of one row of audio, [F]."""
        self._waiting.append(np.concatenate(([self._size], tokens))[:-1] * self._size + tokens)
        self._number += len(tokens)
        if self._number >= _WAITING:
            self._merge()

    def _merge(self) -> None:
        keys, numbers = np.unique(np.concatenate([self._keys, *self._waiting]), return_counts=True)
        # What was counted before is once among the keys.
        places = np.searchsorted(keys, self._keys)
        numbers[places] += self._counts - 1
        self._keys, self._counts, self._waiting, self._number = keys, numbers.astype(np.int64), [], 0

    def worth_it(self, single: Integers) -> Pairs | None:
        """The pairs, if they save enough against counts [V] of single tokens alone."""
        self._merge()
        contexts, tokens = np.divmod(self._keys, self._size)
        chance = ((2 * single + 1) / (2 * single.sum() + self._size))[tokens]
        totals = np.bincount(contexts, weights=self._counts, minlength=self._size + 1)[contexts]
        alone = -float((self._counts * np.log2(chance)).sum())
        after = min(
            -float((self._counts * np.log2((self._counts - 1 + m * chance) / (totals - 1 + m))).sum())
            for m in _STRENGTHS
        )
        return Pairs(self._keys, self._counts, self._size) if after < (1 - _WORTH_IT) * alone else None


def starts_of(table: EntropyModel | None, codebook: int, size: int) -> list[Start]:
    """What an encoder can expect of a codebook, to choose from: that all tokens are alike; what the table says."""
    alike: Start = (np.ones(size, np.int64), None)
    if table is None:
        return [alike]
    numbers, pairs = table.numbers(codebook), table.pairs[codebook]
    return [alike, (numbers, None), *([] if pairs is None else [(numbers, pairs)])]


def check_table(table: EntropyModel, codebook_sizes: Sequence[int]) -> None:
    """Raises `InputError` unless the table's first codebooks are of these sizes."""
    if table.codebook_sizes[: len(codebook_sizes)] != tuple(codebook_sizes):
        raise InputError(
            f"the entropy model is for codebooks of {list(table.codebook_sizes)} entries, the codes have "
            f"{list(codebook_sizes)}: fit one on codes of the same tokenizer"
        )
