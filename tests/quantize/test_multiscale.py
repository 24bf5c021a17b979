import pytest
import torch

from audiotok.errors import InputError
from audiotok.quantize import MultiScaleRVQ, VQOptions, pack_levels, unpack_levels

from .everything import frames

FRESH = VQOptions(kmeans_init=False, revive_below=0)


@pytest.mark.parametrize("rates", [(1,), (1, 2, 4), (1, 1), (1, 3, 6), (4, 2, 1)])
def test_packing_and_unpacking_are_inverse(rates):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randint(0, 1000, (2, rate * 5), generator=generator) for rate in rates]
    packed = pack_levels(levels, rates)
    assert packed.shape == (2, sum(rates), 5)
    for level, back in zip(levels, unpack_levels(packed, rates), strict=True):
        assert torch.equal(level, back)
    assert torch.equal(pack_levels(unpack_levels(packed, rates), rates), packed)


def test_rows_go_level_by_level_and_ascend_in_time():
    levels = [torch.tensor([[1, 2]]), torch.tensor([[10, 11, 12, 13]]), torch.arange(100, 108)[None]]
    packed = pack_levels(levels, (1, 2, 4))
    assert packed[0, :, 0].tolist() == [1, 10, 11, 100, 101, 102, 103]
    assert packed[0, :, 1].tolist() == [2, 12, 13, 104, 105, 106, 107]


def test_packing_no_frames_gives_no_frames():
    packed = pack_levels([torch.zeros(3, 0), torch.zeros(3, 0)], (1, 2))
    assert packed.shape == (3, 3, 0)
    assert [level.shape for level in unpack_levels(packed, (1, 2))] == [(3, 0), (3, 0)]


def test_levels_that_do_not_fit_are_input_errors():
    with pytest.raises(InputError, match=r"rates \[1, 2\] need levels \[B, rate · F\], not \[\[1, 3\], \[1, 5\]\]"):
        pack_levels([torch.zeros(1, 3), torch.zeros(1, 5)], (1, 2))
    with pytest.raises(InputError, match="need levels"):
        pack_levels([torch.zeros(1, 3)], (1, 2))
    with pytest.raises(InputError, match=r"rates \[1, 2\] need \[B, 3, F\] tokens, not \[1, 4, 5\]"):
        unpack_levels(torch.zeros(1, 4, 5), (1, 2))


def test_levels_are_pooled_searched_and_repeated_as_by_hand():
    quantizer = MultiScaleRVQ(8, 16, (4, 2, 1), options=FRESH).eval()
    x = frames(2, 12)
    tokens = quantizer.encode(x)
    residual, total = x, torch.zeros_like(x)
    for level, (stride, found) in enumerate(zip((4, 2, 1), quantizer.unpack(tokens), strict=True)):
        pooled = torch.nn.functional.avg_pool1d(residual, stride, stride)
        table = quantizer.layer(level).codebooks[0]
        nearest = (pooled.transpose(1, 2)[:, :, None] - table).square().sum(3).argmin(2)
        assert torch.equal(found, nearest)
        repeated = table[nearest].transpose(1, 2).repeat_interleave(stride, 2)
        residual, total = residual - repeated, total + repeated
    torch.testing.assert_close(quantizer.decode(tokens), total)
    torch.testing.assert_close(quantizer.decode(tokens[:, :3]), quantizer.decode(quantizer.encode(x, num_codebooks=3)))


def test_a_pooled_frame_counts_when_all_its_frames_are_valid():
    quantizer = MultiScaleRVQ(8, 16, (4, 2, 1), options=FRESH).train()
    mask = torch.ones(1, 8, dtype=torch.bool)
    mask[0, 5:] = False
    quantizer(frames(1, 8), mask)
    uses = [quantizer.layer(level).book().uses.sum().item() for level in range(3)]
    assert uses == pytest.approx([16 * 0.99 + 0.01 * counted for counted in (1, 2, 5)], rel=1e-5)


def test_lengths_and_rows_that_do_not_fit_are_input_errors():
    quantizer = MultiScaleRVQ(8, 16, (4, 2, 1))
    with pytest.raises(InputError, match="13 frames are not a multiple of the largest stride, 4: pad 3 frames before"):
        quantizer.encode(frames(1, 13))
    with pytest.raises(InputError, match=r"the levels end after \[1, 3, 7\] rows of tokens; 2 rows cut one in two"):
        quantizer.decode(torch.zeros(1, 2, 3, dtype=torch.long))
    with pytest.raises(InputError, match=r"every stride must divide the largest one: \[4, 3\]"):
        MultiScaleRVQ(8, 16, (4, 3))


def test_every_level_may_have_a_codebook_of_its_own_size():
    quantizer = MultiScaleRVQ(8, (5, 9, 16), (4, 2, 1), options=FRESH).eval()
    assert quantizer.codebook_sizes == (5, 9, 9, 16, 16, 16, 16)
    assert [len(book) for book in quantizer.codebooks] == [5, 9, 9, 16, 16, 16, 16]
    tokens = quantizer.encode(frames(4, 200))
    assert tokens.amax((0, 2)).tolist() == [4, 8, 8, 15, 15, 15, 15]
    assert quantizer.decode(tokens).shape == (4, 8, 200)
    with pytest.raises(InputError, match="3 levels need as many codebook sizes, not 2"):
        MultiScaleRVQ(8, (5, 9), (4, 2, 1))
