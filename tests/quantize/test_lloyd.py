import pytest
import torch

from audiotok.errors import FitError, InputError
from audiotok.quantize import kmeans
from audiotok.quantize.lloyd import cluster_sums


def blobs(clusters: int = 50, each: int = 40, dim: int = 8, spread: float = 0.01, seed: int = 0):
    """Rows about well separated centres, in random order; the centres; the rows' clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(clusters, dim, generator=generator)
    which = torch.arange(clusters).repeat(each)[torch.randperm(clusters * each, generator=generator)]
    return centres[which] + spread * torch.randn(len(which), dim, generator=generator), centres, which


def mixture(rows: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    """Clusters of very uneven sizes and widths."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(300, dim, generator=generator)
    which = torch.multinomial(torch.rand(300, generator=generator).pow(4), rows, True, generator=generator)
    return centres[which] + torch.rand(rows, 1, generator=generator) * torch.randn(rows, dim, generator=generator)


def distortion(x: torch.Tensor, centroids: torch.Tensor) -> float:
    return torch.cdist(x.double(), centroids.double()).square().amin(1).mean().item()


def test_separated_blobs_are_recovered_exactly():
    x, centres, which = blobs()
    fit = kmeans(x, 50)
    means = torch.stack([x[which == cluster].mean(0) for cluster in range(50)])
    order = torch.cdist(centres, fit.centroids).argmin(1)
    assert sorted(order.tolist()) == list(range(50))
    torch.testing.assert_close(fit.centroids[order], means, atol=1e-5, rtol=0)
    assert fit.counts.tolist() == [40] * 50
    assert fit.distortion == pytest.approx(distortion(x, means), rel=0.02)  # 1e-8 of the squared norms
    assert fit.revived == 0


def test_lloyd_steps_equal_a_loop_over_clusters():
    x = mixture(2000)
    start = x[:20].clone()
    fit = kmeans(x, 20, init=start, iterations=4, rows_per_centroid=None)
    centroids = start.double()
    for _ in range(4):
        found = torch.cdist(x.double(), centroids).argmin(1)
        for cluster in range(20):
            centroids[cluster] = x.double()[found == cluster].mean(0)
    torch.testing.assert_close(fit.centroids.double(), centroids, atol=1e-4, rtol=1e-4)
    assert fit.counts.tolist() == torch.bincount(found, minlength=20).tolist()
    error = (x.double() - centroids[found]).square().sum(1).mean().item()
    assert fit.distortion == pytest.approx(error, rel=1e-5)


def test_a_seed_gives_the_same_centroids_bit_for_bit():
    x = mixture(5000)
    one, same, other = kmeans(x, 64, seed=1), kmeans(x, 64, seed=1), kmeans(x, 64, seed=2)
    assert torch.equal(one.centroids, same.centroids)
    assert one.distortion == same.distortion
    assert not torch.equal(one.centroids, other.centroids)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(kmeans(x, 64, seed=1).centroids, one.centroids)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_start_beats_a_random_one_on_held_out_rows(seed):
    x = mixture(12_000, seed=seed)
    train, test = x[:10_000], x[10_000:]
    ours = kmeans(train, 150, iterations=5, seed=seed)
    random = kmeans(train, 150, iterations=10, init="random", seed=seed)
    assert distortion(test, ours.centroids) < 0.9 * distortion(test, random.centroids)


def test_distortion_falls_with_every_step():
    seen = []
    kmeans(mixture(4000), 64, iterations=6, init="random", progress=lambda step, error: seen.append((step, error)))
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    errors = [error for _, error in seen]
    assert errors == sorted(errors, reverse=True)


def test_fitting_stops_when_nothing_moves():
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    fit = kmeans(x, 2, iterations=100)
    assert fit.iterations < 5
    assert sorted(fit.centroids[:, 0].tolist()) == [0.5, 10.5]
    assert fit.distortion == 0.25


def test_empty_clusters_are_given_far_rows():
    x, centres, _ = blobs(clusters=10, each=30)
    start = torch.cat([centres[:9], torch.full((1, 8), 1e4)])  # the last one is nobody's nearest
    fit = kmeans(x, 10, init=start, iterations=4)
    assert fit.revived == 1
    assert sorted(torch.cdist(centres, fit.centroids).argmin(1).tolist()) == list(range(10))
    assert fit.counts.tolist() == [30] * 10


def test_fewer_different_rows_than_centroids_is_not_an_endless_loop():
    x = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    fit = kmeans(x, 5, iterations=10)
    assert fit.distortion == 0
    assert set(fit.centroids[:, 0].tolist()) == {0.0, 1.0}
    assert fit.counts.sum().item() == 100


def test_as_many_centroids_as_rows_gives_the_rows():
    x = mixture(32)
    fit = kmeans(x, 32)
    assert torch.equal(fit.centroids.sort(0).values, x.sort(0).values)
    assert kmeans(x, 1).centroids[0].tolist() == pytest.approx(x.mean(0).tolist(), abs=1e-5)


def test_cosine_gives_unit_centroids_whatever_the_length_of_the_rows():
    x = mixture(2000)
    lengths = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    one, other = kmeans(x, 20, cosine=True), kmeans(lengths * x, 20, cosine=True)
    torch.testing.assert_close(one.centroids.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(one.centroids, other.centroids, atol=1e-5, rtol=0)
    assert 0 < one.distortion < 2


def test_only_a_sample_of_the_rows_is_used_and_its_size_is_what_was_asked():
    fit = kmeans(mixture(5000), 10, rows_per_centroid=100)
    assert fit.counts.sum().item() == 1000
    assert kmeans(mixture(5000), 10, rows_per_centroid=None).counts.sum().item() == 5000


def test_sums_of_one_huge_cluster_stay_accurate():
    x = torch.full((3_000_000, 1), 0.1)
    total = cluster_sums(x, torch.zeros(len(x), dtype=torch.long), 1)
    assert total.item() == pytest.approx(3_000_000 * float(x[0, 0]), rel=1e-4)


def test_half_precision_rows_are_fitted_in_float32():
    x, centres, _ = blobs(clusters=8, each=30, spread=0.0)
    fit = kmeans(x.bfloat16(), 8)
    assert fit.centroids.dtype == torch.float32
    assert torch.cdist(centres.bfloat16().float(), fit.centroids).amin(1).max() < 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_fit_errors(bad):
    x = mixture(100)
    x[50, 3] = bad
    with pytest.raises(FitError, match="NaN or infinite values"):
        kmeans(x, 4)


def test_more_centroids_than_rows_is_a_fit_error_with_both_numbers():
    with pytest.raises(FitError, match="30 centroids were asked for, but there are only 20 rows"):
        kmeans(mixture(20), 30)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.zeros(4, 2, 2), {}, r"rows \[N, D\], not \[4, 2, 2\]"),
        (torch.zeros(4, 2, dtype=torch.long), {}, "floating point rows"),
        (torch.zeros(4, 2), {"init": "best"}, 'init must be "k-means'),
        (torch.zeros(4, 2), {"init": torch.zeros(3, 2)}, r"init must be \[2, 2\], not \[3, 2\]"),
        (torch.zeros(4, 2), {"iterations": 0}, "iterations and rows_per_centroid must be at least 1"),
    ],
)
def test_wrong_arguments_are_input_errors(x, arguments, message):
    with pytest.raises(InputError, match=message):
        kmeans(x, 2, **arguments)
