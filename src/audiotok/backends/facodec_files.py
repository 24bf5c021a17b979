"""The published files of FACodec: which to read, what their weights are called, and what network these speak of."""

import re
from collections.abc import Mapping
from itertools import count, takewhile
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import read_torch
from ..errors import CheckpointError, InputError
from ..nn.weight_norm import fold_weight_norm
from .facodec_config import FACodecConfig
from .weights import FLOATS, refuse_nan

_FILES = {
    1: ("ns3_facodec_encoder.bin", "ns3_facodec_decoder.bin"),
    2: ("ns3_facodec_encoder_v2.bin", "ns3_facodec_decoder_v2.bin"),
}

#: From our names to the published ones, one after another.
_NAMES = (
    (r"^encoder\.", "block."),
    (r"^decoder\.stack\.", "model."),
    (r"(?<=\d)\.(?=\d)", ".block."),
    (r"(?<=\d)\.(alpha|beta)$", r".act.\1"),
    (r"\.up$", ".upsample.filter"),
    (r"\.down$", ".downsample.lowpass.filter"),
    (r"^decoder\.style\.", "timbre_linear."),
    (r"^quantizers\.", "quantizer."),
    (r"\.project_(in|out)\.", r".\1_proj."),
    (r"\.books\.0\.entries$", "._codebook.weight"),
    (r"^prosody\.mel$", "mel_transform.mel_basis"),
    (r"^prosody\.window$", "mel_transform.hann_window"),
    (r"^prosody\.linear\.", "melspec_linear."),
    (r"^prosody\.encoder\.", "melspec_encoder."),
    (r"^timbre\.", "timbre_encoder."),
    (r"\.position$", ".position_emb.pe"),
    (r"_encoder\.norm\.", "_encoder.last_ln."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attention_in\.", ".self_attn.in_proj_"),
    (r"\.attention_out\.", ".self_attn.out_proj."),
    (r"(layers\.\d+)\.conv\.", r"\1.ffn.ffn_1."),
    (r"(layers\.\d+)\.linear\.", r"\1.ffn.ffn_2."),
)

# Heads that only training used: pitch, phones and speakers, with or without reversed gradients.
_PREDICTOR = re.compile(
    r"((f0|phone)_predictor|(res_f0|res_phone|content_f0|prosody_phone|x_timbre)_predictor\.1)\."
    r"(heads\.\d\.(weight|bias)"
    r"|model\.([0-2]\.block\.[13]\.(bias|weight|weight_[gv])"
    r"|([0-2]\.block\.[02]|3)\.(act\.(alpha|beta)|upsample\.filter|downsample\.lowpass\.filter)))",
    re.ASCII,
)


def pair_of_files(source: Path, version: int | None) -> tuple[Path, Path]:
    """Encoder's and decoder's file: `source` is one of them, or their folder.

    Raises:
        InputError: no such version, or a folder with both and none chosen. CheckpointError: one is not there.
    """
    if version is not None and version not in _FILES:
        raise InputError(f"FACodec has versions 1 and 2, not {version!r}")
    folder = source
    if source.is_file():
        of = [number for number, names in _FILES.items() if source.name in names]
        if not of or version not in (None, *of):
            names = ", ".join(name for number in ([version] if version else _FILES) for name in _FILES[number])
            raise CheckpointError(f"{source}: wanted a folder, or one of {names}")
        folder, version = source.parent, of[0]
    there = [number for number, names in _FILES.items() if all((folder / name).is_file() for name in names)]
    if version is None and len(there) == 2:
        raise InputError(f"{folder} holds both versions of FACodec: choose one with version=1 or version=2")
    if not there or version not in (None, *there):
        wanted = " or ".join(" and ".join(names) for number, names in _FILES.items() if version in (None, number))
        raise CheckpointError(f"{folder}: wanted {wanted}, found no such pair. Download both files")
    encoder, decoder = _FILES[version or there[0]]
    return folder / encoder, folder / decoder


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by their published names, weight norm folded, heads of training left out.

    Raises:
        CheckpointError: the file is broken, hostile, or holds anything but tensors of finite floats.
    """
    state = read_torch(path)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{path}: wanted tensors by name, found a {type(state).__name__}")
    odd = sorted(key for key, value in state.items() if not _is_plain(value))
    if odd:
        raise CheckpointError(f"{path}: wanted tensors of floats by name; {', '.join(odd[:5])} is none")
    try:
        folded = fold_weight_norm({key: value for key, value in state.items() if not _PREDICTOR.fullmatch(key)})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    weights = {key: value.float() for key, value in folded.items()}
    refuse_nan(weights, path)
    return weights


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in FLOATS
    )


def sizes_of(weights: Mapping[str, Tensor], heads: int) -> tuple[FACodecConfig, tuple[int, ...]]:
    """The network that the shapes of its weights speak of, and its codebooks' sizes.

    Raises:
        CheckpointError: they speak of none. InputError: heads that do not fit.
    """

    def numbered(pattern: str, start: int = 0) -> list[str]:
        """The names that there are with numbers from `start` on."""
        names = (pattern.format(i) for i in count(start))
        return list(takewhile(weights.__contains__, names))

    def strides(names: list[str]) -> tuple[int, ...]:
        return tuple(_shape(weights, name, 3)[2] // 2 for name in names)

    hidden, dim, kernel = _shape(weights, "timbre_encoder.layers.0.ffn.ffn_1.weight", 3)
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        raise InputError(f"heads must divide the {dim} values of a frame, not be {heads!r}")
    books = [numbered(f"quantizer.{group}.layers.{{}}._codebook.weight") for group in range(3)]
    codebooks = [_shape(weights, name, 2) for group in books for name in group]
    mel = (0, 0, 0)
    if "melspec_linear.weight" in weights:
        bands, bins = (_shape(weights, name, 2)[1] for name in ("melspec_linear.weight", "mel_transform.mel_basis"))
        mel = (bands, 2 * (bins - 1), _shape(weights, "mel_transform.hann_window", 1)[0])
    try:
        config = FACodecConfig(
            channels=_shape(weights, "block.0.weight", 3)[0],
            strides=strides(numbered("block.{}.block.4.weight", 1)),
            dim=dim,
            decoder_channels=_shape(weights, "model.0.weight", 3)[0],
            decoder_strides=strides(numbered("model.{}.block.1.weight", 1)),
            codebook_dim=codebooks[0][1] if codebooks else 0,
            codebooks=tuple(len(group) for group in books if group),
            layers=len(numbered("timbre_encoder.layers.{}.ln_1.weight")),
            hidden=hidden,
            kernel=kernel,
            heads=heads,
            mel_bands=mel[0],
            n_fft=mel[1],
            window=mel[2],
        )
    except InputError as error:
        raise CheckpointError(f"the shapes of the weights are of no such network: {error}") from error
    return config, tuple(shape[0] for shape in codebooks)


def _shape(weights: Mapping[str, Tensor], name: str, dims: int) -> torch.Size:
    if name not in weights:
        raise CheckpointError(f"{name} is missing: these are not the weights of FACodec, or not all of them")
    if weights[name].dim() != dims or 0 in weights[name].shape:
        raise CheckpointError(f"{name} is {list(weights[name].shape)}: wanted {dims} dimensions, none of them 0")
    return weights[name].shape


def state_of(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], config: FACodecConfig
) -> dict[str, Tensor]:
    """The state dict of a network of these shapes, by our names.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    published = {name: published_name(name) for name in shapes}
    missing = sorted(set(published.values()) - weights.keys())
    unknown = sorted(weights.keys() - set(published.values()))
    if missing or unknown:
        raise CheckpointError(f"wanted the weights of FACodec: missing {missing[:5]}, unknown {unknown[:5]}")
    state = {}
    for name, shape in shapes.items():
        value = weights[published[name]]
        if name.endswith(".position"):
            value = value[:1].flatten()  # of the table [5000, 1, D]: see `Transformer`
        elif name == "prosody.mel":
            value = value[: config.mel_bands]  # the lowest of 80 bands
        if value.shape != shape:
            raise CheckpointError(f"{published[name]} gives {list(value.shape)}, the other weights want {list(shape)}")
        state[name] = value
    return state


def published_name(name: str) -> str:
    """What a weight of ours is called in the published files, weight norm folded."""
    for ours, theirs in _NAMES:
        name = re.sub(ours, theirs, name)
    return name
