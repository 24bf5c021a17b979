"""`Layout`: codes [K, F] as the sequence of ids that a language model reads, and back."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import CodesMismatchError, InputError
from ..spec import Spec
from .arrangements import GRIDS, SEQUENCES, grid_slots, groups_of, sequence_slots
from .padding import PaddedIds, pad_ids
from .reading import Reading
from .vocabulary import Vocabulary
from .whole import whole_numbers

#: Names of layouts: sequences [L] of ids, then grids [K, L].
LAYOUTS = (*SEQUENCES, *GRIDS)


class Layout:
    """How the tokens [K, F] of a row of audio become ids of a language model, and back.

    Sequences [K·F]:
        "flat": frame by frame, all codebooks of a frame.
        "codebook-major": codebook by codebook, all frames of a codebook.
        "coarse-first": the first `coarse` codebooks over all frames, then the others, each part frame by frame
            (AudioLM, arXiv 2209.03143; VALL-E, arXiv 2301.02111, with one coarse codebook).
        "depth-first": frame by frame, the codes of a multi-rate codec (`spec.row_levels`) each followed by those that
            refine it, as language models over SNAC do; "flat" for other codecs.

    Grids [K, L], a row for each codebook:
        "parallel": the tokens as they are, L = F.
        "delay": row k shifted by `delays[k]` frames, L = F + the largest delay (MusicGen, arXiv 2306.05284).

    Args:
        name: one of these.
        spec: of the tokenizer.
        vocabulary: the ids; default `Vocabulary.build(spec.codebook_sizes)`, with shared ids for grids.
        prefix: names of special tokens put in front of each sequence, in front of all K rows of a grid.
        suffix: names of those put behind.
        coarse: codebooks of the first part of "coarse-first".
        delays: frames by which "delay" shifts each row; default 0, 1, ... K - 1.
        fill: names of the special tokens that stand before and after the tokens of a shifted row.
        fingerprint: of the tokenizer, so that only it decodes what `from_ids` gives (`tokenizer.fingerprint`).

    Raises:
        InputError: arguments that cannot be, or that do not belong together; the message says which.

    Example:
        >>> spec = Spec("demo", sample_rate=100, hop_length=10, codebook_sizes=(50, 50))
        >>> codes = Codes(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), torch.tensor([3]), torch.tensor([30]), spec)
        >>> Layout("flat", spec).to_ids(codes)  # code 4 of codebook 1 is id 54
        [tensor([ 1, 54,  2, 55,  3, 56])]
        >>> layout = Layout("delay", spec)  # both codebooks have ids 0 to 49; 50 is "pad"
        >>> layout.to_ids(codes)
        [tensor([[ 1,  2,  3, 50],
                [50,  4,  5,  6]])]
        >>> torch.equal(layout.from_ids(layout.to_ids(codes)).tokens, codes.tokens)
        True
    """

    def __init__(
        self,
        name: str,
        spec: Spec,
        vocabulary: Vocabulary | None = None,
        *,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        coarse: int = 1,
        delays: Sequence[int] | None = None,
        fill: tuple[str, str] = ("pad", "pad"),
        fingerprint: str = "",
    ) -> None:
        if name not in LAYOUTS:
            raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, not {name!r}")
        vocabulary = vocabulary or Vocabulary.build(spec.codebook_sizes, shared=name in GRIDS)
        if vocabulary.codebook_sizes != spec.codebook_sizes:
            raise InputError(
                f"the vocabulary is for codebooks of {vocabulary.codebook_sizes}, but {spec.name} has "
                f"{spec.codebook_sizes}"
            )
        for names in (prefix, suffix, fill):
            if isinstance(names, str):
                raise InputError(f"special tokens are named in a tuple, ({names!r},), not {names!r}")
        if len(fill) != 2:
            raise InputError(f"fill names the special tokens before and after a shifted row, two, not {fill}")
        count = spec.num_codebooks
        if name == "coarse-first" and not 1 <= coarse <= count:
            raise InputError(f"{spec.name} has 1 to {count} coarse codebooks, not {coarse}")
        if delays is not None and name != "delay":
            raise InputError(f"delays belong to the layout 'delay', not to {name!r}")
        default = range(count) if name == "delay" else [0] * count
        self.delays = tuple(default if delays is None else delays)
        if len(self.delays) != count or not all(isinstance(delay, int) and delay >= 0 for delay in self.delays):
            raise InputError(f"delays must be {count} frame counts of at least 0, not {self.delays}")
        self.name, self.spec, self.vocabulary, self.fingerprint = name, spec, vocabulary, fingerprint
        self.prefix, self.suffix, self.fill, self.coarse = tuple(prefix), tuple(suffix), tuple(fill), coarse
        self._groups = groups_of(name, count, spec.row_levels, coarse)
        self._ends = [[vocabulary.special_id(name) for name in names] for names in (prefix, suffix)]
        self.fill_ids = tuple(vocabulary.special_id(name) for name in fill) if max(self.delays) else (0, 0)

    @property
    def grid(self) -> bool:
        """Whether ids are grids [K, L], a row for each codebook, instead of sequences [L]."""
        return self.name in GRIDS

    def num_ids(self, num_frames: int) -> int:
        """L, the length of the ids of so many frames."""
        around = len(self.prefix) + len(self.suffix)
        return around + (num_frames + max(self.delays) if self.grid else num_frames * self.spec.num_codebooks)

    def to_ids(self, codes: Codes) -> list[Tensor]:
        """The ids of each row of codes; frames beyond a row's length give none, nor do `codes.extras`.

        Returns:
            B tensors int64, [L] or, of a grid, [K, L] with L = `num_ids(length)`.

        Raises:
            CodesMismatchError: codes of another tokenizer or number of codebooks.
            InputError: a code outside its codebook.
        """
        if codes.spec != self.spec:
            raise CodesMismatchError(
                f"this layout is for {self.spec.name} with codebooks {self.spec.codebook_sizes}, "
                f"not for {codes.spec.name} with {codes.spec.codebook_sizes}"
            )
        if self.fingerprint and codes.fingerprint and codes.fingerprint != self.fingerprint:
            raise CodesMismatchError(
                f"this layout is for the tokenizer {self.fingerprint}, not for {codes.fingerprint}"
            )
        return [self._row_ids(row) for row in codes]

    def from_ids(
        self, ids: Sequence[Any] | Tensor | PaddedIds, *, num_samples: Sequence[int] | Tensor | None = None
    ) -> Codes:
        """The codes of sequences of ids, inverse of `to_ids`.

        Args:
            ids: a sequence of ids for each row (tensors, arrays or lists), without padding; or a `PaddedIds`.
            num_samples: of each row's audio; default frames times `spec.hop_length`.

        Raises:
            InputError: no sequences, one of the wrong shape, type or length, an id that is no code of the codebook
                whose turn it is, or a special id that is missing or misplaced. The message says where.
        """
        if isinstance(ids, PaddedIds):
            ids = ids.rows()
        if len(ids) == 0:
            raise InputError("wanted at least one sequence of ids")
        rows = [Reading(self, row, number).tokens() for number, row in enumerate(ids)]
        lengths = torch.tensor([row.shape[1] for row in rows], device=rows[0].device)
        longest = int(lengths.max())
        tokens = torch.stack([torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])
        samples = lengths * self.spec.hop_length
        if num_samples is not None:
            wanted = f"num_samples must be {len(rows)} sample counts, one for each sequence"
            samples = whole_numbers(num_samples, wanted).to(lengths.device)
            if samples.shape != lengths.shape or bool((samples < 0).any()):
                raise InputError(f"{wanted}, not {num_samples}")
        return Codes(tokens, lengths, samples, self.spec, self.fingerprint)

    def batch(self, rows: Sequence[Tensor], *, side: Literal["left", "right"] = "right") -> PaddedIds:
        """Sequences of ids filled up with "pad", as `pad_ids` does."""
        return pad_ids(rows, self.vocabulary.special_id("pad"), side=side)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "spec": self.spec.to_dict(),
            "vocabulary": self.vocabulary.to_dict(),
            "prefix": list(self.prefix),
            "suffix": list(self.suffix),
            "coarse": self.coarse,
            "delays": list(self.delays) if self.name == "delay" else None,
            "fill": list(self.fill),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Layout":
        """The inverse of `to_dict`. Raises `InputError` for anything else."""
        try:
            rest = {name: values[name] for name in ("prefix", "suffix", "coarse", "delays", "fill", "fingerprint")}
            spec, vocabulary = Spec.from_dict(values["spec"]), Vocabulary.from_dict(values["vocabulary"])
            return cls(values["name"], spec, vocabulary, **rest)
        except (KeyError, TypeError) as error:
            raise InputError(f"this is no audiotok layout: {error!r}") from error

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Layout) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it holds dicts

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.spec.name}, K={self.spec.num_codebooks}, ids={self.vocabulary.size})"

    def slots(self, frames: int) -> Tensor:
        """Where each token lies between prefix and suffix, as `arrangements` numbers them."""
        return grid_slots(self.delays, frames) if self.grid else sequence_slots(self._groups, frames)

    def _row_ids(self, row: Codes) -> Tensor:
        ids = self.vocabulary.to_ids(row.tokens[0])  # [K, F]
        slots = self.slots(ids.shape[1]).to(ids.device)
        # The fillings lie behind the tokens, so that -1 and -2 find them.
        pool = torch.cat([ids.flatten(), ids.new_tensor(self.fill_ids[::-1])])
        body = pool[slots % len(pool)]
        ends = [ids.new_tensor(special).expand(*body.shape[:-1], -1) for special in self._ends]
        return torch.cat([ends[0], body, ends[1]], -1)
