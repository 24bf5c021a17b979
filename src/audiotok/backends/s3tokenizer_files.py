"""Published files of S3Tokenizer: weights, and what can be told of the network from them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_json, read_torch
from ..errors import CheckpointError, InputError
from .s3tokenizer_network import ROTARY_SIZE
from .s3tokenizer_onnx import read_s3_onnx
from .weights import named_tensors, number

_CODEBOOK = "quantizer._codebook"
_RENAMED = {
    f"{_CODEBOOK}.embed": "quantizer.books.0.entries",
    f"{_CODEBOOK}.project_down.weight": "project_down.weight",
    f"{_CODEBOOK}.project_down.bias": "project_down.bias",
}
_FSQ_CODES = 3**8


@dataclass(frozen=True)
class Published:
    """Weights by our names, settings of the network, number of codes."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    codebook_size: int


def read_published(path: Path, frame_rate: int | None = None) -> Published:
    """Reads a .onnx of CosyVoice, or a state dict of s3tokenizer, with the config.json beside it if that is theirs.

    Args:
        path: the file.
        frame_rate: 50 or 25 Hz, where the files do not say it.

    Raises:
        CheckpointError: a file is broken, or of another kind. InputError: frame_rate is wrong, or needed.
    """
    state, facts = _read(path)
    config = _read_config(path.parent / "config.json")
    rotary = f"{_CODEBOOK}.project_down.weight" in state
    if rotary == (f"{_CODEBOOK}.embed" in state):
        raise CheckpointError(f"{path} is no S3Tokenizer: it has {'two' if rotary else 'no'} quantizers of its kinds")
    sizes = _sizes(path, state, rotary)
    for key, value in sizes.items():
        if config.get(key, value) != value and not (rotary and key == "n_audio_ctx"):
            raise CheckpointError(
                f"{path.parent / 'config.json'}: {key} is {config[key]!r}, but {path.name} has {value}"
            )
    settings = {
        **facts,
        "size": sizes["n_audio_state"],
        "heads": _heads(path, config, sizes["n_audio_state"]),
        "layers": sizes["n_audio_layer"],
        "positions": sizes["n_audio_ctx"],
        "stride": _stride(path, [facts.get("stride"), 2 if rotary else None, config.get("stride")], frame_rate),
    }
    floats = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    weights = {_RENAMED.get(name, name): value for name, value in floats.items()}
    return Published(weights, settings, sizes["n_codebook_size"])


def _read(path: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Weights by the names of s3tokenizer, and facts about the network that they do not tell."""
    if path.suffix == ".onnx":
        found = read_s3_onnx(path)
        facts = {
            "stride": found.stride,
            "attention_norm_eps": found.attention_norm_eps,
            "mlp_norm_eps": found.mlp_norm_eps,
        }
        return found.state, facts
    return named_tensors(read_torch(path), path), {}


def _read_config(path: Path) -> dict[str, Any]:
    """The config.json, if there is one that describes an S3Tokenizer; CosyVoice's folders hold others."""
    config = read_json(path) if path.is_file() else {}
    return config if "n_audio_state" in config else {}


def _sizes(path: Path, state: Mapping[str, Tensor], rotary: bool) -> dict[str, int]:
    """What the shapes tell, by the names of s3tokenizer's configuration."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in state or state[name].dim() != axes:
            found = list(state[name].shape) if name in state else "nothing"
            raise CheckpointError(f"{path}: wanted {name} with {axes} axes, found {found}")
        return tuple(number(size, f"a size of {name}", path) for size in state[name].shape)

    size, mels, _ = shape("encoder.conv1.weight", 3)
    blocks = (re.match(r"encoder\.blocks\.(\d{1,4})\.", name) for name in state)
    return {
        "n_mels": mels,
        "n_audio_state": size,
        "n_audio_layer": max((int(block[1]) + 1 for block in blocks if block), default=0),
        "n_audio_ctx": 0 if rotary else shape("encoder.positional_embedding", 2)[0],
        "n_codebook_size": _FSQ_CODES if rotary else shape(f"{_CODEBOOK}.embed", 2)[0],
    }


def _heads(path: Path, config: dict[str, Any], size: int) -> int:
    if "n_audio_head" in config:
        return number(config["n_audio_head"], "n_audio_head", path.parent / "config.json")
    if size % ROTARY_SIZE:
        raise CheckpointError(
            f"{path}: {size} dimensions are no heads of {ROTARY_SIZE}, which all published files have: a config.json "
            "beside it must give n_audio_head"
        )
    return size // ROTARY_SIZE


def _stride(path: Path, told: list[object], frame_rate: int | None) -> int:
    """Of the first convolution: 1 gives 50 Hz, 2 gives 25 Hz."""
    if frame_rate not in (None, 25, 50):
        raise InputError(f"frame_rate must be 25 or 50 Hz, not {frame_rate!r}")
    strides = {number(stride, "stride", path, high=2) for stride in told if stride is not None}
    if len(strides) > 1:
        raise CheckpointError(f"{path}: its weights and nodes, and the config.json beside it, are of different rates")
    wanted = None if frame_rate is None else 50 // frame_rate
    found = next(iter(strides), wanted)
    if found is None:
        raise InputError(f"{path} does not hold its rate: give frame_rate=50 or frame_rate=25")
    if wanted not in (None, found):
        raise InputError(f"{path} gives {50 // found} frames a second, not frame_rate={frame_rate}")
    return found
