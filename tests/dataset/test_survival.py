"""A run that is killed, starved of disk or moved to other workers gives the rows of one that was not."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import tokens_of

QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def command(source: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "audiotok", "tokenize", str(source), "--out", str(out), "--quiet", *more]


def finish(source: Path, out: Path, *more: str) -> int:
    return subprocess.run(
        command(source, out, *more), env=QUIET, capture_output=True, timeout=100, check=False
    ).returncode


def begin_and_kill(source: Path, out: Path, after: float, *more: str, shard: bool = False) -> bool:
    """Whether the run still went when it was killed, with all processes that it started: `after` seconds from its
    start, or with `shard` from the moment that it wrote one."""
    shards = len(list(out.glob("data/*.parquet")))
    process = subprocess.Popen(
        command(source, out, *more), env=QUIET, start_new_session=True, stderr=subprocess.DEVNULL
    )
    while shard and process.poll() is None and len(list(out.glob("data/*.parquet"))) == shards:
        time.sleep(0.001)
    time.sleep(after)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


def failed_ids(out: Path) -> list[str]:
    lines = (out / "errors.jsonl").read_text().splitlines()
    assert all(json.loads(line)["reason"] for line in lines)
    return sorted(json.loads(line)["id"] for line in lines)


def kill_and_compare(
    source: Path, tmp_path: Path, kills: int, window: tuple[float, float], *, shard: bool = False
) -> int:
    """How many of the kills hit a run that went."""
    assert finish(source, tmp_path / "whole") == 1
    draw = random.Random(0)
    hits = 0
    for i in range(kills):
        workers = ("--num-workers", str(i % 3), "--batch-seconds", str(draw.choice((5, 20))), "--shard-size", "20KB")
        hits += begin_and_kill(source, tmp_path / "killed", draw.uniform(*window), *workers, shard=shard)
    assert finish(source, tmp_path / "killed") == 1
    assert tokens_of(tmp_path / "killed") == tokens_of(tmp_path / "whole")
    assert failed_ids(tmp_path / "killed") == failed_ids(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    return hits


def test_killed_a_few_times(corpus, tmp_path):
    source = corpus(150, corrupt=5, seconds=(1.0, 3.0))
    assert kill_and_compare(source, tmp_path, kills=4, window=(0.0, 0.05), shard=True) >= 3
    assert len(failed_ids(tmp_path / "killed")) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_20_random_moments(corpus, tmp_path):
    source = corpus(600, corrupt=5, seconds=(3.0, 5.0))
    assert kill_and_compare(source, tmp_path, kills=20, window=(0.2, 2.2)) >= 10
    assert len(failed_ids(tmp_path / "killed")) == 5
    assert len(tokens_of(tmp_path / "killed")) == 600


def test_a_disk_that_fills_up(corpus, tmp_path):
    """No file may grow beyond 200 kB: what writing to a full disk does. Then there is room again."""
    source, out = corpus(150, seconds=(1.0, 3.0)), tmp_path / "out"

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    small = [*command(source, out, "--shard-size", "1GB"), "--batch-seconds", "5"]
    full = subprocess.run(small, env=QUIET, capture_output=True, text=True, preexec_fn=no_room, timeout=60, check=False)
    assert full.returncode == 2
    assert "run again to go on" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(out.rglob("*.tmp"))
    assert finish(source, out) == 0
    assert finish(source, tmp_path / "whole") == 0
    assert tokens_of(out) == tokens_of(tmp_path / "whole")


def test_interrupted_with_control_c(corpus, tmp_path):
    """Ends at once, says how to go on, and leaves what was done readable."""
    source, out = corpus(300, seconds=(2.0, 4.0)), tmp_path / "out"
    whole = command(source, out, "--num-workers", "1", "--batch-seconds", "5", "--shard-size", "20KB")
    # What runs in the background of a shell ignores the signal, and hands that on.
    process = subprocess.Popen(
        whole,
        env=QUIET,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(out.glob("data/*.parquet")):  # of the first of some thirty shards
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    stopped = f"{out}: stopped; what is done is there, and the same command goes on from it"
    assert errors.splitlines() == [stopped, "interrupted"]
    done = json.loads((out / "card.json").read_text())
    assert not done["finished"]
    assert 0 < len(tokens_of(out)) == done["counts"]["rows"] < 300
    assert finish(source, out) == 0
    assert len(tokens_of(out)) == 300
