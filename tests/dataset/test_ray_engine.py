"""Ray on this machine: the rows of the local engine, also when an actor is killed half-way."""

import os
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest

import audiotok
from audiotok.cluster import _sizes
from audiotok.errors import InputError

from .conftest import tokens_of


def run(tok, source, out, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audiotok.tokenize_dataset(tok, source, out, progress=False, **options)


def test_the_same_rows_as_the_local_engine(cluster, small, corpus, tmp_path):
    source = corpus(60, corrupt=5)
    run(small, source, tmp_path / "local", num_workers=0)
    report = run(small, source, tmp_path / "ray", engine="ray", batch_seconds=5)
    assert (report.rows, report.failed, report.finished) == (60, 5, True)
    assert tokens_of(tmp_path / "ray") == tokens_of(tmp_path / "local")
    errors = [(tmp_path / name / "errors.jsonl").read_text() for name in ("local", "ray")]
    assert errors[0] == errors[1]


def test_begun_by_one_engine_ended_by_the_other(cluster, small, corpus, tmp_path, monkeypatch):
    from audiotok.dataset import tokenizing

    source, out = corpus(40), tmp_path / "out"

    def some(encode):
        def stopped(*args, **kwargs):
            for i, encoded in enumerate(encode(*args, **kwargs)):
                if i == 3:
                    raise KeyboardInterrupt
                yield encoded

        return stopped

    with monkeypatch.context() as patch:
        patch.setattr(tokenizing, "_COMMIT_SECONDS", 0.0)
        patch.setattr(tokenizing, "encode_batches", some(tokenizing.encode_batches))
        with pytest.raises(KeyboardInterrupt):
            run(small, source, out, num_workers=0, batch_seconds=3)
    done = len(tokens_of(out))
    assert 0 < done < 40
    report = run(small, source, out, engine="ray", batch_seconds=3)
    assert (report.done_before, report.rows) == (done, 40)


def test_an_actor_that_is_killed_loses_nothing(cluster, corpus, tmp_path):
    tok, source = audiotok.load(), corpus(120, seconds=(2.0, 4.0))
    killed = []

    def kill_an_actor() -> None:
        while not killed:
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and b"MapWorker" in _command_line(process):
                    time.sleep(0.3)
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(process)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_an_actor, daemon=True)
    thread.start()
    report = run(tok, source, tmp_path / "ray", engine="ray", batch_seconds=5)
    thread.join(1)
    assert killed
    assert (report.rows, report.failed) == (120, 0)
    run(tok, source, tmp_path / "local", num_workers=0)
    assert tokens_of(tmp_path / "ray") == tokens_of(tmp_path / "local")


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_actors_leave_room_to_read():
    for cpus, gpus in ((2, 0), (3, 0), (64, 0), (8, 8), (16, 8), (1, 0), (1, 1)):
        actors, resources, reading = _sizes({"CPU": cpus, "GPU": gpus})
        assert actors * resources["num_cpus"] + reading <= cpus
        assert actors * resources.get("num_gpus", 0) == gpus
    with pytest.raises(InputError, match="no CPU"):
        _sizes({})


def test_devices_are_for_one_machine(small, clips, tmp_path):
    with pytest.raises(InputError, match="devices= is for one machine"):
        run(small, clips, tmp_path / "out", engine="ray", devices=["cpu"])
