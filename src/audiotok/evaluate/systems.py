"""`open_system`: a tokenizer at some number of codebooks, or an anchor that has no tokens, by what the user wrote."""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ..codes import Codes
from ..errors import InputError, UnknownTokenizerError, UnsupportedError
from ..hub import DEFAULT, load, parse_name
from ..tokenizer import Tokenizer
from .anchors import ANCHORS, open_anchor
from .base import Outcome, System, brought_back, clock

__all__ = ["Outcome", "System", "TokenizerSystem", "open_system", "size_in_bits"]

_COUNTED = re.compile(r"(?P<name>.+):(?P<count>\d+)")


class TokenizerSystem(System):
    """A tokenizer with the codebooks in use.

    Mono audio is copied to the channels that it takes, and what it decodes to is averaged over them.
    """

    tokenizer: Tokenizer

    def __init__(self, text: str, label: str, tokenizer: Tokenizer) -> None:
        super().__init__(text, label, tokenizer)

    def _run(self, wav: Tensor, sample_rate: int) -> Outcome:
        spec, device = self.tokenizer.spec, self.tokenizer.device
        if not spec.decodable:
            raise UnsupportedError(f"{spec.name} only encodes: there is no audio of it to compare")
        codes, encode_seconds = self.encode(wav, sample_rate)
        start = clock(device)
        decoded = self.tokenizer.decode(codes)[0]
        decode_seconds = clock(device) - start
        return Outcome(
            wav=brought_back(decoded, spec.output_sample_rate, sample_rate, wav.shape[1]),
            bits=size_in_bits(codes),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            codes=codes,
        )

    def encode(self, wav: Tensor, sample_rate: int) -> tuple[Codes, float]:
        """Codes of wav [1, T], and the seconds that they took."""
        start = clock(self.tokenizer.device)
        codes = self.tokenizer.encode([wav.expand(self.tokenizer.spec.channels, -1)], sample_rate)
        return codes, clock(self.tokenizer.device) - start


def open_system(text: str, device: str | torch.device = "cpu") -> System:
    """What a user names on the command line, ready to run.

    Args:
        text: NAME or NAME:K. NAME is "default", or anything that `audiotok.load` takes: a catalog name, a folder ./x,
            a Hub repository; K uses its first K codebooks, where it has such. A folder whose own name ends so is
            written as it is, "./run:4", and wins over the folder "./run". Or an anchor: "opus:KBPS", "codec2:BPS",
            "original" (the audio itself, the best that any system can do).
        device: of the tokenizer.

    Raises:
        InputError: text that names nothing; the message gives the nearest names, or the numbers that fit.
        MissingDependencyError: an anchor's program is not installed. CheckpointError, HubError, PluginError: as
            `audiotok.load`.

    Example:
        >>> open_system("logmel-16khz:4").tokenizer.spec.bitrate_bps
        2000.0
        >>> open_system("original").run(torch.ones(1, 160), 16000).bits
        2560.0
    """
    if text.partition(":")[0] in ANCHORS:
        return open_anchor(text)
    name, count = _name_and_count(text)
    try:
        tokenizer = load(DEFAULT if name == "default" else name, device=device)
        if count is not None:
            tokenizer.use_codebooks(count)
    except (UnknownTokenizerError, UnsupportedError, InputError) as error:
        unknown = isinstance(error, UnknownTokenizerError) and parse_name(name)[1] == "catalog"
        hint = f"; anchors are {', '.join(ANCHORS.values())}" if unknown else ""
        raise InputError(f"{text!r}: {error}{hint}") from error
    return TokenizerSystem(text, _label(name, tokenizer), tokenizer)


def size_in_bits(codes: Codes) -> float:
    """Size of codes without entropy coding: the frames of every row times the sum of log2 V, and what must travel
    beside them (`Codes.extras`: a float in its own size, whole numbers in as many bits as the largest of them has)."""
    tokens = int(codes.lengths.sum()) * sum(math.log2(size) for size in codes.spec.codebook_sizes)
    return tokens + sum(value.numel() * _width(value) for value in codes.extras.values())


def _width(value: Tensor) -> int:
    if value.is_floating_point():
        return 8 * value.element_size()
    return max(1, int(value.max()).bit_length()) if value.numel() else 0


def _name_and_count(text: str) -> tuple[str, int | None]:
    """What comes before a last ":", and the number after it."""
    is_folder = parse_name(text.rpartition(":")[0] or text)[1] == "folder"
    if ":" not in text or (is_folder and Path(text).expanduser().is_dir()):
        return text, None
    found = _COUNTED.fullmatch(text)
    if found is None:
        there_is_none = f", and there is no folder {text}" if is_folder else ""
        raise InputError(
            f"{text!r}: after ':' comes the number of codebooks to use, not {text.rpartition(':')[2]!r}{there_is_none}"
        )
    return found["name"], int(found["count"])


def _label(name: str, tokenizer: Tokenizer) -> str:
    """A folder by its own name, everything else by the tokenizer's, and how many codebooks of how many are used."""
    label = Path(name).expanduser().resolve().name if parse_name(name)[1] == "folder" else tokenizer.spec.name
    used, all_of_them = tokenizer.spec.num_codebooks, tokenizer.full_spec.num_codebooks
    return label if used == all_of_them else f"{label}, {used} of {all_of_them} codebooks"
