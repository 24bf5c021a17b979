"""Codes of random tokenizers, for tests of anything that has an inverse."""

import torch
from hypothesis import strategies as st

from audiotok import Codes, Spec


@st.composite
def specs(draw: st.DrawFn, max_size: int = 40) -> Spec:
    """1 to 9 codebooks of 1 to `max_size` entries, with or without levels of rows."""
    sizes = draw(st.lists(st.integers(1, max_size), min_size=1, max_size=9))
    levels = draw(st.one_of(st.just([]), st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes))))
    return Spec("any", 1000, draw(st.integers(1, 50)), tuple(sizes), row_levels=tuple(sorted(levels)))


@st.composite
def batches(draw: st.DrawFn, of: st.SearchStrategy[Spec] | None = None, *, min_frames: int = 0) -> Codes:
    """1 to 4 ragged rows of 0 to 12 frames; padding holds codes too, which nothing may look at."""
    spec = draw(specs() if of is None else of)
    lengths = torch.tensor(draw(st.lists(st.integers(min_frames, 12), min_size=1, max_size=4)))
    frames = int(lengths.max()) + draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Often the same code, so that there are runs.
    rows = [
        torch.randint(0, min(size, 1000), (len(lengths), frames), generator=generator) for size in spec.codebook_sizes
    ]
    tokens = torch.stack(rows, 1) * (torch.rand(len(lengths), 1, frames, generator=generator) < 0.6)
    return Codes(tokens, lengths, lengths * spec.hop_length - draw(st.integers(0, 1)) * (lengths > 0), spec, "finger")


def valid(codes: Codes) -> list[list[list[int]]]:
    """The tokens of each row without padding."""
    return [row.tokens[0].tolist() for row in codes]
