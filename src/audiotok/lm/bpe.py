"""Acoustic BPE: the commonest runs of tokens become tokens of their own, which makes sequences shorter."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import read_json, write_json
from ..checkpoint.base import written
from ..codes import Codes
from ..errors import CheckpointError, InputError, MissingDependencyError
from .arrangements import GRIDS
from .layouts import Layout
from .unit_characters import MAX_UNITS, characters_to_units, units_to_characters
from .vocabulary import Vocabulary
from .whole import whole_numbers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MERGES, _UNITS = "tokenizer.json", "units.json"
# Longer texts are cut for training: a merge there costs time for the whole of every text that holds its pair.
_PIECE_UNITS = 512


class AcousticBPE:
    """Byte-pair encoding of tokens (Shen et al. 2023, "Acoustic BPE for speech generation with discrete tokens", arXiv
    2310.14580), with the Hugging Face library `tokenizers`.

    A unit is a token of a codebook; of several codebooks each has units of its own, and the frames of a row are laid
    out as one sequence first. Every unit is an id too, with its own number, so any codes can be encoded, whatever the
    training saw, and decoding is exact. Made by `train_bpe` or `load`.

    Attributes:
        tokenizer: of the library `tokenizers`, over texts of one character per unit.
        layout: of the units, a sequence without special tokens.
    """

    def __init__(self, tokenizer: "Tokenizer", layout: Layout) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        units = Vocabulary.build(layout.spec.codebook_sizes, special=())
        if layout.grid or layout.prefix or layout.suffix or layout.vocabulary != units:
            raise InputError("the layout of an acoustic BPE must be a sequence of units 0, 1, 2 and so on, and no more")
        texts = sorted((number, text) for text, number in tokenizer.get_vocab().items())
        if [number for number, _ in texts] != list(range(len(texts))):
            raise InputError("the ids of an acoustic BPE must be 0, 1, 2 and so on, each once")
        self._units: list[NDArray[np.int64]] = [characters_to_units(text) for _, text in texts]
        if [list(found) for found in self._units[: units.size]] != [[unit] for unit in range(units.size)]:
            raise InputError(f"the first {units.size} ids of an acoustic BPE must be its units")

    @property
    def vocab_size(self) -> int:
        """Ids: units and merges."""
        return len(self._units)

    def encode(self, codes: Codes) -> list[Tensor]:
        """The merged ids [N_i] int64 of each row, at most as many as it has tokens.

        Raises:
            CodesMismatchError: codes of another tokenizer or number of codebooks. InputError: a code outside its
                codebook.
        """
        texts = [units_to_characters(ids.cpu().numpy()) for ids in self.layout.to_ids(codes)]
        return [torch.tensor(found.ids, dtype=torch.int64) for found in self.tokenizer.encode_batch(texts)]

    def decode(
        self, ids: Sequence[Tensor | Sequence[int]], *, num_samples: Sequence[int] | Tensor | None = None
    ) -> Codes:
        """The codes of rows of merged ids, inverse of `encode`.

        Args:
            ids: a sequence of ids for each row.
            num_samples: of each row's audio; default frames times the hop.

        Raises:
            InputError: an id that is none, or ids that do not make whole frames.
        """
        return self.layout.from_ids([self._unmerged(row, n) for n, row in enumerate(ids)], num_samples=num_samples)

    def _unmerged(self, row: Tensor | Sequence[int], number: int) -> Tensor:
        ids = whole_numbers(row, f"sequence {number}: wanted a list of ids [N]")
        if ids.dim() != 1:
            raise InputError(f"sequence {number}: wanted a list of ids [N], not {list(ids.shape)}")
        wrong = ((ids < 0) | (ids >= self.vocab_size)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise InputError(
                f"sequence {number}, position {place}: this BPE has ids 0 to {self.vocab_size - 1}, "
                f"not {int(ids[place])}"
            )
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(self._units[i] for i in ids.tolist())]))

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes tokenizer.json, which other tools read, and units.json, which says what its characters mean.

        Raises:
            OSError: the folder cannot be written; a `CheckpointWriteError` where it is one of the files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with written(folder / _MERGES) as handle:
            handle.write(self.tokenizer.to_str(pretty=True).encode())
        write_json(folder / _UNITS, {"audiotok.bpe": 1, "layout": self.layout.to_dict()})

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "AcousticBPE":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: no such folder, not of this kind, or its files do not belong together.
        """
        folder = Path(folder)
        facts = read_json(folder / _UNITS)
        if facts.get("audiotok.bpe") != 1 or not isinstance(facts.get("layout"), dict):
            raise CheckpointError(f"{folder / _UNITS}: wanted the units of an audiotok BPE, found {sorted(facts)}")
        try:
            tokenizer = _import_tokenizers().Tokenizer.from_file(str(folder / _MERGES))
        except Exception as error:  # the library raises nothing narrower
            if isinstance(error, MissingDependencyError):
                raise
            raise CheckpointError(f"{folder / _MERGES} cannot be read: {error}") from error
        try:
            return cls(tokenizer, Layout.from_dict(facts["layout"]))
        except InputError as error:
            raise CheckpointError(f"{folder}: its files do not belong together: {error}") from error


