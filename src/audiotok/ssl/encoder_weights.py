"""Published wav2vec 2.0, HuBERT and WavLM weights, as the transformers library stores them, for an `SSLEncoder`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import read_json, read_safetensors, read_torch
from ..errors import CheckpointError
from ..nn.weight_norm import fold_weight_norm
from .encoder import SSLEncoder
from .encoder_config import SSLConfig

_MARK = "feature_extractor.conv_layers.0.conv.weight"  # every such network has it
_MAX_MISSING = 6  # names in a message


def load_encoder(folder: str | os.PathLike[str], layers: Sequence[int], *, normalize: bool | None = None) -> SSLEncoder:
    """The encoder of a folder as published: `config.json`, `preprocessor_config.json` and the weights.

    Args:
        folder: with `model.safetensors` or `pytorch_model.bin`; the first is taken if there are both.
        layers: hidden states to give; nothing above the highest is kept.
        normalize: overrides `do_normalize`; must be given where there is no `preprocessor_config.json`.

    Raises:
        CheckpointError: a file is missing or broken, or is of another kind of model.
        InputError: there are no such layers.
    """
    folder = Path(folder)
    preprocessor = folder / "preprocessor_config.json"
    config = SSLConfig.from_transformers(
        read_json(folder / "config.json"),
        read_json(preprocessor) if preprocessor.exists() else None,
        normalize=normalize,
    )
    with torch.device("meta"):
        encoder = SSLEncoder(config, layers)
    encoder.load_state_dict(encoder_state(_read(folder), config, encoder.layers), assign=True)
    encoder.requires_grad_(False)
    return encoder


def encoder_state(
    weights: Mapping[str, Tensor], config: SSLConfig, layers: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The state dict of `SSLEncoder(config, layers)` out of one of the transformers library.

    Queries, keys and values are joined, weight norm and the sums of WavLM's gates are folded, convolutions become
    matrices. Heads of pre-training classes and layers above those asked for are ignored.

    Args:
        weights: by name, with whatever prefix the model's class put before them.
        config: the architecture.
        layers: as for `SSLEncoder`.
        dtype: of the result; what is folded is folded in float64 first.

    Raises:
        CheckpointError: a weight that is needed is missing or has another shape.
    """
    prefixes = [name.removesuffix(_MARK) for name in weights if name.endswith(_MARK)]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"wanted the weights of one wav2vec 2.0, HuBERT or WavLM in the transformers library's names, found "
            f"{len(prefixes)} tensors named ...{_MARK} among {len(weights)}: convert the checkpoint to that form first"
        )
    stem = f"{prefixes[0]}encoder.pos_conv_embed."
    pair = {name: value.double() for name, value in weights.items() if name.startswith(stem)}
    weights = dict(weights) | fold_weight_norm(pair)
    missing: list[str] = []

    def take(name: str, *shape: int) -> Tensor:
        value = weights.get(prefixes[0] + name)
        if value is None:
            missing.append(name)
            return torch.zeros(shape)
        if value.shape != shape or not value.is_floating_point():
            raise CheckpointError(
                f"{prefixes[0]}{name} is {value.dtype} {list(value.shape)}, but config.json says float {list(shape)}: "
                "make sure that config.json and the weights belong together"
            )
        return value.detach().double()

    found = _front(take, config) | _position(take, config)
    depth = max(layers)
    for i in range(depth):
        found |= _block(take, config, i)
    if config.model_type == "wavlm" and depth:
        table = "encoder.layers.0.attention.rel_attn_embed.weight"
        found["relative.weight"] = take(table, config.num_buckets, config.num_heads)
    if missing:
        shown = ", ".join(missing[:_MAX_MISSING]) + (" ..." if len(missing) > _MAX_MISSING else "")
        raise CheckpointError(
            f"{len(missing)} weights that layers up to {depth} need are missing: {shown}. Make sure that config.json "
            "and the weights belong together, or download them again"
        )
    # Copies: a tensor that shared memory with the file's would keep all of it alive.
    return {name: value.to(dtype, copy=True).contiguous() for name, value in found.items()}


