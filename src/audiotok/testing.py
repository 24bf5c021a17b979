"""Conformance checks and parity figures for any tokenizer, ours or a third party's.

from audiotok.testing import check_tokenizer
def test_my_tokenizer():
    check_tokenizer(MyTokenizer())
"""

import copy
import itertools
import math
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .codes import Codes
from .errors import AudiotokError, InputError, UnsupportedError
from .hub import load_folder
from .tokenizer import Tokenizer

_WAV_TOLERANCE = 1e-3  # largest difference of decoded audio that batches and pieces may make


class ConformanceError(AudiotokError, AssertionError):
    """A tokenizer breaks a promise of the interface: the message says which, and by how much."""


@dataclass(frozen=True)
class Parity:
    """Share of codes that one way of encoding changes against encoding each row alone, whole, in float32."""

    way: str
    codes: int
    different: int

    @property
    def share(self) -> float:
        return self.different / self.codes if self.codes else 0.0


def parity(tokenizer: Tokenizer, wavs: Sequence[Tensor]) -> list[Parity]:
    """Encodes rows in every way that must not matter, and in those that may, and counts the codes that differ.

    Args:
        tokenizer: on any device; left as it was.
        wavs: rows [T_i] or [C, T_i] at its sample rate; several, of different lengths.

    Returns:
        One `Parity` for each of: again, batch, padded, order, chunked, streamed (where it streams), saved, bfloat16,
        and gpu where there is one (cpu, if the tokenizer is on it).
    """
    alone = [tokenizer.encode([wav]) for wav in wavs]
    found = [_compare("again", alone, [tokenizer.encode([wav]) for wav in wavs])]
    with _settings(tokenizer, row_by_row=False, max_padding=1.0):
        found.append(_compare("batch", alone, tokenizer.encode(list(wavs)).unbatch()))
        found.append(_compare("padded", alone, _encode_padded(tokenizer, wavs).unbatch()))
        backwards = tokenizer.encode(list(wavs)[::-1]).unbatch()[::-1]
        found.append(_compare("order", alone, backwards))
    longest = max(wav.shape[-1] for wav in wavs) / tokenizer.spec.sample_rate
    with _settings(tokenizer, chunk_seconds=max(longest / 4.3, 2 / tokenizer.spec.frame_rate)):
        found.append(_compare("chunked", alone, [tokenizer.encode([wav]) for wav in wavs]))
    if tokenizer.spec.streamable:
        found.append(_compare("streamed", alone, [_stream(tokenizer, wav) for wav in wavs]))
    reloaded = _reload(tokenizer)
    found.append(_compare("saved", alone, [reloaded.encode([wav]) for wav in wavs]))
    others = {"bfloat16": copy.deepcopy(tokenizer).to(torch.bfloat16)}
    if tokenizer.device.type != "cpu":
        others["cpu"] = copy.deepcopy(tokenizer).to("cpu")
    elif torch.cuda.is_available():
        others["gpu"] = copy.deepcopy(tokenizer).to("cuda")
    for way, other in others.items():
        found.append(_compare(way, alone, [other.encode([wav]) for wav in wavs]))
    return found


def allowed_share(way: str, tokenizer: Tokenizer) -> float:
    """Largest share of codes that a way of encoding may change: 1 for another precision or device, what the tokenizer
    declares for pieces, 0 for everything else."""
    pieces = dict.fromkeys(("chunked", "streamed"), tokenizer.chunk_miss_rate)
    return {"bfloat16": 1.0, "cpu": 1.0, "gpu": 1.0, **pieces}.get(way, 0.0)


def check_tokenizer(tokenizer: Tokenizer, wavs: Sequence[Tensor] | None = None) -> list[str]:
    """Runs every conformance check.

    Args:
        tokenizer: on any device; left as it was.
        wavs: rows [T_i] or [C, T_i] at its sample rate to check with; default three made-up ones.

    Returns:
        The names of the checks, all passed.

    Raises:
        ConformanceError: the first check that fails.
    """
    rows = [wav if wav.dim() == 2 else wav[None] for wav in (wavs or _made_up(tokenizer))]
    passed = []
    for check in _CHECKS:
        check(tokenizer, rows)
        passed.append(check.__name__.removeprefix("_check_"))
    return passed


# ---- the checks ------------------------------------------------------------------------------------


