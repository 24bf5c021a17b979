"""`Vocabulary`: which id of a language model stands for which token of which codebook."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError

#: Names of special ids that `Vocabulary.build` gives unless told otherwise.
SPECIAL = ("pad", "bos", "eos", "audio_start", "audio_end")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_LIKE_A_TOKEN = re.compile(r"<?[a-z]+[0-9]+>?")


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the tokens of K codebooks, each with a range of its own or all with the same, and of special tokens.

    `build` lays one out; the constructor takes any ids, such as those an existing model has.

    Attributes:
        codebook_sizes: V of each codebook.
        starts: id of code 0 of each codebook; code c has the id start + c. All alike when the codebooks share their
            ids, which is what models with an embedding table for each codebook want.
        special: name -> id. Two names may share an id, but none lies within a codebook's range.
        written: name -> how the special token is written in text; those not named here are written <name>.

    Raises:
        InputError: sizes, starts or special ids that cannot be, or that overlap.

    Example:
        >>> vocabulary = Vocabulary.build((1024, 512), offset=32000, special=("pad",))
        >>> vocabulary.starts, vocabulary.special, vocabulary.size
        ((32000, 33024), {'pad': 33536}, 33537)
        >>> vocabulary.to_ids(torch.tensor([[5, 7], [0, 511]]))
        tensor([[32005, 32007],
                [33024, 33535]])
    """

    codebook_sizes: tuple[int, ...]
    starts: tuple[int, ...]
    special: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("codebook_sizes", "starts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("special", "written"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        if not self.codebook_sizes or len(self.codebook_sizes) != len(self.starts):
            raise InputError(
                "a Vocabulary needs a start for each codebook and at least one codebook, not "
                f"{len(self.codebook_sizes)} sizes and {len(self.starts)} starts"
            )
        for size in self.codebook_sizes:
            _whole("every codebook size", size, at_least=1)
        for start in self.starts:
            _whole("every start", start)
        ranges = sorted(zip(self.starts, self.codebook_sizes, strict=True))
        shared = len(set(self.starts)) == 1
        for (start, size), (following, _) in itertools.pairwise(ranges):
            if start + size > following and not shared:
                raise InputError(
                    f"ids of codebooks overlap: one has {start} to {start + size - 1}, another begins at {following}; "
                    "give each a range of its own, or all the same start"
                )
        self._check_special(ranges)

    def _check_special(self, ranges: list[tuple[int, int]]) -> None:
        for name, number in self.special.items():
            if not _NAME.fullmatch(name) or _LIKE_A_TOKEN.fullmatch(name):
                raise InputError(f"a special token cannot be named {name!r}: use a word such as {', '.join(SPECIAL)}")
            _whole(f"the id of {name!r}", number)
            if any(start <= number < start + size for start, size in ranges):
                raise InputError(f"the id {number} of {name!r} lies within a codebook's ids")
        ids: dict[str, int] = {}
        for name, text in self.written.items():
            if name not in self.special or not text or _LIKE_A_TOKEN.fullmatch(text):
                raise InputError(f"{name!r} cannot be written {text!r}: wanted a text for one of {list(self.special)}")
        for name, number in self.special.items():
            if ids.setdefault(self.text_of(name), number) != number:
                raise InputError(f"two special tokens with unlike ids are both written {self.text_of(name)}")

    @classmethod
    def build(
        cls,
        codebook_sizes: Sequence[int],
        *,
        offset: int = 0,
        special: Sequence[str] | Mapping[str, int] = SPECIAL,
        special_at: Literal["front", "behind"] = "behind",
        shared: bool = False,
        order: Sequence[int] | None = None,
    ) -> "Vocabulary":
        """Lays ids out from `offset` on, without gaps.

        Args:
            codebook_sizes: V of each codebook, such as `spec.codebook_sizes`.
            offset: first id, such as the size of a text model's vocabulary.
            special: names of special tokens, which get one id each in this order; or a dict name -> id of ids that
                exist already.
            special_at: whether the new special ids lie in front of the codebooks' or behind them.
            shared: whether all codebooks share the range that the largest needs.
            order: the codebooks in the order of their ranges; default 0 to K - 1.

        Raises:
            InputError: as the class; an order that does not name each codebook once; another `special_at`.
        """
        if special_at not in ("front", "behind"):
            raise InputError(f"special_at is 'front' or 'behind', not {special_at!r}")
        order = range(len(codebook_sizes)) if order is None else order
        if sorted(order) != list(range(len(codebook_sizes))):
            raise InputError(f"order must name codebooks 0 to {len(codebook_sizes) - 1} once each, not {list(order)}")
        _whole("offset", offset)
        for size in codebook_sizes:
            _whole("every codebook size", size, at_least=1)
        new = [] if isinstance(special, Mapping) else list(special)
        if len(set(new)) != len(new):
            raise InputError(f"each special token is named once, not {new}")
        first = offset + len(new) if special_at == "front" else offset
        starts, end = [first] * len(codebook_sizes), first
        for codebook in order:
            starts[codebook] = first if shared else end
            end = max(end, starts[codebook] + codebook_sizes[codebook])
        numbered = {name: number for number, name in enumerate(new, offset if special_at == "front" else end)}
        return cls(tuple(codebook_sizes), tuple(starts), dict(special) if isinstance(special, Mapping) else numbered)

    @property
    def num_codebooks(self) -> int:
        """K."""
        return len(self.codebook_sizes)

    @property
    def size(self) -> int:
        """One more than the largest id: rows that an embedding table needs."""
        ends = [start + size for start, size in zip(self.starts, self.codebook_sizes, strict=True)]
        return max([*ends, *(number + 1 for number in self.special.values())])

    @property
    def shared(self) -> bool:
        """Whether several codebooks have the same ids."""
        return self.num_codebooks > 1 and len(set(self.starts)) == 1

    def special_id(self, name: str) -> int:
        """The id of a special token.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.special:
            raise InputError(
                f"this vocabulary has no special token {name!r}, only {list(self.special)}: "
                f"Vocabulary.build(..., special=(..., {name!r}))"
            )
        return self.special[name]

    def text_of(self, name: str) -> str:
        """How a special token is written in text."""
        return self.written.get(name, f"<{name}>")

    def to_ids(self, tokens: Tensor) -> Tensor:
        """Ids of tokens.

        Args:
            tokens: [..., K, N] int64, row k holding codes 0 to V - 1 of codebook k.

        Returns:
            [..., K, N] int64.

        Raises:
            InputError: another shape or type, or a code outside its codebook.
        """
        self._check_rows("tokens", tokens)
        self._check_codes(tokens, tokens)
        return tokens + self._column(self.starts, tokens)

    def to_tokens(self, ids: Tensor) -> Tensor:
        """Tokens [..., K, N] of ids [..., K, N], inverse of `to_ids`.

        Raises:
            InputError: another shape or type, or an id that is none of its row's codebook.
        """
        self._check_rows("ids", ids)
        tokens = ids - self._column(self.starts, ids)
        self._check_codes(tokens, ids)
        return tokens

    def locate(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The codebook and the code of each id.

        Args:
            ids: int64 of any shape.

        Returns:
            Codebooks and codes of that shape, int64; both -1 where the id is no token of a codebook.

        Raises:
            InputError: the codebooks share their ids, which then do not tell them apart.
        """
        if self.shared:
            raise InputError("the codebooks share their ids, an id does not tell its codebook: use shared=False")
        codebooks, codes = torch.full_like(ids, -1), torch.full_like(ids, -1)
        for codebook, (start, size) in enumerate(zip(self.starts, self.codebook_sizes, strict=True)):
            inside = (ids >= start) & (ids < start + size)
            codebooks[inside] = codebook
            codes = torch.where(inside, ids - start, codes)
        return codebooks, codes

    def describe(self, number: int) -> str:
        """An id in words, for messages."""
        names = [name for name, value in self.special.items() if value == number]
        if names:
            return f"id {number} ({' = '.join(names)})"
        codebook, code = (-1, -1) if self.shared else (int(value) for value in self.locate(torch.tensor(number)))
        return f"id {number}" if codebook < 0 else f"id {number} (code {code} of codebook {codebook})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "starts": list(self.starts),
            "special": dict(self.special),
            "written": dict(self.written),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `to_dict`. Raises `InputError` for anything else."""
        try:
            sizes, starts, special, written = (
                values[name] for name in ("codebook_sizes", "starts", "special", "written")
            )
            return cls(tuple(sizes), tuple(starts), dict(special), dict(written))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no audiotok vocabulary: {error!r}") from error

    def _column(self, values: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, device=like.device)[:, None]  # [K, 1]

    def _check_rows(self, what: str, values: Tensor) -> None:
        if values.dim() < 2 or values.shape[-2] != self.num_codebooks or values.dtype != torch.int64:
            raise InputError(
                f"{what} must be [..., {self.num_codebooks}, N] int64, not {list(values.shape)} {values.dtype}"
            )

    def _check_codes(self, tokens: Tensor, given: Tensor) -> None:
        wrong = ((tokens < 0) | (tokens >= self._column(self.codebook_sizes, tokens))).nonzero()
        if len(wrong):
            place = tuple(wrong[0].tolist())
            codebook, size = place[-2], self.codebook_sizes[place[-2]]
            first = int(given[place]) - int(tokens[place])
            raise InputError(
                f"codebook {codebook} takes {first} to {first + size - 1}, not {int(given[place])} "
                f"(at {list(place)}, one of {len(wrong)})"
            )


def _whole(what: str, value: object, at_least: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InputError(f"{what} must be a whole number of at least {at_least}, not {value!r}")
