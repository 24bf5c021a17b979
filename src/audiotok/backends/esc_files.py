"""ESC's config.yaml and model.pth, turned into our sizes and weights."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import read_torch, read_yaml
from ..errors import CheckpointError, InputError
from .esc_config import ESCConfig
from .esc_layers import Convolution
from .weights import Weights, named_tensors

#: Arguments of upstream's constructor, with its defaults: what config.yaml may leave out.
_DEFAULTS: dict[str, Any] = {
    "backbone": "transformer",
    "in_dim": 2,
    "in_freq": 192,
    "h_dims": [45, 72, 96, 144, 192, 384],
    "max_streams": 6,
    "win_len": 20,
    "hop_len": 5,
    "sr": 16000,
    "patch_size": [3, 2],
    "swin_heads": [3, 6, 12, 24, 24],
    "swin_depth": 2,
    "window_size": 4,
    "mlp_ratio": 4.0,
    "overlap": 2,
    "group_size": 3,
    "codebook_size": 1024,
    "codebook_dims": [8, 8, 8, 8, 8, 8],
    "l2norm": True,
    "kernel_size": [5, 2],
    "conv_depth": 1,
}

#: Our names of weights to upstream's, one rule after the other.
_RULES = (
    (r"^encoder\.embed\.", "encoder.patch_embed.proj."),
    (r"^encoder\.norm\.", "encoder.patch_embed.norm."),
    (r"^encoder\.first\.", "encoder.pre_nn."),
    (r"^encoder\.layers\.", "encoder.blocks."),
    (r"^decoder\.last\.", "decoder.post_nn."),
    (r"^decoder\.to_patches\.", "decoder.patch_deembed.de_proj1."),
    (r"^decoder\.to_spectrum\.", "decoder.patch_deembed.de_proj2."),
    (r"^quantizer\.scales\.(\d+)\.parts\.(\d+)\.books\.0\.entries$", r"quantizers.\1.vqs.\2.embedding.weight"),
    (r"^quantizer\.scales\.(\d+)\.parts\.(\d+)\.project_in\.", r"quantizers.\1.down_projs.\2."),
    (r"^quantizer\.scales\.(\d+)\.parts\.(\d+)\.project_out\.", r"quantizers.\1.up_projs.\2."),
    (r"\.swin\.(\d+)\.(qkv|proj)\.", r".swint_blocks.\1.attn.\2."),
    (r"\.swin\.(\d+)\.position_bias$", r".swint_blocks.\1.attn.relative_position"),
    (r"\.swin\.", ".swint_blocks."),
    (r"\.mlp\.0\.", ".mlp.linear_1."),
    (r"\.mlp\.2\.", ".mlp.linear_2."),
    (r"^(encoder\..*)\.step\.linear\.", r"\1.subsample.down."),
    (r"^(decoder\..*)\.step\.linear\.", r"\1.subsample.up."),
    (r"\.step\.", ".subsample."),
)

_EPSILON = 1e-5  # of batch norm


def read_config(path: Path) -> ESCConfig:
    """The sizes in a config.yaml.

    Raises:
        CheckpointError: no such file, another model, or sizes that make no network.
    """
    values = read_yaml(path)
    kind, model = values.get("model_name", "csvq"), values.get("model")
    if not isinstance(kind, str) or not kind.startswith("csvq"):
        raise CheckpointError(f"{path}: model_name is {str(kind)[:80]!r}, but only csvq+swinT and csvq+conv are an ESC")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path}: wanted the network's sizes under 'model', found {str(model)[:80]!r}")
    unknown = sorted(str(key)[:80] for key in model.keys() - _DEFAULTS.keys())
    if unknown:
        raise CheckpointError(f"{path}: an ESC has no {', '.join(unknown)}")
    given = {**_DEFAULTS, **model}
    swin = given["backbone"] == "transformer"
    only: dict[str, object] = {"in_dim": 2}
    if isinstance(given["h_dims"], list):
        only["max_streams"] = len(given["h_dims"])
    if not swin:
        only["kernel_size"] = _DEFAULTS["kernel_size"]
    for key, wanted in only.items():
        if given[key] != wanted:
            raise CheckpointError(f"{path}: {key} is {str(given[key])[:80]}, but must be {wanted}")
    try:
        return ESCConfig(
            backbone=given["backbone"],
            widths=given["h_dims"],
            depth=given["swin_depth" if swin else "conv_depth"],
            heads=given["swin_heads"] if swin else (),
            window=given["window_size"] if swin else 1,
            mlp_ratio=given["mlp_ratio"] if swin else 1.0,
            patch=given["patch_size"],
            overlap=given["overlap"],
            groups=given["group_size"],
            codebook_size=given["codebook_size"],
            codebook_dims=given["codebook_dims"],
            cosine=given["l2norm"],
            bins=given["in_freq"],
            sample_rate=given["sr"],
            window_length=_samples(given["win_len"], given["sr"]),
            stft_hop=_samples(given["hop_len"], given["sr"]),
        )
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _samples(milliseconds: object, sample_rate: object) -> int:
    numbers = (milliseconds, sample_rate)
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and 0 < n < 1e6 for n in numbers):
        raise InputError(f"win_len, hop_len and sr must be numbers above zero, not {str(numbers)[:80]}")
    return int(milliseconds * sample_rate * 1e-3)  # type: ignore[operator]


def read_weights(path: Path) -> Weights:
    """The weights of a model.pth: under "model_state_dict", beside what belongs to training, or bare.

    Raises:
        CheckpointError: no such file, or no named tensors in it.
    """
    state = read_torch(path)
    if isinstance(state, dict) and "model_state_dict" in state:
        state = state["model_state_dict"]
    return Weights(named_tensors(state, path), path)


def our_weights(network: nn.Module, config: ESCConfig, weights: Weights) -> dict[str, Tensor]:
    """Upstream's weights under our names, all of them used; most shapes are still to be compared with the network's.

    Args:
        network: ours, on the meta device.
        config: its sizes.
        weights: upstream's.

    Raises:
        CheckpointError: weights are missing, unknown, or cannot be brought into our form.
    """
    for name in ("ft.window", "ift.window"):  # made anew when needed
        window, hann = weights.take(name), torch.hann_window(config.window_length)
        if window.dtype != hann.dtype or window.shape != hann.shape or not torch.allclose(window, hann, atol=1e-6):
            raise CheckpointError(f"{weights.path}: {name} is not a Hann window of {config.window_length} samples")
    if not config.heads:
        weights.ignore("encoder.patch_embed.norm.")  # convolutions come without it
    found: dict[str, Tensor] = {}
    for ours, value in network.state_dict().items():
        theirs = _upstream_name(ours, config)
        if re.search(r"\.project_(in|out)\.bias$", ours):  # upstream's maps have none
            weight = found[ours.removesuffix("bias") + "weight"]
            found[ours] = torch.zeros(weight.shape[:1])
        elif ours.endswith(".position_bias"):
            found[ours] = _position_bias(weights, theirs, value.shape)
        else:
            found[ours] = weights.take(theirs)
    for ours, module in network.named_modules():
        if isinstance(module, Convolution) and module.activation is not None:
            _fold_batch_norm(found, f"{ours}.conv", module.conv, weights, _upstream_name(f"{ours}.norm", config))
    weights.finish()
    return found


def _upstream_name(name: str, config: ESCConfig) -> str:
    """Upstream's name of a weight of ours, or of the norm behind a convolution."""
    name = re.sub(r"^quantizer\.expand\.(\d+)\.layer\.", lambda found: f"decoder.blocks.{int(found[1]) - 1}.", name)
    name = re.sub(r"^decoder\.up\.", f"decoder.blocks.{config.streams - 2}.", name)
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    # Convolution, norm and activation are one module here, three neighbours in a list there.
    steps = {"conv": (0, ".conv"), "norm": (1, ""), "activation": (2, "")}

    def neighbour(found: re.Match[str]) -> str:
        places = 3 if found[1] == ".block" else 1
        step, ending = steps[found[3]]
        return f"{found[1]}.{int(found[2]) * places + step}{ending}"

    return re.sub(r"(\.block|\.blocks)\.(\d+)\.(conv|norm|activation)\b", neighbour, name)


