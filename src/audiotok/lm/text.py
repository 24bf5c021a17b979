"""Ids as text and back: code 12 of codebook 0 is <a12>, code 7 of codebook 1 is <b7>, special tokens are <name>."""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .vocabulary import Vocabulary
from .whole import whole_numbers

_TOKEN = r"<([a-z]+)(0|[1-9][0-9]{0,9})>"
_SHOWN = 24  # characters of the text in a message


def codebook_letters(codebook: int) -> str:
    """The letters of a codebook: a to z, then aa to az, ba and so on, as columns of a spreadsheet.

    Example:
        >>> [codebook_letters(k) for k in (0, 25, 26, 701, 702)]
        ['a', 'z', 'aa', 'zz', 'aaa']
    """
    letters, rest = "", codebook + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


def token_texts(codebook: int, size: int) -> list[str]:
    """The texts of all codes of a codebook, <a0> to <a{size - 1}>."""
    letters = codebook_letters(codebook)
    return [f"<{letters}{code}>" for code in range(size)]


def to_text(ids: Tensor | Sequence[int], vocabulary: Vocabulary) -> str:
    """A sequence of ids as text, nothing between tokens.

    It is what a tokenizer extended by `extend_tokenizer` reads as these ids.

    Args:
        ids: [L] whole numbers, each a token of a codebook or a special one.
        vocabulary: whose ids they are.

    Raises:
        InputError: an id that is neither, or codebooks that share their ids.

    Example:
        >>> vocabulary = Vocabulary.build((1024, 1024), special=("audio_end",))
        >>> to_text([12, 1031, 2048], vocabulary)
        '<a12><b7><audio_end>'
    """
    return "".join(_texts(whole_numbers(ids, "wanted a sequence of ids [L]"), vocabulary))


def _texts(ids: Tensor, vocabulary: Vocabulary) -> Iterator[str]:
    if ids.dim() != 1:
        raise InputError(f"wanted a sequence of ids [L], not {list(ids.shape)}: give grids row by row")
    special: dict[int, str] = {}
    for name, number in vocabulary.special.items():
        special.setdefault(number, vocabulary.text_of(name))
    letters = [codebook_letters(codebook) for codebook in range(vocabulary.num_codebooks)]
    codebooks, codes = vocabulary.locate(ids)
    for place, (codebook, code, number) in enumerate(
        zip(codebooks.tolist(), codes.tolist(), ids.tolist(), strict=True)
    ):
        if codebook >= 0:
            yield f"<{letters[codebook]}{code}>"
        elif number in special:
            yield special[number]
        else:
            raise InputError(f"position {place}: id {number} is neither a token of a codebook nor a special one")


def from_text(text: str, vocabulary: Vocabulary) -> Tensor:
    """The ids of a text, inverse of `to_text`.

    Args:
        text: tokens and nothing else: no spaces, no leading zeros.
        vocabulary: whose ids are wanted.

    Returns:
        [L] int64.

    Raises:
        InputError: anything else in the text, a codebook or a code that the vocabulary has not, or codebooks that
            share their ids. The message says where.

    Example:
        >>> from_text("<a12><b7>", Vocabulary.build((1024, 1024)))
        tensor([  12, 1031])
    """
    if vocabulary.shared:
        raise InputError("the codebooks share their ids, an id does not tell its codebook: use shared=False")
    special = {vocabulary.text_of(name): number for name, number in vocabulary.special.items()}
    longest_first = sorted(special, key=len, reverse=True)
    token = re.compile("|".join([_TOKEN, *(re.escape(known) for known in longest_first)]))
    codebook_of = {codebook_letters(codebook): codebook for codebook in range(vocabulary.num_codebooks)}
    ids, place = [], 0
    while place < len(text):
        found = token.match(text, place)
        if found is None:
            raise InputError(f"{_at(text, place)}: wanted a token such as <a0>{_or(longest_first)}")
        ids.append(
            special[found[0]] if found[1] is None else _id_of(found, codebook_of.get(found[1]), vocabulary, text)
        )
        place = found.end()
    return torch.tensor(ids, dtype=torch.int64)


def _id_of(found: re.Match[str], codebook: int | None, vocabulary: Vocabulary, text: str) -> int:
    if codebook is None:
        last = codebook_letters(vocabulary.num_codebooks - 1)
        raise InputError(f"{_at(text, found.start())}: there is no codebook {found[1]!r}, only a to {last}")
    size, code = vocabulary.codebook_sizes[codebook], int(found[2])
    if code >= size:
        raise InputError(f"{_at(text, found.start())}: codebook {found[1]!r} has codes 0 to {size - 1}, not {code}")
    return vocabulary.starts[codebook] + code


def _at(text: str, place: int) -> str:
    rest = text[place : place + _SHOWN]
    return f"character {place}, {rest + '...' * (len(text) > place + _SHOWN)!r}"


def _or(texts: list[str]) -> str:
    return f" or {', '.join(texts)}" if texts else ""
