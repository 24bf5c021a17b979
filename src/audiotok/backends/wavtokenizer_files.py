"""Checkpoints of WavTokenizer: Lightning's with a YAML, and folders of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_json, read_safetensors, read_torch, read_yaml
from ..errors import CheckpointError
from ..nn.seanet import SeanetConfig, plain_names
from .weights import Weights, folded, named_tensors, number

GROUPS = 32  # of the decoder's channels, normalised together
_SAMPLE_RATE = 24000  # fixed in upstream's code
_ENCODEC = "feature_extractor.encodec."
_USED = (f"{_ENCODEC}encoder.", f"{_ENCODEC}quantizer.", "backbone.", "head.")

#: What transformers could have otherwise, but no published network has.
_FIXED = {
    "audio_channels": 1,
    "num_residual_layers": 1,
    "dilation_growth_rate": 2,
    "compress": 2,
    "use_conv_shortcut": True,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "num_lstm_layers": 2,
    "decoder_attention_num_groups": GROUPS,
    "norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Found:
    """What a checkpoint holds, in either format.

    Attributes:
        weights: by transformers' names, weight norm folded.
        seanet: sizes of the encoder.
        decoder: sizes of the decoder.
        codebook_sizes: entries of each codebook.
        sample_rate: in Hz.
    """

    weights: Weights
    seanet: SeanetConfig
    decoder: dict[str, int]
    codebook_sizes: tuple[int, ...]
    sample_rate: int


def read_lightning(path: Path, config: Path | None) -> Found:
    """A `.ckpt`. Sizes are those of its tensors; the YAML, if there is one, must agree. Classes named there are not
    looked at.

    Raises:
        CheckpointError: broken or hostile files, or another network.
    """
    checkpoint: Any = read_torch(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is no Lightning checkpoint: it has no state_dict")
    used = {name: value for name, value in state.items() if isinstance(name, str) and name.startswith(_USED)}
    tensors = plain_names({name.removeprefix(_ENCODEC): value for name, value in named_tensors(used, path).items()})
    if config is None:
        return _found(path, tensors, _SAMPLE_RATE)
    whole = read_yaml(config)
    found = _found(path, tensors, number(_arguments(whole, config).get("sample_rate"), "sample_rate", config))
    parts = (_arguments(whole, config, part) for part in ("feature_extractor", "backbone", "head"))
    _check(
        {name: value for part in parts for name, value in part.items()},
        {
            "dowmsamples": list(found.seanet.ratios),
            "num_quantizers": len(found.codebook_sizes),
            "vq_bins": found.codebook_sizes[0],
            "input_channels": found.seanet.dimension,
            "dim": found.decoder["width"],
            "intermediate_dim": found.decoder["hidden"],
            "num_layers": found.decoder["blocks"],
            "n_fft": found.decoder["fft"],
            "hop_length": found.seanet.hop_length,
            "padding": "same",
        },
        config,
    )
    return found


def read_transformers(path: Path, config: Path) -> Found:
    """A `model.safetensors`, with or without `encoder_model.` before the names of the encoder. Sizes are those of its
    tensors; the `config.json` must agree.

    Raises:
        CheckpointError: broken or hostile files, or another network.
    """
    facts = read_json(config)
    if facts.get("model_type") != "wavtokenizer":
        raise CheckpointError(f"{config} is of a {facts.get('model_type')!r}, not of a wavtokenizer")
    tensors = {}
    for name, value in read_safetensors(path).items():
        name = name.removeprefix("encoder_model.").replace("head.linear.", "head.out.")
        tensors[name.replace("quantizer.codebook.", "quantizer.layers.0.codebook.")] = value
    found = _found(path, tensors, number(facts.get("sampling_rate"), "sampling_rate", config))
    _check(
        facts,
        {
            "upsampling_ratios": list(found.seanet.ratios),
            "num_filters": found.seanet.filters,
            "hidden_size": found.seanet.dimension,
            "codebook_size": found.codebook_sizes[0],
            "decoder_hidden_size": found.decoder["width"],
            "decoder_intermediate_size": found.decoder["hidden"],
            "decoder_num_layers": found.decoder["blocks"],
            **_FIXED,
        },
        config,
    )
    if found.decoder["fft"] != 4 * found.seanet.hop_length:
        raise CheckpointError(f"{path}: windows of {found.decoder['fft']} samples are not four hops long")
    return found


def _found(path: Path, tensors: Mapping[str, Tensor], sample_rate: int) -> Found:
    shapes = _Shapes(folded(tensors, path), path)
    ratios: list[int] = []
    while f"encoder.layers.{3 * len(ratios) + 1}.block.1.conv.weight" in shapes.tensors:
        kernel = shapes.size(f"encoder.layers.{3 * len(ratios) + 3}.conv.weight", 2, of=3)
        ratios.insert(0, number(kernel // 2, "half a kernel", path, high=1 << 10))
    books = shapes.count("quantizer.layers.{}.codebook.embed")
    if not ratios or not books:
        raise CheckpointError(f"{path} holds no encoder and codebook of WavTokenizer")
    seanet = SeanetConfig(
        dimension=shapes.size("quantizer.layers.0.codebook.embed", 1, of=2),
        filters=number(shapes.size("encoder.layers.0.conv.weight", 0, of=3), "the number of filters", path, low=2),
        ratios=tuple(ratios),
        causal=False,
    )
    number(seanet.widest, "the number of channels", path)
    number(seanet.hop_length, "the product of the strides", path)
    decoder = {
        "width": shapes.size("backbone.embed.weight", 0, of=3),
        "hidden": shapes.size("backbone.convnext.0.pwconv1.weight", 0, of=2),
        "blocks": shapes.count("backbone.convnext.{}.pwconv1.weight"),
        "fft": shapes.size("head.out.weight", 0, of=2) - 2,
        "groups": GROUPS,
    }
    sizes = tuple(shapes.size(f"quantizer.layers.{book}.codebook.embed", 0, of=2) for book in range(books))
    weights = Weights(_plain_norms(shapes.tensors, path), path)
    if "head.istft.window" in weights:
        window, hann = weights.take("head.istft.window"), torch.hann_window(decoder["fft"])
        if window.shape != hann.shape or not torch.allclose(window.float(), hann, atol=1e-5):
            raise CheckpointError(f"{path}: head.istft.window is no Hann window of {decoder['fft']} samples")
    return Found(weights, seanet, decoder, sizes, sample_rate)


class _Shapes:
    """Sizes of the tensors of a file."""

    def __init__(self, tensors: dict[str, Tensor], path: Path) -> None:
        self.tensors, self.path = tensors, path

    def size(self, name: str, axis: int, *, of: int) -> int:
        """Length of one of so many axes. Raises `CheckpointError` if there is no such tensor."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.dim() != of or not tensor.numel():
            found = "none" if tensor is None else list(tensor.shape)
            raise CheckpointError(f"{self.path}: wanted weights {name} with {of} axes, found {found}")
        return tensor.shape[axis]

    def count(self, name: str) -> int:
        """How many there are of tensors that are numbered from 0."""
        count = 0
        while name.format(count) in self.tensors:
            count += 1
        return count