def train_bpe(
    codes: Iterable[Codes],
    vocab_size: int,
    *,
    layout: str = "flat",
    min_frequency: int = 2,
    max_units: int | None = None,
) -> AcousticBPE:
    """Learns merges from codes of one tokenizer, such as rows of a data set or deduplicated units.

    Args:
        codes: read once; of one codebook, or of several, each with units of its own.
        vocab_size: ids wanted: units and merges. There are fewer where no pair is left that is common enough.
        layout: sequence in which the tokens of a row are laid out: "flat", "depth-first", "codebook-major" or
            "coarse-first".
        min_frequency: occurrences that a pair needs to be merged.
        max_units: units of the longest merge; None for no bound.

    Raises:
        InputError: no codes; a layout that is no sequence; more units than have characters, or than `vocab_size`.
        CodesMismatchError: codes of different tokenizers. MissingDependencyError: tokenizers is not installed.

    Example:
        >>> from audiotok import Spec
        >>> spec = Spec("demo", sample_rate=100, hop_length=10, codebook_sizes=(50,))
        >>> codes = Codes(torch.tensor([[[7, 4, 7, 4, 9]]]), torch.tensor([5]), torch.tensor([50]), spec)
        >>> bpe = train_bpe([codes], 60)
        >>> bpe.encode(codes)  # 7 and 4 have become id 50
        [tensor([50, 50,  9])]
        >>> bpe.decode(bpe.encode(codes)).tokens
        tensor([[[7, 4, 7, 4, 9]]])
    """
    library = _import_tokenizers()
    rows = iter(codes)
    first = next(rows, None)
    if first is None:
        raise InputError("nothing to learn from: train_bpe wants at least one Codes")
    if layout in GRIDS:
        raise InputError(f"a BPE merges sequences, and the layout {layout!r} is a grid: use 'flat'")
    units = Vocabulary.build(first.spec.codebook_sizes, special=())
    if units.size > MAX_UNITS:
        raise InputError(
            f"{first.spec.name} has {units.size} tokens and at most {MAX_UNITS} have a character: use fewer codebooks, "
            "codes.truncate(...)"
        )
    if vocab_size < units.size:
        raise InputError(f"vocab_size must be at least the {units.size} tokens of {first.spec.name}, not {vocab_size}")
    arranged = Layout(layout, first.spec, units, fingerprint=first.fingerprint)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.decoder = library.decoders.Fuse()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=list(units_to_characters(np.arange(units.size))),
        max_token_length=max_units,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_pieces(chain([first], rows), arranged), trainer)
    return AcousticBPE(tokenizer, arranged)


def _pieces(codes: Iterable[Codes], layout: Layout) -> Iterator[str]:
    """The texts of all rows, in pieces."""
    for batch in codes:
        for ids in layout.to_ids(batch):
            text = units_to_characters(ids.cpu().numpy())
            yield from (text[start : start + _PIECE_UNITS] for start in range(0, len(text), _PIECE_UNITS))


def _import_tokenizers() -> Any:
    try:
        import tokenizers
        from tokenizers import decoders, models, trainers  # noqa: F401
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("acoustic BPE needs tokenizers: pip install 'audiotok[lm]'") from error
    return tokenizers
