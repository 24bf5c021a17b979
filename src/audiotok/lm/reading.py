"""A sequence of ids back to tokens, with everything checked that can be wrong about it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from .arrangements import BEFORE
from .whole import whole_numbers

if TYPE_CHECKING:
    from .layouts import Layout


class Reading:
    """One sequence of ids of a layout.

    Args:
        layout: that it is in.
        ids: [L] or, of a grid, [K, L] whole numbers: a tensor, an array or a list.
        number: of the sequence in its batch, for messages.

    Raises:
        InputError: another shape or type.
    """

    def __init__(self, layout: "Layout", ids: Any, number: int) -> None:
        self.layout, self.number = layout, number
        count = layout.spec.num_codebooks
        wanted = f"ids [{count}, L]" if layout.grid else "ids [L]"
        self.ids = whole_numbers(ids, f"sequence {number}: wanted {wanted}")
        if self.ids.dim() != 1 + layout.grid or (layout.grid and len(self.ids) != count):
            raise self._wrong(f"the layout {layout.name!r} wants {wanted}, not {list(self.ids.shape)}")

    def tokens(self) -> Tensor:
        """Tokens [K, F].

        Raises:
            InputError: an id too few or too many, one that is no code of the codebook whose turn it is, or a special
                id that is missing or misplaced.
        """
        layout, length = self.layout, self.ids.shape[-1]
        self._check_special(layout.prefix, 0)
        self._check_special(layout.suffix, length - len(layout.suffix))
        frames = self._num_frames()
        body = self.ids[..., len(layout.prefix) : length - len(layout.suffix)]
        slots = layout.slots(frames).to(body.device)
        codebooks = slots.clamp(min=0) // max(frames, 1)
        codes = body - slots.new_tensor(layout.vocabulary.starts)[codebooks]
        inside = (codes >= 0) & (codes < slots.new_tensor(layout.vocabulary.codebook_sizes)[codebooks])
        filling = torch.where(slots == BEFORE, *layout.fill_ids)
        misfits = (~torch.where(slots >= 0, inside, body == filling)).nonzero()
        if len(misfits):
            raise self._misfit(misfits[0].tolist(), int(slots[tuple(misfits[0])]), frames)
        tokens = codes.new_empty(layout.spec.num_codebooks * frames)
        tokens[slots[slots >= 0]] = codes[slots >= 0]
        return tokens.view(layout.spec.num_codebooks, frames)

    def _check_special(self, names: tuple[str, ...], first: int) -> None:
        vocabulary, length = self.layout.vocabulary, self.ids.shape[-1]
        for place, name in enumerate(names, first):
            wanted = f"{name!r} (id {vocabulary.special_id(name)})"
            if not 0 <= place < length:
                raise self._wrong(f"{length} ids are too few: wanted {wanted} too")
            for row, found in enumerate(self.ids[..., place].reshape(-1).tolist()):
                if found != vocabulary.special_id(name):
                    where = self._where([row, place] if self.layout.grid else [place])
                    raise self._wrong(f"wanted {wanted}, found {vocabulary.describe(found)}", where)

    def _num_frames(self) -> int:
        """The inverse of `Layout.num_ids`."""
        layout, length, count = self.layout, self.ids.shape[-1], self.layout.spec.num_codebooks
        body = length - layout.num_ids(0)
        if body < 0:
            raise self._wrong(f"{length} ids are fewer than the {layout.num_ids(0)} around no frame at all")
        if not layout.grid and body % count:
            beside = f" beside {layout.num_ids(0)} special ones" if layout.num_ids(0) else ""
            raise self._wrong(
                f"{body} ids{beside} are no whole number of frames of {count} codebooks: cut the last "
                f"{body % count}, or give the {count - body % count} that lack"
            )
        return body if layout.grid else body // count

    def _misfit(self, place: list[int], slot: int, frames: int) -> InputError:
        layout, vocabulary = self.layout, self.layout.vocabulary
        place[-1] += len(layout.prefix)
        if slot < 0:
            name = layout.fill[0 if slot == BEFORE else 1]
            wanted = f"{name!r} (id {vocabulary.special_id(name)})"
        else:
            codebook = slot // frames
            start, size = vocabulary.starts[codebook], vocabulary.codebook_sizes[codebook]
            wanted = f"a code of codebook {codebook} (ids {start} to {start + size - 1})"
        found = vocabulary.describe(int(self.ids[tuple(place)]))
        return self._wrong(f"wanted {wanted}, found {found}", self._where(place))

    def _where(self, place: list[int]) -> str:
        return f", row {place[0]}, position {place[1]}" if self.layout.grid else f", position {place[0]}"

    def _wrong(self, what: str, where: str = "") -> InputError:
        return InputError(f"sequence {self.number}{where}: {what}")