def _check_shapes(tok: Tokenizer, rows: list[Tensor]) -> None:
    spec, codes = tok.spec, tok.encode(rows)
    frames = [tok.num_frames(max(row.shape[1], tok.min_samples)) for row in rows]
    _expect(codes.tokens.dtype == torch.int64, f"tokens are {codes.tokens.dtype}, not int64")
    wanted = (len(rows), spec.num_codebooks, max(frames))
    _expect(tuple(codes.tokens.shape) == wanted, f"tokens are {list(codes.tokens.shape)}, not {list(wanted)}")
    _expect(codes.lengths.tolist() == frames, f"lengths are {codes.lengths.tolist()}, not {frames}")
    samples = [row.shape[1] for row in rows]
    _expect(codes.num_samples.tolist() == samples, f"num_samples are {codes.num_samples.tolist()}, not {samples}")
    for i, size in enumerate(spec.codebook_sizes):
        low, high = int(codes.tokens[:, i].min()), int(codes.tokens[:, i].max())
        _expect(low >= 0 and high < size, f"codebook {i} gives {low}..{high}, outside 0..{size - 1}")
    _expect(
        not codes.tokens[~codes.mask[:, None].expand_as(codes.tokens)].any(),
        "padding holds tokens other than 0",
    )
    _expect(codes.tokens.device == tok.device, f"tokens are on {codes.tokens.device}, not {tok.device}")


def _check_inputs_that_mean_the_same(tok: Tokenizer, rows: list[Tensor]) -> None:
    whole = (rows[0].clamp(-1, 1) * 32767).round().to(torch.int16)
    wanted = tok.encode([whole])
    ways: dict[str, Callable[[], Codes]] = {
        "[B, C, T] float": lambda: tok.encode(whole[None].float() / 32768),
        "a NumPy array": lambda: tok.encode(whole[None].cpu().numpy()),
        "float64": lambda: tok.encode(whole[None].double() / 32768),
        "under autocast": lambda: _autocast(tok, whole),
    }
    if tok.spec.channels == 1:
        ways["[T]"] = lambda: tok.encode(whole[0])
        ways["[B, T]"] = lambda: tok.encode(whole)
    for way, encode in ways.items():
        _expect_same([wanted], [encode()], f"{way} gives other codes than a list of int16 rows")


def _check_batches(tok: Tokenizer, rows: list[Tensor]) -> None:
    for found in parity(tok, rows):
        allowed = allowed_share(found.way, tok)
        _expect(
            found.share <= allowed,
            f"{found.way}: {found.different} of {found.codes} codes differ ({found.share:.3%}, allowed {allowed:.3%})",
        )


