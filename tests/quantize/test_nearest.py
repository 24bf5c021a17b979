import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from audiotok.quantize import FSQ, LFQ, KMeansQuantizer, ResidualVQ, SearchTable, VectorQuantizer
from audiotok.quantize.nearest import nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """A second implementation: float64 distances, lowest index first."""
    return (x.double()[:, None] - codebook.double()[None]).square().sum(2).argmin(1)


class Largest(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("size", [1, 2, 31, 127, 128, 129, 1000, 1024])
@pytest.mark.parametrize("dim", [1, 8, 65])
def test_search_equals_float64_distances(size, dim):
    x, codebook = normal(300, dim), normal(size, dim, seed=1)
    assert torch.equal(nearest(x, SearchTable.of(codebook)), brute(x, codebook))


def test_search_is_exact_when_one_outlier_dwarfs_all_other_entries():
    codebook = normal(256, 16, seed=1)
    codebook[7] = 1e4
    x = torch.cat([normal(500, 16) * 1e-2, normal(500, 16), codebook[7:8] * 1.0001])
    assert torch.equal(nearest(x, SearchTable.of(codebook)), brute(x, codebook))


def test_near_ties_are_decided_as_in_float64():
    codebook = normal(64, 32, seed=1)
    middle = (codebook[:32] + codebook[32:]) / 2  # half-way between two entries, up to rounding
    x = torch.cat([middle, middle + 1e-7 * normal(32, 32, seed=2)])
    assert torch.equal(nearest(x, SearchTable.of(codebook)), brute(x, codebook))


def test_equal_entries_give_the_lowest_index():
    codebook = normal(200, 16, seed=1)
    codebook[150:] = codebook[:50]
    x = normal(400, 16)
    found = nearest(x, SearchTable.of(codebook))
    assert found.max() < 150
    assert torch.equal(nearest(x, SearchTable.of(torch.zeros(300, 16))), torch.zeros(400, dtype=torch.long))


def test_rows_and_chunks_do_not_change_the_answer():
    x, table = normal(1000, 48), SearchTable.of(normal(300, 48, seed=1))
    found = nearest(x, table)
    for budget in (1, 4 * 320, 4 * 320 * 7, 1 << 20):
        assert torch.equal(nearest(x, table, max_bytes=budget), found)
    assert torch.equal(torch.cat([nearest(row[None], table) for row in x[:50]]), found[:50])


def test_rows_that_are_not_finite_find_an_entry_that_exists():
    x = torch.full((3, 8), torch.nan)
    x[1] = torch.inf
    found = nearest(x, SearchTable.of(normal(1000, 8)))
    assert bool((found >= 0).all())
    assert bool((found < 1000).all())


def test_no_matrix_exceeds_the_budget_even_if_every_row_is_a_tie():
    for codebook in (normal(512, 8, seed=1), torch.zeros(512, 8)):
        table, x = SearchTable.of(codebook), normal(5000, 8)
        with Largest() as largest:
            nearest(x, table, max_bytes=1 << 18)
        assert largest.bytes <= 1 << 18  # all scores would be 10 MB


@pytest.mark.parametrize(
    "make",
    [
        lambda: KMeansQuantizer([normal(2048, 4, seed=stage) for stage in range(2)]),
        lambda: ResidualVQ(4, 2048, 2),
        lambda: VectorQuantizer(4, 2048),
        lambda: LFQ(12, 2**12),
        lambda: FSQ([8, 8, 8, 8]),
    ],
)
def test_no_quantizer_makes_a_frames_by_codebook_matrix(make):
    quantizer = make()
    x = normal(1, quantizer.dim, 20_000)
    whole = 4 * 20_000 * quantizer.codebook_sizes[0]  # bytes of all scores: 164 MB and more
    for train in (True, False):
        quantizer.train(train)
        with Largest() as largest:
            result = quantizer(x)
        assert result.tokens.shape[2] == 20_000
        assert largest.bytes <= whole / 8
        assert largest.bytes <= 20 << 20
