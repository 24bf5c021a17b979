import pytest
import torch

from audiotok.errors import FitError, InputError
from audiotok.quantize import kmeans
from audiotok.quantize.minibatch import MiniBatchKMeans

from .test_lloyd import distortion, mixture

SMALL = {"batch_rows": 500, "sample_rows": 6000}


def streamed(x: torch.Tensor, k: int = 40, chunk: int = 333, **options) -> MiniBatchKMeans:
    stream = MiniBatchKMeans(k, x.shape[1], **{**SMALL, **options})
    for piece in x.split(chunk):
        stream.add(piece)
    return stream


@pytest.mark.parametrize("order", ["random", "sorted"])
def test_one_pass_is_within_one_percent_of_lloyd_in_any_order(order):
    x = mixture(24_000)
    rows = x if order == "random" else x[x[:, 0].argsort()]
    ours = distortion(x, streamed(rows).centroids())
    assert ours <= 1.01 * distortion(x, kmeans(x, 40, iterations=10, rows_per_centroid=None).centroids)


@pytest.mark.parametrize("chunk", [1, 499, 500, 5000])
def test_how_rows_are_cut_does_not_matter(chunk):
    x = mixture(2200)
    assert torch.equal(streamed(x, chunk=chunk).centroids(2), streamed(x, chunk=2200).centroids(2))


@pytest.mark.parametrize("stopped_at", [0, 100, 700, 3210])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(stopped_at):
    x = mixture(7000)
    whole = streamed(x)
    first = streamed(x[:stopped_at]) if stopped_at else MiniBatchKMeans(40, 16, **SMALL)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    second = MiniBatchKMeans(40, 16, **SMALL)
    second.load_state_dict(saved)
    for piece in x[stopped_at:].split(210):
        second.add(piece)
    assert second.seen == whole.seen == 7000
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert torch.equal(whole.centroids(), second.centroids())


def test_asking_for_centroids_changes_nothing():
    x = mixture(3000)
    stream, other = streamed(x[:1700]), streamed(x[:1700])
    stream.centroids()
    for one in (stream, other):
        one.add(x[1700:])
    assert torch.equal(stream.centroids(), other.centroids())


def test_the_sample_is_uniform_over_the_stream_and_holds_no_row_twice():
    counts = torch.zeros(10)
    for seed in range(200):
        stream = MiniBatchKMeans(1, 1, seed=seed, batch_rows=64, sample_rows=50)
        stream.add(torch.arange(1024.0)[:, None])
        rows = stream.state_dict()["sample"][:, 0]
        assert len(rows.unique()) == 50
        counts += torch.histc(rows, 10, 0, 1024)
    assert float((counts - 1000).abs().max()) < 150  # five standard deviations


def test_memory_does_not_grow_with_the_stream():
    short, long = streamed(mixture(8000)), streamed(mixture(40_000))
    sizes = [sum(v.numel() for name, v in s.state_dict().items() if name != "waiting") for s in (short, long)]
    assert sizes[0] == sizes[1]
    assert len(long.state_dict()["waiting"]) < 500


def test_cosine_ignores_lengths_and_gives_unit_centroids():
    x = mixture(4000)
    found = streamed(x, cosine=True).centroids()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(found, streamed(8 * x, cosine=True).centroids())


def test_wrong_rows_and_states_are_errors_and_teach_nothing():
    stream = MiniBatchKMeans(4, 2)
    with pytest.raises(InputError, match=r"rows \[N, 2\], not \[3, 3\]"):
        stream.add(torch.zeros(3, 3))
    with pytest.raises(FitError, match="NaN or infinite"):
        stream.add(torch.full((3, 2), torch.nan))
    assert stream.seen == 0
    with pytest.raises(FitError, match="4 centroids were asked for, but there are only 0 rows"):
        stream.centroids()
    with pytest.raises(InputError, match="sample_rows at least k"):
        MiniBatchKMeans(4, 2, sample_rows=3)
    with pytest.raises(InputError, match=r"the state lacks \['counts'\]"):
        stream.load_state_dict({name: value for name, value in stream.state_dict().items() if name != "counts"})
    with pytest.raises(InputError, match="made with another k"):
        stream.load_state_dict({**stream.state_dict(), "sample": torch.zeros(5, 3)})
