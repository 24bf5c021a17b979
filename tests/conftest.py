"""Shared by all tests: real clips, and a small tokenizer fitted on them once.

The suite runs in one process or, with pytest-xdist, in several: what the processes must share is at the end.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

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
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray, with two CPUs of this machine: one cluster at a time, also where several processes run the tests."""
    import ray

    # Each process has a folder of its own in the one of the run. A lock ends with the process that holds it.
    with FileLock(tmp_path_factory.getbasetemp().parent / "ray.lock"), warnings.catch_warnings():
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
    """Writes docs/parity.md after a whole, green run: not after `pytest some/file` or `-k something`.

    A process of pytest-xdist has run a part of the suite: it hands on what its part recorded.
    """
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity_table"] = _TABLE.packed()
        return
    whole = _TABLE.complete and [str(path) for path in session.config.args] == session.config.getini("testpaths")
    chosen = (
        session.config.option.keyword or getattr(session.config.option, "lf", False) or session.config.option.deselect
    )
    if exitstatus == 0 and whole and not chosen and session.config.option.markexpr == "not slow" and _TABLE.fixtures:
        _TABLE.write()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Takes over what a process of pytest-xdist recorded. One that crashed hands on nothing, and no page is written."""
    output = getattr(node, "workeroutput", None)
    _TABLE.merge(output["parity_table"] if output else None)
