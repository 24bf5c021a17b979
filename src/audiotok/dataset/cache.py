"""A tokenizer that remembers: clips it has seen before come from memory or from a folder."""

import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..codes import Codes
from ..errors import CheckpointError, InputError
from ..inputs import Wav, rows_of
from ..nn.compiler import left_to_eager
from ..tokenizer import Tokenizer


@left_to_eager("encode")
class CachedTokenizer(nn.Module):
    """Encodes each clip once: rows that were seen before are looked up, the others encoded in one call.

    A row is known by the SHA-256 of what the network would see of it (its samples as float32 at `spec.sample_rate`,
    their number and channels) and of what decides about its tokens (the tokenizer's fingerprint, codebooks in use,
    dtype and chunk_seconds). The codes are those that the tokenizer itself gives.

    Memory and folder may be used together: memory is asked first. Copies sent to other processes begin with an empty
    memory; a folder is shared by any number of processes, tokenizers and machines, and may be deleted at any time. A
    file in it that is broken or of another kind is made again. One object is for one thread.

    Args:
        tokenizer: at `self.tokenizer`, to decode with, for example.
        max_bytes: of tokens kept in memory; the rows used least recently go first. 0 keeps none.
        folder: for one file per clip, FINGERPRINT/ab/cdef….safetensors, as `Codes.save` writes it; None writes none.

    Attributes:
        hits: rows found so far.
        misses: rows encoded so far.

    Raises:
        InputError: neither memory nor a folder.

    Example:
        >>> import audiotok
        >>> cached = CachedTokenizer(audiotok.load())
        >>> wav = torch.sin(torch.arange(16000) / 10)
        >>> torch.equal(cached.encode(wav).tokens, cached.encode(wav).tokens), cached.hits, cached.misses
        (True, 1, 1)
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_bytes: int = 256 << 20, folder: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__()
        if max_bytes <= 0 and folder is None:
            raise InputError("a cache needs memory or a folder: max_bytes above 0, or folder=...")
        self.tokenizer = tokenizer
        self.max_bytes = max_bytes
        self.folder = None if folder is None else Path(folder)
        self._forget()

    def _forget(self) -> None:
        self.hits = self.misses = 0
        self._memory: OrderedDict[str, Codes] = OrderedDict()  # one row each, least recently used first
        self._bytes = 0

    def encode(self, wav: Wav, sample_rate: int | None = None, lengths: Wav | None = None) -> Codes:
        """As `Tokenizer.encode`, with its arguments and errors.

        Raises:
            CheckpointWriteError: the folder cannot be written.
        """
        tokenizer = self.tokenizer
        rows = rows_of(wav, tokenizer.spec, sample_rate, lengths, torch.device("cpu"))
        keys = [self._key(row) for row in rows]
        found: dict[str, Codes] = {}
        missing: dict[str, Tensor] = {}
        for key, row in zip(keys, rows, strict=True):
            if key in found or key in missing:
                self.hits += 1
                continue
            codes = self._look_up(key, row)
            if codes is None:
                missing[key] = row
                self.misses += 1
            else:
                found[key] = codes
                self.hits += 1
        if missing:
            for key, codes in zip(missing, tokenizer.encode_rows(list(missing.values())), strict=True):
                found[key] = codes
                self._keep(key, codes)
        spec = tokenizer.spec  # by the name it has now
        return Codes.batch([replace(found[key].to(tokenizer.device), spec=spec) for key in keys])

    def _key(self, row: Tensor) -> str:
        tokenizer = self.tokenizer
        facts = {
            "fingerprint": tokenizer.fingerprint,
            "num_codebooks": tokenizer.spec.num_codebooks,
            "dtype": str(tokenizer.dtype),
            "chunk_seconds": tokenizer.chunk_seconds,
            "shape": list(row.shape),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(row.contiguous().numpy().data)
        return digest.hexdigest()

    def _look_up(self, key: str, row: Tensor) -> Codes | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if self.folder is None or not (path := self._path(key)).exists():
            return None
        try:
            codes = Codes.load(path)
        except CheckpointError:
            return None
        if not self._fits(codes, row):
            return None
        self._remember(key, codes)
        return codes

    def _fits(self, codes: Codes, row: Tensor) -> bool:
        """Whether a file holds what belongs under its name: somebody may have moved it."""
        wanted = self.tokenizer.fingerprint, self.tokenizer.spec.num_codebooks, [row.shape[1]]
        return (codes.fingerprint, codes.spec.num_codebooks, codes.num_samples.tolist()) == wanted

    def _keep(self, key: str, codes: Codes) -> None:
        if self.folder is not None:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            codes.save(path)
        self._remember(key, Codes.batch([codes]).to("cpu"))  # a copy: the codes may be part of a larger tensor

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / self.tokenizer.fingerprint / key[:2] / f"{key[2:]}.safetensors"

    def _remember(self, key: str, codes: Codes) -> None:
        self._memory[key] = codes
        self._bytes += _size(codes)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._memory.popitem(last=False)[1])

    def __getstate__(self) -> dict[str, Any]:
        left_behind = ("hits", "misses", "_memory", "_bytes")
        return {name: value for name, value in self.__dict__.items() if name not in left_behind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget()


def _size(codes: Codes) -> int:
    """Bytes of the tensors, and of the objects around them (1.8 kB, measured)."""
    tensors = [codes.tokens, codes.lengths, codes.num_samples, *codes.extras.values()]
    return 1800 + sum(tensor.nbytes for tensor in tensors)
