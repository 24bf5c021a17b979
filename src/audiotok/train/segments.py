"""Pieces of audio with their tokens, drawn at random in a way that depends on nothing but seed, step and process."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import audio
from ..checkpoint import read_safetensors, read_safetensors_metadata, write_safetensors
from ..errors import AudiotokError, CheckpointError, FitError, InputError
from ..tokenizer import Tokenizer

_CACHE_BYTES = 1 << 30  # of decoded audio, so that short files are not decoded again for every piece
_MANY_FILES = 5
_HELD_OUT = 0.05


class Segments:
    """Segments of files, each frame of every file equally likely to begin one.

    Files are tokenized once, whole, so that tokens have the context they have in use; the tokens are kept in
    memory (16 bits each where they fit) and in a file, audio is read when needed.

    Args:
        tokenizer: mono.
        files: of audio. One that cannot be read, or is shorter than a segment, is left out and listed in `failed`.
        frames: of a segment.
        seed: of the draws.
        cache: file that keeps the tokens for the next run.
        progress: whether to show a bar.

    Raises:
        FitError: no file is long enough and readable.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        files: Sequence[Path],
        *,
        frames: int,
        seed: int,
        cache: Path | None = None,
        progress: bool = False,
    ) -> None:
        if tokenizer.spec.channels != 1:
            raise InputError(f"a vocoder is trained on mono audio, {tokenizer.spec.name} has two channels")
        self.spec = tokenizer.spec
        self.frames, self.seed = frames, seed
        self.failed: list[str] = []
        self._held: OrderedDict[Path, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        tokens = _tokens_of(tokenizer, files, cache, self.failed, progress)
        kept = [(path, one) for path, one in tokens if one.shape[1] >= frames]
        self.failed += [f"{path}: shorter than a segment" for path, one in tokens if one.shape[1] < frames]
        if not kept:
            seconds = frames * self.spec.hop_length / self.spec.sample_rate
            reasons = "; ".join(self.failed[:3]) + ("; ..." if len(self.failed) > 3 else "")
            raise FitError(f"none of {len(files)} files can be used, each must hold {seconds:.2f} s: {reasons}")
        self.seconds = sum(one.shape[1] for _, one in kept) * self.spec.hop_length / self.spec.sample_rate
        held = 0
        if len(kept) >= _MANY_FILES:
            held = max(1, round(_HELD_OUT * len(kept)))
        order = np.random.default_rng([seed, 0]).permutation(len(kept)).tolist()
        self._held_out = [kept[i] for i in order[:held]] or kept
        self._training = [kept[i] for i in order[held:]]
        self.num_held_out = held

    def draw(self, step: int, rows: int, *, process: int = 0) -> tuple[Tensor, Tensor]:
        """tokens [rows, K, frames] int64 and wav [rows, 1, frames·hop] of training step `step`."""
        return self._draw(self._training, np.random.default_rng([self.seed, 1, step, process]), rows)

    def held_out(self, rows: int) -> tuple[Tensor, Tensor]:
        """The same segments at every call, of the files that are never drawn for training (of all files where
        there are too few to hold any out)."""
        return self._draw(self._held_out, np.random.default_rng([self.seed, 2]), rows)

    def _draw(self, files: list[tuple[Path, Tensor]], random: np.random.Generator, rows: int) -> tuple[Tensor, Tensor]:
        starts = np.cumsum([0] + [one.shape[1] - self.frames + 1 for _, one in files])
        tokens, wavs = [], []
        for place in random.integers(0, starts[-1], rows).tolist():
            number = int(np.searchsorted(starts, place, side="right")) - 1
            path, all_tokens = files[number]
            first = place - int(starts[number])
            tokens.append(all_tokens[:, first : first + self.frames].long())
            wavs.append(self._wav(path, first * self.spec.hop_length, self.frames * self.spec.hop_length))
        return torch.stack(tokens), torch.stack(wavs)

    def _wav(self, path: Path, start: int, count: int) -> Tensor:
        with self._lock:
            wav = self._held.get(path)
            if wav is not None:
                self._held.move_to_end(path)
        if wav is None:
            wav = audio.load(path, sample_rate=self.spec.sample_rate, channels=1)[0]
            with self._lock:
                self._held[path] = wav
                while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > _CACHE_BYTES:
                    self._held.popitem(last=False)
        piece = wav[:, start : start + count]
        return torch.nn.functional.pad(piece, (0, count - piece.shape[1]))  # a file ends within its last frame


def _tokens_of(
    tokenizer: Tokenizer, files: Sequence[Path], cache: Path | None, failed: list[str], progress: bool
) -> list[tuple[Path, Tensor]]:
    """Tokens [K, F_i] of every file that can be read."""
    key = _key(tokenizer, files)
    found = _cached(cache, key) if cache is not None else None
    if found is None:
        small = max(tokenizer.spec.codebook_sizes) <= 2**15
        found = {}
        for number, path in enumerate(tqdm(files, desc="tokenizing", unit="file", disable=not progress)):
            try:
                tokens = tokenizer.encode_file(path).tokens[0].cpu()
                found[str(number)] = tokens.to(torch.int16 if small else torch.int32)
            except AudiotokError as error:
                failed.append(f"{path}: {error}")
        if cache is not None:
            write_safetensors(cache, found, {"key": key})
    else:
        failed += [f"{path}: cannot be read" for i, path in enumerate(files) if str(i) not in found]
    return [(path, found[str(i)]) for i, path in enumerate(files) if str(i) in found]


def _cached(cache: Path, key: str) -> dict[str, Tensor] | None:
    try:
        return read_safetensors(cache) if read_safetensors_metadata(cache).get("key") == key else None
    except CheckpointError:  # none yet
        return None


def _key(tokenizer: Tokenizer, files: Sequence[Path]) -> str:
    """Changes with the tokenizer, with how many codebooks it uses, and with the files."""
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {tokenizer.spec.num_codebooks}".encode())
    for path in files:
        facts = path.stat()
        digest.update(os.fsencode(path.resolve()) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
