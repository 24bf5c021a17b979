"""What checkpoints of SNAC and LLM-Codec have in common: a configuration, and the weights of both halves."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, InputError
from ..nn.conv import Apply, Chain, Conv, ConvTranspose, Residual, Stack, Unstack
from ..spec import Spec
from .snac_network import NetworkSizes, Noise, WindowAttention, decoder, encoder
from .weights import Weights, folded, layout

_ATTENTION = {  # our part -> upstream's
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "qkv.weight": "to_qkv.weight",
    "out.weight": "to_out.weight",
    "inverse_periods": "rel_pos.inv_freq",
}


def network_sizes(facts: dict[str, Any], config: Path) -> NetworkSizes:
    """The network that the arguments of upstream's class describe. Raises `CheckpointError` if they make none."""
    try:
        sizes = NetworkSizes(
            encoder_width=facts["encoder_dim"],
            rates=facts["encoder_rates"],
            decoder_width=facts["decoder_dim"],
            decoder_rates=facts["decoder_rates"],
            strides=facts["vq_strides"],
            window=facts["attn_window_size"],
            noise=facts["noise"],
            depthwise=facts["depthwise"],
        )
    except InputError as error:
        raise CheckpointError(f"{config} describes no network that can be built: {error}") from error
    if facts.get("latent_dim") not in (None, sizes.latent):
        raise CheckpointError(
            f"{config}: latent_dim is {facts['latent_dim']!r}, but the encoder ends with {sizes.latent} channels"
        )
    return sizes


def read_weights(tensors: object, path: Path) -> Weights:
    """The weights of a state dict, weight norm folded. Raises `CheckpointError` if it is something else."""
    return Weights(folded(tensors, path), path)


def network_spec(name: str, sample_rate: int, sizes: NetworkSizes, codebook_sizes: Sequence[int]) -> Spec:
    """The spec of a tokenizer with a codebook of these sizes for each level."""
    return Spec(
        name=name,
        sample_rate=sample_rate,
        hop_length=sizes.hop_length,
        codebook_sizes=tuple(codebook_sizes[level] for level in sizes.row_levels),
        nested=True,
        batching="mask",
        row_levels=sizes.row_levels,
    )


def network_state(weights: Weights, sizes: NetworkSizes) -> dict[str, Tensor]:
    """Weights of the encoder and the decoder, by the names that they have in a tokenizer of ours."""
    found: dict[str, Tensor] = {}
    halves = layout(lambda: (encoder(sizes), decoder(sizes)), weights.path)
    places = ("encoder.", "encoder.block"), ("decoder.", "decoder.model")
    for network, (prefix, theirs) in zip(halves, places, strict=True):
        names = dict(_upstream(network, "", theirs))
        attention = {at: names.pop(at) for at in list(names) if isinstance(network.get_submodule(at), WindowAttention)}
        found |= weights.fill(network, names, prefix)
        for at, name in attention.items():
            found |= {f"{prefix}{at}.{ours}": weights.take(f"{name}.{part}") for ours, part in _ATTENTION.items()}
    return found


def _upstream(layers: Chain, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Paths of our layers that have weights, with the names of upstream's modules. What is a convolution with an
    activation here is two modules there, one after the other."""
    index = 0
    for i, layer in enumerate(layers):
        path, name = f"{ours}{i}", f"{theirs}.{index}"
        if isinstance(layer, Stack | Unstack | Apply):
            continue
        if isinstance(layer, Residual) and isinstance(layer.branch, Chain):
            yield from _upstream(layer.branch, f"{path}.branch.", f"{name}.block")
        elif isinstance(layer, Chain):
            yield from _upstream(layer, f"{path}.", f"{name}.block")
        elif isinstance(layer, Noise):
            yield f"{path}.linear", f"{name}.linear"
        elif isinstance(layer, Conv | ConvTranspose) and layer.activation is not None:
            yield f"{path}.activation", name
            index += 1
            yield path, f"{theirs}.{index}"
        else:
            yield path, name
        index += 1
