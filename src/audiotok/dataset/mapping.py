"""Tokens as columns of a Hugging Face dataset: a function for `map`, and back to Codes."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import audio
from ..codes import Codes
from ..errors import AudioFileError, AudiotokError, InputError, MissingDependencyError
from ..spec import Spec
from ..tokenizer import Tokenizer
from .shards import token_dtype

_forked = False  # whether this process came into being by fork after this file was imported


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_note_fork)


class ExampleEncoder:
    """What `encode_examples` gives: batches of examples in, columns of tokens out.

    Its pickle, by which `datasets` knows whether it has done this work before, depends on the tokenizer and the
    arguments alone: not on the process, nor on what has been encoded so far.
    """

    def __init__(self, tokenizer: Tokenizer, column: str) -> None:
        _ = tokenizer.fingerprint  # part of the pickle: now, not at the first use
        self.tokenizer = tokenizer
        self.column = column

    def __call__(self, examples: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Columns tokens, num_frames, num_samples and extra_NAME of a batch of examples.

        Raises:
            InputError, AudioFileError: a row cannot be read or encoded; the message gives its number in the batch, and
                its path if it has one. MissingDependencyError: `datasets` would have to decode the column.
        """
        if _forked:  # OpenMP's threads did not come along: work for more than one would wait for them for ever
            torch.set_num_threads(1)
        values = self._values(examples)
        spec = self.tokenizer.spec
        rows = [_row(i, value, spec) for i, value in enumerate(values)]
        codes = [code.to("cpu") for code in self.tokenizer.encode_rows(rows)]
        dtype = token_dtype(spec)
        columns: dict[str, list[Any]] = {
            "tokens": [code.tokens[0].numpy().astype(dtype) for code in codes],
            "num_frames": [int(code.lengths) for code in codes],
            "num_samples": [int(code.num_samples) for code in codes],
        }
        for name in codes[0].extras:
            columns[f"extra_{name}"] = [_array(code.extras[name][0]) for code in codes]
        return columns

    def _values(self, examples: Mapping[str, Any]) -> Sequence[Any]:
        try:
            values: Sequence[Any] = examples[self.column]
        except KeyError as error:
            raise InputError(f"the examples have no column {self.column!r}, but {', '.join(examples)}") from error
        except ImportError as error:
            raise MissingDependencyError(_without_torchcodec(self.column)) from error
        if isinstance(values, str | bytes | Mapping):
            raise InputError("this function takes batches of examples: call map with batched=True")
        return values

    def codes(self, rows: Sequence[Mapping[str, Any]]) -> Codes:
        """Codes of rows of the mapped dataset: a collate function, for example.

        Args:
            rows: with the columns that were made, of numbers, arrays or tensors.

        Raises:
            InputError: there are no rows, or a column is missing or does not fit the tokenizer.
        """
        spec, fingerprint = self.tokenizer.spec, self.tokenizer.fingerprint
        found = []
        for i, row in enumerate(rows):
            try:
                tokens = _tensor(row["tokens"]).long()[None]
                num_samples = _tensor(row["num_samples"]).long()[None]
                extras = {
                    name.removeprefix("extra_"): _extra(value)[None]
                    for name, value in row.items()
                    if name.startswith("extra_")
                }
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(f"row {i} was not made by encode_examples: {error!r}") from error
            lengths = torch.tensor([tokens.shape[-1]], device=tokens.device)
            found.append(Codes(tokens, lengths, num_samples, spec, fingerprint, extras))
        return Codes.batch(found)


def encode_examples(tokenizer: Tokenizer, *, column: str = "audio") -> ExampleEncoder:
    """A function for `datasets.Dataset.map` and `IterableDataset.map`, to be called with batched=True.

    It adds the columns tokens [K, F] (the smallest unsigned integers), num_frames (F), num_samples (at the tokenizer's
    rate) and, where the codes have values beside the tokens, extra_NAME. Audio of any rate is resampled; where the
    tokenizer is mono, channels are averaged, and where it is stereo, mono audio is copied, as `audio.load` does.

    The column may hold files that are not decoded, {"bytes", "path"}, which are read as all of audiotok reads them and
    need no other package; paths; decoded audio {"array", "sampling_rate"}; or torchcodec's decoders.

    Args:
        tokenizer: encodes on its device; with num_proc= and with workers it must be on the CPU.
        column: of the audio.

    Example:
        >>> import audiotok
        >>> encoder = encode_examples(audiotok.load(num_codebooks=2))
        >>> tone = {"array": torch.sin(torch.arange(16000) / 10).numpy(), "sampling_rate": 16000}
        >>> columns = encoder({"audio": [tone]})
        >>> columns["tokens"][0].shape, columns["num_frames"], columns["num_samples"]
        ((2, 50), [50], [16000])

        From a dataset with a column of audio, one line:

            ds = ds.cast_column("audio", Audio(decode=False)).map(encode_examples(tok), batched=True, batch_size=16)
    """
    return ExampleEncoder(tokenizer, column)


def _row(i: int, value: Any, spec: Spec) -> Tensor:
    """[C, T] at the tokenizer's rate of what a cell of the column holds."""
    try:
        return _read(value, spec)
    except AudiotokError as error:
        path = value.get("path") if isinstance(value, Mapping) else None
        raise type(error)(f"row {i}{f' ({path})' if path else ''}: {error}") from error


def _read(value: Any, spec: Spec) -> Tensor:
    cell: Mapping[str, Any] = value if isinstance(value, Mapping) else {"path": value} if isinstance(value, str) else {}
    if cell.get("array") is not None:
        return _mixed(cell["array"], cell["sampling_rate"], spec)
    if hasattr(value, "get_all_samples"):  # torchcodec's AudioDecoder
        samples = value.get_all_samples()
        return _mixed(samples.data, samples.sample_rate, spec)
    path: Any = cell.get("path")
    source: Any
    if cell.get("bytes") is not None:
        source = io.BytesIO(cell["bytes"])
    elif path is not None:
        source = _fetched(path) if "://" in path else path
    else:
        raise InputError(f"there is no audio in {value!r}")
    return audio.load(source, sample_rate=spec.sample_rate, channels=spec.channels)[0]


def _fetched(url: str) -> io.BytesIO:
    """A file that a streamed dataset names by its address on the Hub or elsewhere."""
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(url, "rb") as file:
            return io.BytesIO(file.read())
    except (OSError, ValueError, ImportError) as error:  # ValueError: a protocol that it does not know
        raise AudioFileError(f"cannot read {url}: {error}") from error


def _mixed(samples: Any, sample_rate: int, spec: Spec) -> Tensor:
    """[C, T] of decoded samples [T] or [C, T], as `audio.load` would give it."""
    wav = audio.as_samples(samples)
    wav = wav[None] if wav.dim() == 1 else wav
    if spec.channels == 1:
        wav = wav.mean(0, keepdim=True)
    elif len(wav) == 1:
        wav = wav.expand(spec.channels, -1)
    return audio.resample(wav, int(sample_rate), spec.sample_rate)


def _array(extra: Tensor) -> npt.NDArray[Any]:
    """Counts stay whole numbers, everything else is float32, as `_extra` reads it."""
    found: npt.NDArray[Any] = (extra.float() if extra.is_floating_point() else extra.long()).numpy()
    return found


def _extra(value: Any) -> Tensor:
    tensor = _tensor(value)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _without_torchcodec(column: str) -> str:
    return (
        f"column {column!r} asks `datasets` to decode it, which needs torchcodec: pip install torchcodec, or read the "
        f"files as they are: ds.cast_column({column!r}, Audio(decode=False))"
    )
