"""Shared by all tests: real clips, and a small tokenizer fitted on them once."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.ssl.logmel_kmeans import LogMelKMeans
from tests.parity_table import ParityTable

AUDIO = Path(__file__).parent / "data" / "audio"


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Real speech, music and effects; 16 and 44.1 kHz, mono and stereo."""
    found = sorted(AUDIO.glob("*.flac"))
    assert len(found) == 14
    return found


@pytest.fixture(scope="session")
def speech() -> list[torch.Tensor]:
    """Three rows [1, T_i] of real 16 kHz speech, 2.7 s, 2.2 s and 1.9 s."""
    return [audiotok.audio.load(AUDIO / f"speech_{name}.flac")[0] for name in ("en_1", "fr_2", "it_2")]


@pytest.fixture(scope="session")
def small(clips: list[Path]) -> LogMelKMeans:
    """Three codebooks of 32 log-mel centroids, fitted on the clips. Treat as read-only."""
    return audiotok.fit_kmeans(clips, k=32, num_codebooks=3, iterations=4, engine="torch", progress=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, with two CPUs of this machine."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield
        ray.shutdown()


_TABLE = ParityTable()


@pytest.fixture(scope="session")
def parity_table() -> ParityTable:
    """Where tests record what docs/parity.md shows."""
    return _TABLE


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes docs/parity.md after a whole, green run: not after `pytest some/file` or `-k something`."""
    whole = [str(path) for path in session.config.args] == session.config.getini("testpaths")
    chosen = (
        session.config.option.keyword or getattr(session.config.option, "lf", False) or session.config.option.deselect
    )
    if exitstatus == 0 and whole and not chosen and session.config.option.markexpr == "not slow" and _TABLE.fixtures:
        _TABLE.write()
