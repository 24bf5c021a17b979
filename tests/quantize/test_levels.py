import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize.levels import pack, unpack


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.integers(1, 6), max_size=4), st.integers(1, 7), st.integers(0, 3), st.integers(0, 2**31))
def test_packing_and_unpacking_are_inverse(finer, frames, batch, seed):
    rows = [1, *finer]
    row_levels = [level for level, count in enumerate(rows) for _ in range(count)]
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randint(0, 4096, (batch, count * frames), generator=generator) for count in rows]
    tokens = pack(levels)
    assert tokens.shape == (batch, sum(rows), frames)
    back = unpack(tokens, row_levels)
    assert len(back) == len(levels)
    assert all(torch.equal(one, other) for one, other in zip(levels, back, strict=True))
    assert torch.equal(pack(unpack(tokens, row_levels)), tokens)


def test_a_frame_holds_the_codes_of_one_stretch_of_time_coarse_ones_first():
    tokens = pack([torch.tensor([[1, 2]]), torch.tensor([[10, 11, 12, 13]]), torch.arange(100, 108)[None]])
    assert tokens[0].T.tolist() == [[1, 10, 11, 100, 101, 102, 103], [2, 12, 13, 104, 105, 106, 107]]


def test_without_levels_every_row_is_one():
    tokens = torch.arange(6).view(1, 3, 2)
    assert [level.tolist() for level in unpack(tokens, ())] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_the_first_levels_alone_unpack():
    tokens = torch.arange(14).view(1, 7, 2)
    row_levels = (0, 1, 1, 2, 2, 2, 2)
    whole, some = unpack(tokens, row_levels), unpack(tokens[:, :3], row_levels[:3])
    assert [level.tolist() for level in some] == [level.tolist() for level in whole[:2]]


def test_what_does_not_fit_is_an_input_error():
    with pytest.raises(InputError, match="the first level needs at least one code"):
        pack([])
    with pytest.raises(InputError, match="the first level needs at least one code"):
        pack([torch.zeros(1, 0), torch.zeros(1, 4)])
    with pytest.raises(InputError, match=r"rates \[1, 1\] need levels .* not \[\[1, 3\], \[1, 4\]\]"):
        pack([torch.zeros(1, 3), torch.zeros(1, 4)])
    with pytest.raises(InputError, match=r"row_levels must ascend, not \[1, 0\]"):
        unpack(torch.zeros(1, 2, 3), (1, 0))
    with pytest.raises(InputError, match=r"need \[B, 3, F\] tokens, not \[1, 2, 3\]"):
        unpack(torch.zeros(1, 2, 3), (0, 1, 1))
