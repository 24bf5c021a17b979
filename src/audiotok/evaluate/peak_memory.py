"""`peak_memory`: what encoding and decoding need beside the loaded tokenizer, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import read_safetensors, write_safetensors
from ..codes import Codes
from ..errors import AudiotokError, UnsupportedError
from .systems import TokenizerSystem, open_system

_PROC = Path("/proc/self")
_WARM_UP_SECONDS = 0.1
# glibc keeps freed blocks of up to this size, which would then hide what is taken next. It starts here, and grows to
# 32 MB if it is not set.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024), "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of each half, above what the process held with the tokenizer loaded and warm; None where there
    is no such half."""

    encode: int
    decode: int | None


def peak_memory(text: str, wav: Tensor, sample_rate: int, device: str = "cpu") -> Memory:
    """Starts a fresh process for each half, which loads the tokenizer, codes a tenth of a second, and then all of it.

    Args:
        text: of a tokenizer, as `open_system` takes it.
        wav: [1, T].
        sample_rate: of wav, in Hz.
        device: on a CPU the resident memory of the process is read (it holds the audio already), on a CUDA device what
            torch allocates there.

    Raises:
        UnsupportedError: an anchor, or a device of which `can_measure` says no. AudiotokError: the process fails, with
            its last words.
    """
    system = open_system(text)
    if not isinstance(system, TokenizerSystem):
        raise UnsupportedError(f"{text} is no tokenizer: the memory of other programs is not measured")
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "wav.safetensors", {"wav": wav})
        facts = [text, str(sample_rate), device, folder]
        encode = _in_a_process("encode", facts)
        decode = _in_a_process("decode", facts) if system.tokenizer.spec.decodable else None
    return Memory(encode, decode)


def can_measure(device: torch.device) -> bool:
    """Whether `peak_memory` works here: on CUDA devices, and on the CPU of a Linux system."""
    return device.type == "cuda" or (device.type == "cpu" and (_PROC / "clear_refs").exists())


def peak_growth(function: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory grows at its peak while a function runs.

    Raises:
        UnsupportedError: another device than a CUDA one or the CPU of a Linux system.
    """
    if not can_measure(device):
        raise UnsupportedError(f"peak memory is measured on CUDA and on the CPU of Linux, not on {device.type} here")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    (_PROC / "clear_refs").write_text("5")  # the peak begins anew, at what is held now
    before = _peak()
    function()
    return _peak() - before


def _peak() -> int:
    lines = (_PROC / "status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))  # in kB
    return 1024 * int(peak)


def _in_a_process(half: str, facts: list[str]) -> int:
    code = f"from {__name__} import _measure; _measure()"
    command = [sys.executable, "-c", code, half, *facts]
    done = subprocess.run(command, env={**os.environ, **_ALLOCATOR}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise AudiotokError(f"the process that measures the memory of {facts[0]} failed: {lines[-1]}")
    return int(done.stdout.split()[-1])


def _measure() -> None:
    """What the process does: prints the growth of one half."""
    half, text, rate, device, folder = sys.argv[1:]
    system = open_system(text, device)
    assert isinstance(system, TokenizerSystem)  # `peak_memory` has looked
    tokenizer, file = system.tokenizer, Path(folder) / "codes.safetensors"
    wav = read_safetensors(Path(folder) / "wav.safetensors")["wav"]
    short, _ = system.encode(wav[:, : max(1, round(_WARM_UP_SECONDS * int(rate)))], int(rate))
    if half == "encode":
        growth = peak_growth(lambda: system.encode(wav, int(rate))[0].save(file), tokenizer.device)
    else:
        tokenizer.decode(short)
        codes = Codes.load(file)
        growth = peak_growth(lambda: tokenizer.decode(codes), tokenizer.device)
    print(growth)
