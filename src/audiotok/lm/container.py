"""`compress` and `decompress`: codes as a file of as few bits as an entropy model makes of them, and back, exactly."""

import os
from dataclasses import dataclass
from typing import get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint.base import written
from ..codes import Codes
from ..errors import CheckpointError, InputError
from .entropy import EntropyModel, check_table
from .header import Header, check_sizes, joined, read_whole, split
from .payload import Coding, decode, encode

MAX_TOKENS = 1 << 27


@dataclass(frozen=True)
class Compressed:
    """What compressing came to.

    Attributes:
        seconds: of audio.
        tokens: in all codebooks.
        fixed_bits: that the tokens take at log2 V each.
        payload_bytes: that the tokens take now.
        total_bytes: of the whole file: header, extras and checksum included.
    """

    seconds: float
    tokens: int
    fixed_bits: float
    payload_bytes: int
    total_bytes: int

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of audio, of the tokens alone; 0 where there is no audio."""
        return 8 * self.payload_bytes / self.seconds if self.seconds else 0.0

    @property
    def total_bitrate_bps(self) -> float:
        """Bits per second of audio, of the whole file; 0 where there is no audio."""
        return 8 * self.total_bytes / self.seconds if self.seconds else 0.0


def compress(
    codes: Codes, path: str | os.PathLike[str], *, coding: Coding = "adaptive", table: EntropyModel | None = None
) -> Compressed:
    """Writes codes to a file that is as small as an entropy model makes it; `decompress` gives them back exactly.

    Needs constriction: `pip install 'audiotok[lm]'` (Bamler 2022, "Understanding Entropy Coding With Asymmetric Numeral
    Systems", arXiv 2201.01741).

    Args:
        codes: of any tokenizer, one row or many. Many short ones are smaller in one file than in a file each.
        path: the file; one that exists is replaced at once.
        coding: "adaptive" learns while it goes which tokens come and which come after which; "codebook" stores a table
            of the file's own in it; "static" uses the table given, and is the fastest.
        table: for "static"; "adaptive" may begin with one, and does far better on short audio if it does. It is
            needed again to decompress.

    Raises:
        InputError: a token that is not in its codebook, a codebook of more than 2^20 entries, or a table that is
            missing or of other codebooks. CheckpointWriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from audiotok import Spec
        >>> tokens = torch.arange(1000).reshape(1, 1, 1000) // 10 % 5
        >>> codes = Codes(tokens, torch.tensor([1000]), torch.tensor([320_000]),
        ...               Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(1024,)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = compress(codes, f"{folder}/a.atz")
        ...     codes.spec.bitrate_bps, result.bitrate_bps, torch.equal(decompress(f"{folder}/a.atz").tokens, tokens)
        (500.0, 35.2, True)
    """
    data, result = compress_bytes(codes, coding=coding, table=table)
    with written(path) as file:
        file.write(data)
    return result


def compress_bytes(
    codes: Codes, *, coding: Coding = "adaptive", table: EntropyModel | None = None
) -> tuple[bytes, Compressed]:
    """What `compress` writes, as bytes."""
    _check_arguments(codes, coding, table)
    if coding == "codebook":
        table = None
    codes, sizes = codes.to("cpu"), codes.spec.codebook_sizes
    lengths, num_samples = codes.lengths.tolist(), codes.num_samples.tolist()
    tokens = codes.tokens.transpose(0, 1)[:, codes.mask].to(torch.int32).numpy()  # [K, N]
    payload = encode(tokens, _first(lengths), sizes, coding, table)
    checksum = "" if table is None else table.checksum
    frames = codes.tokens.shape[2]
    header = Header(codes.spec, codes.fingerprint, frames, lengths, num_samples, coding, checksum)
    data = joined(header.pack(), _packed(codes.extras), payload)
    result = Compressed(
        seconds=sum(num_samples) / codes.spec.sample_rate,
        tokens=tokens.size,
        fixed_bits=float(sum(lengths) * np.log2(sizes).sum()),
        payload_bytes=len(payload),
        total_bytes=len(data),
    )
    return data, result


def _check_arguments(codes: Codes, coding: str, table: EntropyModel | None) -> None:
    if coding not in get_args(Coding):
        raise InputError(f"coding must be one of {', '.join(get_args(Coding))}, not {coding!r}")
    if coding == "static" and table is None:
        raise InputError('coding="static" needs a table: fit one with fit_entropy_model, on other audio')
    sizes = codes.spec.codebook_sizes
    check_sizes(sizes)
    if table is not None:
        check_table(table, sizes)
    frames = codes.tokens.shape[2]
    if bool(((codes.lengths < 0) | (codes.lengths > frames)).any()):
        raise InputError(f"lengths must be 0 to {frames}, the frames there are, not {codes.lengths.tolist()}")
    wrong = (codes.tokens < 0) | (codes.tokens >= torch.tensor(sizes, device=codes.tokens.device)[:, None])
    wrong &= codes.mask[:, None]
    if bool(wrong.any()):
        row, k, frame = wrong.nonzero()[0].tolist()
        raise InputError(
            f"row {row}, codebook {k}, frame {frame} is {int(codes.tokens[row, k, frame])}, wanted 0 to {sizes[k] - 1}"
        )


def _first(lengths: list[int]) -> NDArray[np.bool_]:
    """Of all rows' frames, one row after the other, those that begin a row: [sum of lengths]."""
    first = np.zeros(sum(lengths), bool)
    begins = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
    first[begins[np.array(lengths, np.int64) > 0]] = True
    return first


def decompress(
    path: str | os.PathLike[str], *, table: EntropyModel | None = None, max_tokens: int = MAX_TOKENS
) -> Codes:
    """Reads what `compress` wrote: the same codes, with zeros beyond each row's length.

    Args:
        path: the file.
        table: the one that it was compressed with, if it was with one.
        max_tokens: refuse more, padding included: a small file may claim to hold, and then give, as many as it likes.
            The default is 93 hours of 8 codebooks at 50 Hz, or 1 GiB.

    Raises:
        CheckpointError: no such file, of another kind, damaged, or too large. InputError: it needs a table other than
            the one given.
    """
    return decompress_bytes(read_whole(path), table=table, max_tokens=max_tokens, name=os.fspath(path))


def decompress_bytes(
    data: bytes, *, table: EntropyModel | None = None, max_tokens: int = MAX_TOKENS, name: str = "the data"
) -> Codes:
    """What `decompress` reads, from bytes; `name` is for messages."""
    try:
        packed, extras, payload = split(data)
        header = Header.unpack(packed)
        held = max(1, len(header.lengths)) * header.spec.num_codebooks * header.frames
        if held > max_tokens:
            raise CheckpointError(f"it says it holds {held} tokens, more than max_tokens = {max_tokens}")
    except CheckpointError as error:
        raise _not_whole(name, error) from error
    used = _table_of(header, table, name)
    try:
        return _codes(header, payload, _unpacked(extras), used)
    except (CheckpointError, InputError) as error:
        raise _not_whole(name, error) from error


def _not_whole(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{name} is not a whole file of compressed codes: {error}")


def _table_of(header: Header, table: EntropyModel | None, name: str) -> EntropyModel | None:
    """The table that a file needs. Raises `InputError` when it is not the one given."""
    if not header.table:
        return None
    if table is None or table.checksum != header.table:
        given = "none was given" if table is None else f"the one given is {table.checksum}"
        raise InputError(f"{name} was compressed with the entropy model {header.table}: {given}")
    return table


def _codes(header: Header, payload: bytes, extras: dict[str, Tensor], table: EntropyModel | None) -> Codes:
    spec, rows, frames = header.spec, len(header.lengths), header.frames
    if table is not None:
        check_table(table, spec.codebook_sizes)
    first = _first(header.lengths)
    found = decode(payload, first, spec.codebook_sizes, header.coding, table)
    lengths, num_samples = (torch.tensor(x, dtype=torch.int64) for x in (header.lengths, header.num_samples))
    tokens = torch.zeros(rows, spec.num_codebooks, frames, dtype=torch.int64)
    mask = torch.arange(frames) < lengths[:, None]
    tokens.transpose(0, 1)[:, mask] = torch.from_numpy(found).to(torch.int64)
    return Codes(tokens, lengths, num_samples, spec, header.fingerprint, extras)


def _packed(extras: dict[str, Tensor]) -> bytes:
    # Copies: safetensors refuses tensors that share memory or do not lie in order.
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in extras.items()}
    return safetensors.torch.save(copies) if copies else b""


def _unpacked(packed: bytes) -> dict[str, Tensor]:
    if not packed:
        return {}
    try:
        return {name: value.clone() for name, value in safetensors.torch.load(packed).items()}
    except (safetensors.SafetensorError, KeyError, AttributeError) as error:
        raise CheckpointError(f"its extras cannot be read ({type(error).__name__}: {error})") from error
