"""LLM-Codec: SNAC's network with word embeddings of LLaMA 2 as codebooks."""

import os
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoint import file_sha256, read_json, read_torch, read_yaml
from ..errors import CheckpointError
from .snac import SNAC
from .snac_files import network_sizes, network_spec, network_state, read_weights
from .weights import Weights, build, number, one_file

_DEFAULTS = {  # of upstream's class, for what a configuration leaves out
    "sample_rate": 16000,
    "encoder_dim": 64,
    "encoder_rates": [2, 4, 5, 8],
    "decoder_dim": 1536,
    "decoder_rates": [8, 5, 4, 2],
    "attn_window_size": 8,
    "vq_strides": [4, 2, 1],
    "use_cblinear": True,
    "noise": True,
    "depthwise": True,
}
_ROWS = 4096  # of a table that are projected at once


class LLMCodec(SNAC):
    """LLM-Codec, the tokenizer of UniAudio 1.5 (Yang et al. 2024, arXiv 2406.10056).

    SNAC whose tokens are words: every level searches, by cosine, a table of word embeddings that a linear map of its
    own takes to the width of the latents. Only the projected tables are kept. Arguments, attributes and errors as
    `SNAC`.
    """

    family: ClassVar[str] = "llmcodec"


def read_llmcodec(source: Path, *, name: str = "", config: str | os.PathLike[str] | None = None) -> LLMCodec:
    """Reads a checkpoint with a `codec_model`. The two files of word embeddings that upstream also loads are not
    needed: the checkpoint holds them again.

    Args:
        source: the checkpoint, or the folder that holds it.
        name: of the tokenizer.
        config: the YAML or JSON file with `generator.config`; None takes `config.yaml` beside the checkpoint.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("semantic_acoustic.pth", "ckpt.pth", "llm-codec.pth"), "weights")
    config = path.with_name("config.yaml") if config is None else Path(config)
    facts = _DEFAULTS | _arguments(config)
    sizes = network_sizes(facts, config)
    rate = number(facts["sample_rate"], "sample_rate", config, high=1 << 20)
    if facts["use_cblinear"] is not True:
        raise CheckpointError(f"{config}: only networks with use_cblinear are known, not {facts['use_cblinear']!r}")
    checkpoint: Any = read_torch(path)
    if not isinstance(checkpoint, dict) or "codec_model" not in checkpoint:
        raise CheckpointError(f"{path} is no checkpoint of LLM-Codec: it holds no codec_model")
    weights = read_weights(checkpoint["codec_model"], path)
    state = network_state(weights, sizes)
    tables = [_projected(weights, f"quantizer.quantizers.{level}", sizes.latent) for level in range(len(sizes.strides))]
    state |= {f"quantizer.layers.{level}.books.0.entries": table for level, table in enumerate(tables)}
    weights.finish()
    spec = network_spec(name or "llmcodec", rate, sizes, [len(table) for table in tables])
    tokenizer = build(lambda: LLMCodec(spec, sizes), state, path)
    tokenizer.provenance = {
        "license": "not stated; the codebooks are projected word embeddings of LLaMA 2 (LLaMA 2 Community License)",
        "paper": "arXiv 2406.10056",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer


def _arguments(config: Path) -> dict[str, Any]:
    """Of upstream's class, from a configuration for training."""
    facts: Any = read_json(config) if config.suffix == ".json" else read_yaml(config)
    for key in ("generator", "config"):
        facts = facts.get(key)
        if not isinstance(facts, dict):
            raise CheckpointError(f"{config} describes no LLM-Codec: it holds no generator.config")
    found: dict[str, Any] = facts
    return found


def _projected(weights: Weights, level: str, latent: int) -> Tensor:
    """The table [V, latent] in which a level is searched, each row rounded once."""
    words, weight, bias = (
        weights.take(f"{level}.{part}") for part in ("codebook.weight", "cb_proj.weight", "cb_proj.bias")
    )
    if words.dim() != 2 or not len(words) or weight.shape != (latent, words.shape[1]) or bias.shape != (latent,):
        raise CheckpointError(
            f"{weights.path}: {level} takes words {list(words.shape)} to the latents by {list(weight.shape)} and "
            f"{list(bias.shape)}, wanted a width of {latent}"
        )
    maps = weight.double(), bias.double()
    return torch.cat([functional.linear(some.double(), *maps).float() for some in torch.split(words, _ROWS)])
