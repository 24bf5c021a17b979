import torch

from audiotok.quantize import kmeans
from audiotok.quantize.rows import Rows, add_by_cluster, count_of, sorted_sums
from audiotok.quantize.split_merge import split_merge

from .test_lloyd import blobs, distortion, mixture


def assigned(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cluster of each row, and the means of the clusters."""
    found = torch.cdist(x, centroids).argmin(1)
    means = [x[found == j].mean(0) if (found == j).any() else centroids[j] for j in range(len(centroids))]
    return found, torch.stack(means)


def test_a_centroid_too_many_goes_where_one_is_missing():
    x, centres, _ = blobs(clusters=10, each=30)
    start = torch.cat([centres[:9], centres[:1] + 0.001])  # blob 0 has two, blob 9 none
    found, means = assigned(x, start)
    after, swaps = split_merge(Rows(x), found, means)
    assert swaps == 1
    assert distortion(x, after) < 0.01 * distortion(x, means)


def test_a_round_never_raises_the_error():
    for seed in range(5):
        x = mixture(3000, seed=seed)
        found, means = assigned(x, x[:60])
        after, swaps = split_merge(Rows(x), found, means)
        assert swaps > 0
        assert distortion(x, after) < distortion(x, means)


def test_empty_clusters_are_revived():
    x = mixture(1000)
    found, means = assigned(x, torch.cat([x[:20], torch.full((3, 16), 1e4)]))
    after, swaps = split_merge(Rows(x), found, means)
    assert swaps >= 3
    assert len(torch.cdist(x, after).argmin(1).unique()) == 23


def test_nothing_to_gain_leaves_the_centroids_alone():
    x = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    found, means = assigned(x, torch.tensor([[0.0], [1.0]]))
    after, swaps = split_merge(Rows(x), found, means)
    assert swaps == 0
    assert torch.equal(after, means)


def test_swaps_end_lower_than_as_many_plain_steps():
    x = mixture(12_000)
    plain = kmeans(x, 150, iterations=8, rows_per_centroid=None)
    swapped = kmeans(x, 150, iterations=8, rows_per_centroid=None, swap_rounds=6)
    assert swapped.distortion < 0.98 * plain.distortion


def test_rows_far_from_the_origin_do_not_drift_over_ten_million():
    x = torch.randn(10_000_000, 1, generator=torch.Generator().manual_seed(0)).add_(3e4)
    fit = kmeans(x, 2, init=torch.tensor([[2.9999e4], [3.0001e4]]), iterations=1, rows_per_centroid=None)
    wide = x.double()
    for found, side in zip(fit.centroids.double(), (wide < 3e4, wide > 3e4), strict=True):
        assert abs(float(found[0] - wide[side].mean())) < 4e-3  # one unit in the last place of 3e4 in float32
    assert abs(fit.distortion - (1 - 2 / torch.pi)) < 2e-3


def test_sums_by_cluster_are_those_of_float64():
    x = mixture(20_000)
    index = torch.arange(20_000) % 7
    total = torch.zeros(7, 16, dtype=torch.float64)
    add_by_cluster(total, x, index)
    wanted = torch.zeros(7, 16, dtype=torch.float64).index_add_(0, index, x.double())
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-2)
    sums = sorted_sums(x, index, 9)  # what CUDA does
    torch.testing.assert_close(sums[:7].double(), wanted, rtol=1e-5, atol=1e-2)
    assert not sums[7:].any()
    assert torch.equal(count_of(index, 9), torch.bincount(index, minlength=9))