def _check_lengths(tok: Tokenizer, rows: list[Tensor]) -> None:
    hop, longest = tok.spec.hop_length, rows[0].shape[1]
    for count in sorted({1, 2, hop - 1, hop, hop + 1, 3 * hop + hop // 2, longest - 1} & set(range(1, longest))):
        codes = tok.encode(rows[0][None, :, :count])
        _expect(int(codes.lengths[0]) >= 1, f"{count} samples give no frame")
        if tok.spec.decodable:
            wav = tok.decode(codes)
            wanted = (1, tok.spec.channels, tok.spec.output_samples(count))
            _expect(tuple(wav.shape) == wanted, f"{count} samples come back as {list(wav.shape)}")
            _expect(bool(wav.isfinite().all()), f"{count} samples decode to NaN or infinite audio")


def _check_decode(tok: Tokenizer, rows: list[Tensor]) -> None:
    if not tok.spec.decodable:
        _expect_error(lambda: tok.decode(tok.encode(rows)), NotImplementedError, "decode of an encoder")
        return
    codes = tok.encode(rows)
    alone = [tok.decode(code)[0] for code in codes]
    _expect(torch.equal(alone[0], tok.decode(codes[0])[0]), "decoding twice gives different audio")
    for setting in ({"row_by_row": False}, {"row_by_row": True}, {"chunk_seconds": _third(tok, rows)}):
        with _settings(tok, **setting):
            for i, (one, row) in enumerate(zip(alone, tok.decode(codes), strict=True)):
                error = float((one - row[:, : one.shape[1]]).abs().max())
                _expect(error <= _WAV_TOLERANCE, f"row {i} decodes {error:.2g} off with {setting}")
                _expect(not row[:, one.shape[1] :].any(), f"row {i} is not silent after its end with {setting}")
    if tok.spec.nested:
        fewer = tok.decode(codes.truncate(tok.spec.codebooks_for(1e-9)))
        _expect(fewer.shape[2] == max(one.shape[1] for one in alone), "fewer codebooks decode to another length")


def _check_codebooks(tok: Tokenizer, rows: list[Tensor]) -> None:
    fewer = copy.deepcopy(tok)
    if tok.spec.nested:
        fewer.use_codebooks(tok.spec.codebooks_for(1e-9))
        first = fewer.encode(rows).tokens
        same = torch.equal(first, tok.encode(rows).tokens[:, : fewer.spec.num_codebooks])
        _expect(same, "fewer codebooks in use give other tokens than the first rows of all")
    for one in (tok, fewer):
        try:
            sizes = tuple(len(table) for table in one.codebooks)
        except UnsupportedError:
            return
        wanted = one.spec.codebook_sizes
        _expect(sizes == wanted, f"with {len(wanted)} codebooks in use, tables are of {sizes} entries, not {wanted}")


def _check_stream(tok: Tokenizer, rows: list[Tensor]) -> None:
    if not tok.spec.streamable:
        _expect_error(lambda: tok.stream(), NotImplementedError, "stream of a tokenizer that cannot")
        return
    for row in rows:
        whole = tok.encode([row])
        codes = _stream(tok, row)
        _expect(codes.num_samples.tolist() == whole.num_samples.tolist(), "a stream loses or adds samples")
        if tok.spec.decodable:
            wanted, found = tok.decode(whole), _decode_stream(tok, whole)
            _expect(found.shape == wanted.shape, f"a stream decodes to {list(found.shape)}, not {list(wanted.shape)}")
            error = float((found - wanted).abs().max())
            _expect(error <= _WAV_TOLERANCE, f"a stream decodes {error:.2g} off")


def _check_copies(tok: Tokenizer, rows: list[Tensor]) -> None:
    wanted = tok.encode(rows)
    for how, other in (("deepcopy", copy.deepcopy(tok)), ("pickle", pickle.loads(pickle.dumps(tok)))):
        _expect_same([wanted], [other.encode(rows)], f"a {how} of it gives other codes")
    reloaded = _reload(tok)
    _expect(reloaded.fingerprint == tok.fingerprint, "a saved and loaded one has another fingerprint")
    _expect(reloaded.spec == tok.spec, "a saved and loaded one has another spec")
    if tok.spec.decodable:
        same = torch.equal(reloaded.decode(wanted), tok.decode(wanted))
        _expect(same, "a saved and loaded one decodes to other audio")
    with tempfile.TemporaryDirectory() as folder:
        wanted.save(Path(folder) / "a.codes")
        read = Codes.load(Path(folder) / "a.codes")
    _expect_same([wanted], [read], "codes change when they are saved and loaded")
    _expect(read.fingerprint == wanted.fingerprint and read.spec == wanted.spec, "saved codes lose their origin")


def _check_training_step(tok: Tokenizer, rows: list[Tensor]) -> None:
    before = tok.encode(rows)
    model = nn.ModuleDict({"tokenizer": tok, "embedding": nn.Embedding(max(tok.spec.codebook_sizes), 4)})
    model.to(tok.device).train()
    codes = tok.encode(rows)
    _expect_same([before], [codes], "codes change when a model around it is put in training mode")
    embedding = model["embedding"]
    assert isinstance(embedding, nn.Embedding)
    embedding(codes.tokens).square().mean().backward()
    gradient = embedding.weight.grad
    _expect(gradient is not None and bool(gradient.any()), "codes used in a training step give no gradient")


def _check_errors(tok: Tokenizer, rows: list[Tensor]) -> None:
    good, channels = rows[0][None], tok.spec.channels
    bad = good.clone()
    bad[0, 0, 5] = torch.nan
    wrong: dict[str, Callable[[], object]] = {
        "NaN samples": lambda: tok.encode(bad),
        "infinite samples": lambda: tok.encode(bad.nan_to_num(nan=torch.inf)),
        "no samples": lambda: tok.encode(good[:, :, :0]),
        "rank 4": lambda: tok.encode(good[None]),
        "too many channels": lambda: tok.encode(torch.zeros(1, channels + 1, 1000)),
        "int32 samples": lambda: tok.encode(torch.zeros(1, channels, 1000, dtype=torch.int32)),
        "a length of 0": lambda: tok.encode(good, lengths=[0]),
    }
    if tok.spec.decodable:
        first = tok.encode(good).tokens
        wrong["tokens out of range"] = lambda: tok.decode(first + max(tok.full_spec.codebook_sizes))
        wrong["negative tokens"] = lambda: tok.decode(first - max(tok.full_spec.codebook_sizes))
        wrong["float tokens"] = lambda: tok.decode(first.float())
    for what, call in wrong.items():
        _expect_error(call, InputError, what)


_CHECKS = (
    _check_shapes,
    _check_inputs_that_mean_the_same,
    _check_batches,
    _check_lengths,
    _check_decode,
    _check_codebooks,
    _check_stream,
    _check_copies,
    _check_training_step,
    _check_errors,
)

# ---- helpers ---------------------------------------------------------------------------------------


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(message)


def _expect_same(wanted: Sequence[Codes], found: Sequence[Codes], message: str) -> None:
    compared = _compare(message, wanted, found)
    _expect(compared.different == 0, f"{message}: {compared.different} of {compared.codes}")


def _expect_error(call: Callable[[], object], kind: type[Exception], what: str) -> None:
    try:
        call()
    except kind:
        return
    except Exception as error:  # the finding is that it is of another kind
        raise ConformanceError(f"{what}: wanted {kind.__name__}, got {type(error).__name__}: {error}") from error
    raise ConformanceError(f"{what}: no error")


def _compare(way: str, wanted: Sequence[Codes], found: Sequence[Codes]) -> Parity:
    """Counts the codes that differ; all codes of a row count as different when its length does."""
    total = different = 0
    for one, other in zip(wanted, found, strict=True):
        total += one.tokens.numel()
        if one.tokens.shape == other.tokens.shape and torch.equal(one.lengths.cpu(), other.lengths.cpu()):
            different += int((one.tokens.cpu() != other.tokens.cpu()).sum())
        else:
            different += one.tokens.numel()
    return Parity(way, total, different)


def _encode_padded(tok: Tokenizer, wavs: Sequence[Tensor]) -> Codes:
    """A padded batch with noise, not zeros, after each row's end: nothing of it may reach the codes."""
    rows = [wav if wav.dim() == 2 else wav[None] for wav in wavs]
    longest = max(row.shape[1] for row in rows) + 2 * tok.spec.hop_length + 1
    generator = torch.Generator().manual_seed(0)
    batch = 0.3 * torch.randn(len(rows), tok.spec.channels, longest, generator=generator)
    for target, row in zip(batch, rows, strict=True):
        target[:, : row.shape[1]] = row
    return tok.encode(batch, lengths=[row.shape[1] for row in rows])


def _stream(tok: Tokenizer, wav: Tensor) -> Codes:
    """Codes of a row pushed in pieces of unlike sizes, some shorter than a frame."""
    row, found = (wav if wav.dim() == 2 else wav[None]), []
    hop, start = tok.spec.hop_length, 0
    with tok.stream() as stream:
        for size in itertools.cycle((hop // 3 + 1, 2 * hop + 5, hop, 7 * hop)):
            found.append(stream.push(row[None, :, start : start + size]))
            start += size
            if start >= row.shape[1]:
                break
        found.append(stream.flush())
    return Codes.join(found)


def _decode_stream(tok: Tokenizer, codes: Codes) -> Tensor:
    """Audio of codes pushed a few frames at a time."""
    hop, rate, found = tok.spec.hop_length, tok.spec.sample_rate, []
    with tok.decode_stream() as stream:
        for start in range(0, codes.tokens.shape[2], 3):
            found.append(stream.push(codes.slice((start + 0.25) * hop / rate, (start + 2.75) * hop / rate)))
        found.append(stream.flush())
    return torch.cat(found, 2)


def _autocast(tok: Tokenizer, whole: Tensor) -> Codes:
    with torch.autocast(tok.device.type, dtype=torch.bfloat16):
        return tok.encode([whole])


@contextmanager
def _settings(tok: Tokenizer, **values: object) -> Iterator[None]:
    """Attributes of a tokenizer for the length of a block."""
    before = {name: getattr(tok, name) for name in values}
    for name, value in values.items():
        setattr(tok, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(tok, name, value)


def _reload(tok: Tokenizer) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        tok.save(folder)
        return load_folder(folder).to(tok.device, tok.dtype)


def _third(tok: Tokenizer, rows: list[Tensor]) -> float:
    return max(max(row.shape[1] for row in rows) / tok.spec.sample_rate / 3, 1 / tok.spec.frame_rate)


def _made_up(tok: Tokenizer) -> list[Tensor]:
    """Three rows of a gliding harmonic tone with noise, 2.1 s and shorter, and of unlike lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i, seconds in enumerate((2.1, 1.3, 0.77)):
        count = math.ceil(seconds * tok.spec.sample_rate) + 17 * i
        time = torch.arange(count) / tok.spec.sample_rate
        pitch = 2 * math.pi * torch.cumsum(120 + 60 * i + 40 * torch.sin(5 * time), 0) / tok.spec.sample_rate
        voice = sum(torch.sin(n * pitch) / n for n in range(1, 12)) * (0.5 + 0.5 * torch.sin(9 * time + i))
        noise = torch.randn(tok.spec.channels, count, generator=generator)
        rows.append(0.1 * voice + 0.01 * noise)
    return rows
