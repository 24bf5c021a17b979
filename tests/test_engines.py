import pytest
import torch

from audiotok.errors import FitError, InputError, MissingDependencyError
from audiotok.fit import engines
from audiotok.fit.engines import fit_centroids
from audiotok.quantize import kmeans

BOTH = pytest.mark.parametrize("engine", ["faiss", "torch"])


def mixture(rows: int = 12_000, dim: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(300, dim, generator=generator)
    which = torch.multinomial(torch.rand(300, generator=generator).pow(4), rows, True, generator=generator)
    return centres[which] + torch.rand(rows, 1, generator=generator) * torch.randn(rows, dim, generator=generator)


def distortion(x: torch.Tensor, centroids: torch.Tensor) -> float:
    return torch.cdist(x.double(), centroids.double()).square().amin(1).mean().item()


def fit(x: torch.Tensor, engine: str, k: int = 100, seed: int = 0, **options) -> torch.Tensor:
    return fit_centroids(x, k, engine=engine, iterations=3, seed=seed, **options)


@BOTH
def test_both_engines_end_lower_than_plain_lloyd_with_as_many_steps(engine):
    x = mixture()
    plain = kmeans(x, 100, iterations=10, rows_per_centroid=None)
    assert distortion(x, fit(x, engine)) < 0.99 * plain.distortion


@BOTH
def test_restarts_never_end_higher_and_one_is_the_first_of_several(engine):
    x = mixture(5000)
    judged = x[::4]  # 5000 rows, of which at most 64 · 20
    alone = [distortion(judged, fit(x, engine, 20, number * 1_000_003)) for number in range(4)]
    best = distortion(judged, fit(x, engine, 20, restarts=4))
    assert best == pytest.approx(min(alone), rel=1e-6)
    assert torch.equal(fit(x, engine, 20), fit(x, engine, 20, restarts=1))


@BOTH
def test_spherical_centroids_have_unit_length_and_ignore_that_of_the_rows(engine):
    x = mixture(5000)
    found = fit(x, engine, 50, spherical=True)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50))
    lengths = torch.rand(5000, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    similar = torch.nn.functional.normalize(x, dim=1) @ found.t()
    other = torch.nn.functional.normalize(x, dim=1) @ fit(lengths * x, engine, 50, spherical=True).t()
    assert other.amax(1).mean().item() == pytest.approx(similar.amax(1).mean().item(), rel=2e-3)
    plain = torch.nn.functional.normalize(fit(x, engine, 50), dim=1)
    cosine = torch.nn.functional.normalize(x, dim=1) @ plain.t()
    assert similar.amax(1).mean() > cosine.amax(1).mean()


@BOTH
def test_progress_counts_the_steps_of_all_restarts(engine):
    seen: list[tuple[int, float]] = []
    x = mixture(3000)
    found = fit(x, engine, 20, restarts=2, progress=lambda *step: seen.append(step))
    assert seen[-1][0] == 6
    assert distortion(x, found) == pytest.approx(min(seen[-1][1], dict(seen)[3]), rel=0.02)


@BOTH
@pytest.mark.parametrize("place", [0, 2999])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_fit_errors_wherever_they_are(engine, place, bad):
    x = mixture(3000)
    x[place, 3] = bad
    with pytest.raises(FitError, match="NaN or infinite values"):
        fit(x, engine, 4)


@BOTH
def test_all_centroids_are_used_where_the_rows_allow(engine):
    x = mixture(6000)
    x[:5000] = x[0]  # one row again and again: a random start would put most centroids there
    assert len(torch.cdist(x, fit(x, engine, 60)).argmin(1).unique()) == 60


def test_faiss_revives_empty_clusters():
    x = mixture(3000)
    start = torch.cat([x[:20], torch.full((3, 16), 1e3)])
    found = engines._faiss_steps(x, start, 5, False, lambda step, value: None)
    assert len(torch.cdist(x, found).argmin(1).unique()) == 23


def test_faiss_without_cuda_is_an_error_there_and_not_a_slow_fall_back():
    class CpuOnly:
        pass

    with pytest.raises(MissingDependencyError, match=r"pip install 'audiotok\[faiss-gpu\]' instead of faiss-cpu"):
        engines._faiss_gpu(CpuOnly, torch.device("cuda"))
    assert engines._faiss_gpu(CpuOnly, torch.device("cpu")) is False


@pytest.mark.parametrize("options", [{"iterations": 0, "restarts": 1}, {"iterations": 1, "restarts": 0}])
def test_no_steps_or_starts_are_input_errors(options):
    with pytest.raises(InputError, match="iterations and restarts must be at least 1"):
        fit_centroids(mixture(100), 2, engine="torch", seed=0, **options)