_Take = Callable[..., Tensor]


def _read(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").exists():
        return read_safetensors(folder / "model.safetensors")
    path = folder / "pytorch_model.bin"
    if not path.exists():
        raise CheckpointError(f"{folder}: wanted model.safetensors or pytorch_model.bin, found neither. Download one")
    state = read_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: wanted tensors by name, found something else. Make sure it is the right file")
    return state


def _affine(take: _Take, theirs: str, ours: str, *shape: int) -> dict[str, Tensor]:
    return {f"{ours}.weight": take(f"{theirs}.weight", *shape), f"{ours}.bias": take(f"{theirs}.bias", shape[0])}


def _front(take: _Take, config: SSLConfig) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    channels = 1
    for i, (width, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        stem, ours = f"feature_extractor.conv_layers.{i}", f"front.convs.{i - 1}" if i else "front.first"
        weight = take(f"{stem}.conv.weight", width, channels, kernel)
        found[f"{ours}.weight"] = weight.transpose(1, 2).reshape(width, kernel * channels)
        if config.conv_bias:
            found[f"{ours}.bias"] = take(f"{stem}.conv.bias", width)
        if not config.group_norm:
            found |= _affine(take, f"{stem}.layer_norm", f"front.norms.{i}", width)
        elif i == 0:
            found["front.first.norm_weight"] = take(f"{stem}.layer_norm.weight", width)
            found["front.first.norm_bias"] = take(f"{stem}.layer_norm.bias", width)
        channels = width
    if config.projection_norm:
        found |= _affine(take, "feature_projection.layer_norm", "front.norm", channels)
    return found | _affine(take, "feature_projection.projection", "front.projection", config.hidden_size, channels)


def _position(take: _Take, config: SSLConfig) -> dict[str, Tensor]:
    size, stem = config.hidden_size, "encoder.pos_conv_embed.conv"
    weight = take(f"{stem}.weight", size, size // config.position_groups, config.position_kernel)
    found = {"position.weight": weight, "position.bias": take(f"{stem}.bias", size)}
    return found if config.pre_norm else found | _affine(take, "encoder.layer_norm", "norm", size)


def _block(take: _Take, config: SSLConfig, index: int) -> dict[str, Tensor]:
    size, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads
    theirs, ours = f"encoder.layers.{index}", f"blocks.{index}"
    parts = [_affine(take, f"{theirs}.attention.{part}_proj", part, size, size) for part in "qkv"]
    found = {
        f"{ours}.attention.qkv.{kind}": torch.cat(
            [part[f"{name}.{kind}"] for name, part in zip("qkv", parts, strict=True)]
        )
        for kind in ("weight", "bias")
    }
    found |= _affine(take, f"{theirs}.attention.out_proj", f"{ours}.attention.out", size, size)
    found |= _affine(take, f"{theirs}.layer_norm", f"{ours}.norm", size)
    found |= _affine(take, f"{theirs}.feed_forward.intermediate_dense", f"{ours}.wide", inner, size)
    found |= _affine(take, f"{theirs}.feed_forward.output_dense", f"{ours}.narrow", size, inner)
    found |= _affine(take, f"{theirs}.final_layer_norm", f"{ours}.final_norm", size)
    if config.model_type == "wavlm":
        gate = f"{theirs}.attention.gru_rel_pos"
        folded = _affine(take, f"{gate}_linear", "gate", 8, size // heads)
        found[f"{ours}.attention.gate.weight"] = folded["gate.weight"].view(2, 4, -1).sum(1)
        found[f"{ours}.attention.gate.bias"] = folded["gate.bias"].view(2, 4).sum(1)
        found[f"{ours}.attention.gate_scale"] = take(f"{gate}_const", 1, heads, 1, 1).view(heads)
    return found
