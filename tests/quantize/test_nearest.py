import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from audiotok.quantize import FSQ, LFQ, KMeansQuantizer, ResidualVQ, SearchTable, VectorQuantizer, screen
from audiotok.quantize.nearest import nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """A second implementation: float64 distances, lowest index first; equal to 1e-13 is a tie."""
    distances = (x.double()[:, None] - codebook.double()[None]).square().sum(2)
    best, norms = distances.amin(1, keepdim=True), x.double().norm(dim=1, keepdim=True)
    limit = norms + best.sqrt()  # an entry as near as the best one is no longer than that
    near = distances <= best + 2e-13 * limit * (norms + limit)
    return torch.where(near, torch.arange(len(codebook)), len(codebook)).amin(1)


class Largest(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.fixture(params=["bfloat16 first", "float32"], autouse=True)
def first_pass(request, monkeypatch):
    """Every claim holds with the bfloat16 pass and without it, whatever this CPU would choose."""
    screened = request.param == "bfloat16 first"
    monkeypatch.setattr(screen, "fast_bfloat16", lambda: screened)
    return screened


def hard_cases() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Rows and codebooks that try the error bounds."""
    x, book = normal(400, 48), normal(512, 48, seed=1)
    shades = book[:8].repeat(64, 1) * (1 + 1e-3 * normal(512, 1, seed=2))  # bundles of nearly equal entries
    shifted = 100 + 0.01 * book  # far from zero: scores differ in their last digits only
    outlier = book.clone()
    outlier[300] = 1e5
    sorted_rows = book[:400] + 1e-3 * x
    return {
        "plain": (x, book),
        "bundles": (x, shades),
        "bundles of their own rows": (shades[:400] * 1.0005, shades),
        "shifted": (100 + 0.01 * x, shifted),
        "outlier": (x, outlier),
        "small residuals": (1e-3 * x, book),
        "large rows": (1e4 * x, book),
        "tiny": (1e-9 * x, 1e-9 * book),
        "products underflow in part": (3e-20 * x, 1e-19 * book),
        "products underflow": (1e-25 * x, 1e-25 * book),
        "tiny rows": (1e-38 * x, book),
        "huge": (1e15 * x, 1e15 * book),
        "one scale per entry": (x, book * torch.logspace(-6, 6, 512)[:, None]),
        "near an entry": (sorted_rows, book),
        "half-way": ((book[:400] + book[100:500]) / 2, book),
        "integers": ((3 * x).round(), (3 * book).round()),
        "few values": (x.sign(), book.sign()),
        "zero rows": (torch.zeros(400, 48), book),
    }


@pytest.mark.parametrize("case", hard_cases())
def test_search_is_exact_on_hard_cases(case, first_pass):
    x, codebook = hard_cases()[case]
    table = SearchTable.of(codebook)
    if not first_pass:
        assert table.coarse is None
    elif case != "huge" and "underflow" not in case:
        assert table.coarse is not None
    assert torch.equal(nearest(x, table), brute(x, codebook))


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
    codebook = normal(400, 48, seed=1)
    codebook[300:] = codebook[:100]
    x = normal(400, 48)
    found = nearest(x, SearchTable.of(codebook))
    assert found.max() < 300
    assert torch.equal(found, brute(x, codebook))
    for same in (0.0, 3.0):
        assert torch.equal(nearest(x, SearchTable.of(torch.full((300, 48), same))), torch.zeros(400, dtype=torch.long))


def test_rows_and_chunks_do_not_change_the_answer():
    x, table = normal(1000, 48), SearchTable.of(normal(300, 48, seed=1))
    found = nearest(x, table)
    for budget in (1, 4 * 320, 4 * 320 * 7, 4 * 320 * 100, 1 << 20):
        assert torch.equal(nearest(x, table, max_bytes=budget), found)
    assert torch.equal(torch.cat([nearest(row[None], table) for row in x[:50]]), found[:50])


def test_rows_that_are_not_finite_find_an_entry_that_exists():
    x = torch.full((100, 48), torch.nan)
    x[1] = torch.inf
    found = nearest(x, SearchTable.of(normal(1000, 48)))
    assert bool((found >= 0).all())
    assert bool((found < 1000).all())


def test_no_matrix_exceeds_the_budget_even_if_every_row_is_a_tie():
    for codebook in (normal(512, 48, seed=1), torch.zeros(512, 48), torch.ones(512, 48)):
        table, x = SearchTable.of(codebook), normal(2000, 48)
        with Largest() as largest:
            nearest(x, table, max_bytes=1 << 19)
        assert largest.bytes <= 1 << 19  # all scores would be 4 MB


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
