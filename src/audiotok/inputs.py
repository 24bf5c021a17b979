"""Checks of what a user hands in. The rank of audio says what it is, never a size."""

import operator
from typing import Any

import torch
from torch import Tensor, nn

from . import audio
from .codes import Codes
from .errors import InputError
from .spec import Spec

Wav = Any  # a tensor or array [T], [B, T], [B, C, T], or a list of [T_i] or [C, T_i]


def rows_of(wav: Wav, spec: Spec, sample_rate: int | None, lengths: Wav | None, device: torch.device) -> list[Tensor]:
    """Rows [C, T_i] float32 at the spec's rate, on `device`: checked, cut to their lengths, resampled.

    Raises:
        InputError: anything that `Tokenizer.encode` does not take.
    """
    if isinstance(wav, list | tuple) and wav and not isinstance(wav[0], int | float):
        if lengths is not None:
            raise InputError("a list of rows has lengths of its own: leave out lengths=")
        rows = [_row_of_list(item, i) for i, item in enumerate(wav)]
    else:
        rows = _rows_of_tensor(audio.as_samples(wav), lengths)
    try:
        rate = spec.sample_rate if sample_rate is None else operator.index(sample_rate)
    except TypeError:
        rate = 0
    if rate < 1:
        raise InputError(f"sample_rate must be a whole number of Hz, not {sample_rate!r}")
    for i, row in enumerate(rows):
        if row.shape[0] != spec.channels:
            raise InputError(_channels_message(spec, row.shape[0]))
        if row.shape[1] == 0:
            raise InputError(f"row {i} is empty: encode wants at least one sample")
    extremes = torch.stack([torch.stack(row.aminmax()) for row in rows])  # NaN and infinity go through to these
    finite = extremes.isfinite().all(1).tolist()
    if not all(finite):
        raise InputError(f"row {finite.index(False)} holds NaN or infinite samples: encode wants finite audio")
    if rate != spec.sample_rate:
        rows = [audio.resample(row, rate, spec.sample_rate) for row in rows]
        rows = [row if row.shape[1] else nn.functional.pad(row, (0, 1)) for row in rows]
    return [row.to(device) for row in rows]


def _row_of_list(item: Wav, i: int) -> Tensor:
    row = audio.as_samples(item)
    if row.dim() not in (1, 2):
        raise InputError(f"a list wants rows [T] or [C, T], but row {i} is {list(row.shape)}")
    return row if row.dim() == 2 else row[None]


def _rows_of_tensor(wav: Tensor, lengths: Wav | None) -> list[Tensor]:
    if wav.dim() not in (1, 2, 3):
        raise InputError(f"encode wants [T], [B, T], [B, C, T] or a list of rows, not {list(wav.shape)}")
    batch = wav.reshape(1, 1, -1) if wav.dim() == 1 else wav[:, None] if wav.dim() == 2 else wav
    if len(batch) == 0:
        raise InputError("encode wants at least one row, the batch is empty")
    if lengths is None:
        return list(batch)
    sizes = torch.as_tensor(lengths)
    if sizes.is_floating_point():
        raise InputError("lengths are whole numbers of samples, not shares of the longest row")
    if sizes.shape != (len(batch),):
        raise InputError(f"lengths must be [{len(batch)}], one for each row, not {list(sizes.shape)}")
    counts = sizes.tolist()
    if min(counts) < 1 or max(counts) > batch.shape[2]:
        raise InputError(f"lengths must lie in 1..{batch.shape[2]}, not {min(counts)}..{max(counts)}")
    return [row[:, :count] for row, count in zip(batch, counts, strict=True)]


def _channels_message(spec: Spec, channels: int) -> str:
    kind = {1: "mono", 2: "stereo"}.get(spec.channels, f"{spec.channels}-channel")
    hint = ""
    if spec.channels == 1:
        hint = ": mix down first, wav.mean(dim=-2, keepdim=True), or give each channel as a row of its own"
    elif channels == 1:
        hint = f": copy it first, wav.expand(-1, {spec.channels}, -1)"
    return f"{spec.name} takes {kind} audio, not {channels} channels{hint}"


def codes_of_tokens(tokens: Tensor, spec: Spec) -> Codes:
    """Codes of bare tokens [K, F] or [B, K, F], F·hop samples long.

    Raises:
        InputError: another rank or type, nothing in it, or too many rows.
    """
    if not isinstance(tokens, Tensor) or tokens.dim() not in (2, 3):
        shape = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InputError(f"decode wants Codes, or tokens [K, F] or [B, K, F], not {shape}")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"tokens must be integers, not {tokens.dtype}")
    batch = tokens.long() if tokens.dim() == 3 else tokens.long()[None]
    if 0 in batch.shape:
        raise InputError(f"there is nothing to decode in tokens {list(tokens.shape)}")
    if batch.shape[1] > spec.num_codebooks:
        raise InputError(f"{spec.name} has {spec.num_codebooks} codebooks, not {batch.shape[1]}")
    lengths = torch.full((len(batch),), batch.shape[2], device=batch.device)
    return Codes(batch, lengths, lengths * spec.hop_length, spec.truncate(batch.shape[1]))
