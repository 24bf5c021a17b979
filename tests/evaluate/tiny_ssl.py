"""The size of networks that stand in for wav2vec 2.0 base and WavLM base: every layer there is, but narrow."""

from typing import Any

from audiotok.ssl.encoder_config import SSLConfig

#: For transformers' configurations.
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
#: The same for ours.
TINY_SSL = SSLConfig("wav2vec2", 2, 32, 4, 48, conv_dim=(8,) * 7, position_kernel=8, position_groups=4)