def _plain_norms(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Norms that in training pick gain and bias by the bandwidth, as plain ones: here it is always the first."""
    found = {}
    for name, value in tensors.items():
        for theirs, ours in ((".scale.weight", ".weight"), (".shift.weight", ".bias")):
            if name.startswith("backbone.") and name.endswith(theirs):
                if value.dim() != 2 or not value.numel():
                    raise CheckpointError(f"{path}: {name} must be [bandwidths, channels], not {list(value.shape)}")
                name, value = name.removesuffix(theirs) + ours, value[0]
        found[name] = value
    return found


def _check(said: Mapping[str, Any], wanted: Mapping[str, Any], config: Path) -> None:
    """Raises `CheckpointError` if a configuration says otherwise than the tensors."""
    for name, value in wanted.items():
        if said.get(name) != value:
            raise CheckpointError(
                f"{config} is not the configuration of these weights: {name} must be {value!r}, not {said.get(name)!r}"
            )


def _arguments(config: Mapping[str, Any], path: Path, part: str = "") -> dict[str, Any]:
    """Arguments of the model, or of a part of it, in a YAML."""
    names = ("model", "init_args", part, "init_args") if part else ("model", "init_args")
    value: Any = config
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} has no {'.'.join(names)}: is it the YAML of a WavTokenizer?")
    return value