def _position_bias(weights: Weights, theirs: str, shape: torch.Size) -> Tensor:
    """Relative position bias [heads, N, N], kept by upstream as a table and the place in it of each pair."""
    table, index = weights.take(f"{theirs}_bias_table"), weights.take(f"{theirs}_index")
    places = (2 * math.isqrt(shape[1]) - 1) ** 2
    if table.shape != (places, shape[0]) or index.shape != shape[1:]:
        raise CheckpointError(
            f"{weights.path}: {theirs}_bias_table and _index are {list(table.shape)} and {list(index.shape)}, wanted "
            f"{[places, shape[0]]} and {list(shape[1:])}"
        )
    if index.dtype != torch.int64 or not 0 <= int(index.min()) <= int(index.max()) < places:
        raise CheckpointError(f"{weights.path}: {theirs}_index must be int64 in 0..{places - 1}")
    return table[index].permute(2, 0, 1).contiguous()


def _fold_batch_norm(found: dict[str, Tensor], ours: str, conv: nn.Module, weights: Weights, norm: str) -> None:
    """Puts batch norm, with the statistics that it has stored, into the convolution before it."""
    gain, offset, mean, variance = (
        weights.take(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
    )
    weights.ignore(f"{norm}.num_batches_tracked")
    weight, bias = found[f"{ours}.weight"], found[f"{ours}.bias"]
    axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    channels, vectors = weight.shape[axis : axis + 1], (bias, gain, offset, mean, variance)
    fits = weight.dim() == 4 and all(one.shape == channels and one.is_floating_point() for one in vectors)
    if not fits or not weight.is_floating_point():
        raise CheckpointError(f"{weights.path}: {norm} does not fit the convolution before it, {list(weight.shape)}")
    scale = gain.double() / (variance.double() + _EPSILON).sqrt()
    found[f"{ours}.weight"] = (weight.transpose(axis, 3) * scale).transpose(axis, 3).float()
    found[f"{ours}.bias"] = ((bias.double() - mean) * scale + offset).float()
