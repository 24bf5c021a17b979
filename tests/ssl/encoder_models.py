"""Seven small networks, one of each architecture, with the same random weights in transformers' form and in ours."""

from functools import cache

import torch
import transformers
from torch import Tensor

from audiotok.ssl.encoder import SSLEncoder
from audiotok.ssl.encoder_config import SSLConfig
from audiotok.ssl.encoder_weights import encoder_state

BASE = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {**BASE, "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
STRIDE_640 = {"conv_dim": [24] * 8, "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2], "conv_stride": [5, *[2] * 7]}
WAVLM = {"num_buckets": 32, "max_bucket_distance": 40}  # most distances share a logarithmic bucket
ARCHITECTURES = {
    "wav2vec2-base": ("Wav2Vec2", BASE, True),
    "wav2vec2-large": ("Wav2Vec2", LARGE, True),
    "hubert-base": ("Hubert", BASE, False),
    "hubert-large": ("Hubert", LARGE, True),
    "hubert-25hz": ("Hubert", {**BASE, **STRIDE_640}, False),
    "wavlm-base": ("WavLM", {**BASE, **WAVLM}, False),
    "wavlm-large": ("WavLM", {**LARGE, **WAVLM, "conv_bias": False}, True),
}


@cache
def theirs(name: str) -> torch.nn.Module:
    """The transformers model, every weight drawn so that every part matters. Treat as read-only."""
    family, values, _ = ARCHITECTURES[name]
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**values)).eval()
    draw = torch.Generator().manual_seed(len(name))
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        if key.endswith("original0"):  # lengths of the positional convolution's weights
            parameter.data = 1.5 + 0.3 * noise
        elif key.endswith("const") or (parameter.ndim == 1 and key.endswith("weight")):
            parameter.data = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.2 * noise
        elif key.endswith("rel_attn_embed.weight"):
            parameter.data = noise
        else:
            parameter.data = 1.4 * noise / (parameter.numel() / parameter.shape[0]) ** 0.5
        parameter.requires_grad_(False)
    return model


@cache
def config_of(name: str) -> SSLConfig:
    """Read from the transformers model's own config.json."""
    return SSLConfig.from_transformers(theirs(name).config.to_dict(), normalize=ARCHITECTURES[name][2])


def ours(name: str, layers: tuple[int, ...] = (0, 1, 2, 3)) -> SSLEncoder:
    """A new encoder with the same weights."""
    config = config_of(name)
    encoder = SSLEncoder(config, layers)
    encoder.load_state_dict(encoder_state(theirs(name).state_dict(), config, layers))
    return encoder


def hidden_states(name: str, wav: Tensor) -> list[Tensor]:
    """What transformers gives for rows [B, T] of one length, in the dtype of wav."""
    model = theirs(name).to(wav.dtype)
    if ARCHITECTURES[name][2]:
        wav = torch.nn.functional.layer_norm(wav, wav.shape[-1:])
    with torch.no_grad():
        states = list(model(wav, output_hidden_states=True).hidden_states)
    model.float()
    return states
