"""Networks that predict opinions from wav2vec 2.0: UTMOS for speech, SingMOS for singing.

Their published loaders run code from the repositories that hold the weights. Here the networks are ours, and the
weights are read as tensors and nothing else.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import read_torch
from ..errors import CheckpointError
from ..ssl.encoder import SSLEncoder
from ..ssl.encoder_config import SSLConfig
from ..ssl.encoder_weights import encoder_state

_BASE = SSLConfig("wav2vec2", num_layers=12, hidden_size=768, num_heads=12, intermediate_size=3072)
_DOMAIN, _JUDGE = 0, 288  # which the authors of UTMOS ask: the challenge's main track, and its mean listener
_STEM = "ssl_model.ssl_model.upstream.model."
#: fairseq's names of wav2vec 2.0, as patterns, and the transformers library's.
_NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
)


class Utmos(nn.Module):
    """UTMOS, strong learner (Saeki et al. 2022, arXiv 2204.02152): how natural a listener would find speech. Two
    embeddings, a BLSTM and a projection over wav2vec 2.0.

    Args:
        weights: by name, as SpeechBrain stores them: `ssl_encoder.model.` before the transformers library's names of
            wav2vec 2.0, then `domain_embedding`, `judge_embedding`, `decoder` (the BLSTM), `classifier.0` and `.3`.
        config: of the encoder, which takes waveforms as they are.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: SSLConfig = _BASE) -> None:
        super().__init__()
        try:
            context = [weights["domain_embedding.weight"][_DOMAIN], weights["judge_embedding.weight"][_JUDGE]]
            hidden, inner = weights["decoder.weight_hh_l0"].shape[1], weights["classifier.0.weight"].shape[0]
            self.register_buffer("context", torch.cat(context).float())
            with torch.device("meta"):
                self.encoder = SSLEncoder(config, [config.num_layers])
                self.rnn = nn.LSTM(config.hidden_size + len(self.context), hidden, batch_first=True, bidirectional=True)
                self.head = nn.Sequential(nn.Linear(2 * hidden, inner), nn.ReLU(), nn.Linear(inner, 1))
            self.encoder.load_state_dict(encoder_state(weights, config, [config.num_layers]), assign=True)
            self.rnn.load_state_dict({name: weights[f"decoder.{name}"] for name in self.rnn.state_dict()}, assign=True)
            theirs = {"0": "classifier.0", "2": "classifier.3"}  # dropout is the one between
            head = {
                f"{i}.{kind}": weights[f"{name}.{kind}"] for i, name in theirs.items() for kind in ("weight", "bias")
            }
            self.head.load_state_dict(head, assign=True)
        except (KeyError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"these are not the weights of UTMOS: {error}") from error
        self.requires_grad_(False).train(False)

    context: Tensor

    @torch.no_grad()
    def score(self, wav: Tensor) -> float:
        """Mean opinion, about 1 to 5, of wav [T] at 16 kHz, at least `encoder.min_samples`."""
        (features,) = self.encoder(wav[None]).values()  # [1, F, D]
        context = self.context.expand(1, features.shape[1], -1)
        frames: Tensor = self.head(self.rnn(torch.cat([features, context], dim=2))[0])
        return float(frames.mean()) * 2 + 3


class SingMos(nn.Module):
    """SingMOS, first version (Tang et al. 2024, arXiv 2406.10911): how natural a listener would find singing. One
    linear layer over wav2vec 2.0, averaged over frames.

    Args:
        weights: by name, as published: s3prl's wav2vec 2.0 in fairseq's names, and `linear`.
        config: of the encoder, which takes waveforms as they are.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: SSLConfig = _BASE) -> None:
        super().__init__()
        theirs = {
            _renamed(name.removeprefix(_STEM)): value for name, value in weights.items() if name.startswith(_STEM)
        }
        with torch.device("meta"):
            self.encoder = SSLEncoder(config, [config.num_layers])
            self.head = nn.Linear(config.hidden_size, 1)
        self.encoder.load_state_dict(encoder_state(theirs, config, [config.num_layers]), assign=True)
        try:
            self.head.load_state_dict({name: weights[f"linear.{name}"] for name in ("weight", "bias")}, assign=True)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"these are not the weights of SingMOS: {error}") from error
        self.requires_grad_(False).train(False)

    @torch.no_grad()
    def score(self, wav: Tensor) -> float:
        """Mean opinion, about 1 to 5, of wav [T] at 16 kHz, at least `encoder.min_samples`."""
        (features,) = self.encoder(wav[None]).values()  # [1, F, D]
        frames: Tensor = self.head(features)[0, :, 0]
        # s3prl gives a frame for each hop begun: the last one again, where the windows end before the signal.
        missing = -(-len(wav) // self.encoder.hop_length) - len(frames)
        return float(torch.cat([frames, frames[-1:].expand(missing)]).mean())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from a torch file.

    Raises:
        CheckpointError: it is broken, hostile or holds something else.
    """
    weights = read_torch(path)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: wanted tensors by name, found something else. Make sure it is the right file")
    return weights


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name)
    return name
