"""Files are whole or not there, and what a killed process leaves can be told from anything else."""

import signal
import subprocess
import sys

import pytest

from audiotok.files import atomic_write, remove_unfinished


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.write("no bytes")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"a.txt": b"old"}


def test_what_a_kill_leaves_is_removed_and_nothing_else(tmp_path):
    code = """
import os, signal, sys
from audiotok.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for name in ("a.txt", "two\nlines"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / name], check=False)
        assert done.returncode == -signal.SIGKILL
    kept = {"a.txt", ".b.tmp", "c.0123456789abcdef.tmp", ".d.0123456789abcdef.tmp.txt"}
    for name in kept:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_unfinished(tmp_path / "missing")
