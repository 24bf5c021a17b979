"""What a wav2vec 2.0, HuBERT or WavLM network is made of, as plain numbers."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, InputError

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")
_LARGEST = 1 << 16  # of any size: a configuration that lies must not cost memory


@dataclass(frozen=True)
class SSLConfig:
    """Architecture of an `SSLEncoder`. The three families differ only in what stands here.

    Baevski et al. 2020 (arXiv 2006.11477), Hsu et al. 2021 (arXiv 2106.07447), Chen et al. 2022 (arXiv 2110.13900).

    Attributes:
        model_type: "wav2vec2", "hubert" or "wavlm" (which alone has the gated relative position bias).
        num_layers: transformer blocks of the whole network.
        hidden_size, num_heads, intermediate_size: of each block.
        conv_dim, conv_kernel, conv_stride: channels, taps and stride of each convolution of the front end.
        conv_bias: whether those have a bias.
        group_norm: True: one group norm after the first convolution (base models). False: a layer norm after each.
        projection_norm: whether a layer norm comes before the projection to hidden_size.
        pre_norm: True: layer norms before attention and feed-forward (large models). False: after them.
        position_kernel, position_groups: of the convolution that tells positions.
        norm_eps: of the layer norms outside the front end.
        num_buckets, max_distance: of WavLM's relative positions.
        normalize: whether each waveform is brought to zero mean and unit variance first.
        sample_rate: in Hz.

    Raises:
        InputError: sizes that fit no network.

    Example:
        >>> config = SSLConfig("hubert", num_layers=12, hidden_size=768, num_heads=12, intermediate_size=3072)
        >>> config.hop_length, config.min_samples, config.num_frames(16000)
        (320, 400, 49)
    """

    model_type: str
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    group_norm: bool = True
    projection_norm: bool = True
    pre_norm: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    norm_eps: float = 1e-5
    num_buckets: int = 320
    max_distance: int = 800
    normalize: bool = False
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        if self.model_type not in MODEL_TYPES:
            raise InputError(f"model_type must be one of {', '.join(MODEL_TYPES)}, not {self.model_type!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == tuple[int, ...]:
                object.__setattr__(self, field.name, tuple(value))  # JSON gives lists
                _check_sizes(field.name, tuple(value))
            elif field.type is int:
                _check_sizes(field.name, (value,), 10**6 if field.name == "sample_rate" else _LARGEST)
            elif field.type is bool and not isinstance(value, bool):
                raise InputError(f"{field.name} must be true or false, not {value!r}")
        if not 0 < len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) <= 16:
            raise InputError("conv_dim, conv_kernel and conv_stride must be of one length, 1 to 16")
        if any(kernel < stride for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True)):
            raise InputError("a convolution of the front end that skips samples (stride above kernel) is not supported")
        if self.hidden_size % self.num_heads or self.hidden_size % self.position_groups:
            raise InputError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads} and of "
                f"position_groups {self.position_groups}"
            )
        if not 0 < self.norm_eps < 1:
            raise InputError(f"norm_eps must lie between 0 and 1, not {self.norm_eps!r}")
        if self.num_buckets % 4 or self.max_distance <= self.num_buckets // 4:
            raise InputError("num_buckets must be a multiple of 4, and max_distance more than a quarter of it")

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_stride)

    @property
    def min_samples(self) -> int:
        """Samples that one frame needs: the reach of the front end."""
        reach, hop = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            reach, hop = reach + (kernel - 1) * hop, hop * stride
        return reach

    def num_frames(self, num_samples: int) -> int:
        """F = floor((T - min_samples) / hop_length) + 1, and 0 for anything shorter than min_samples."""
        return max(0, (num_samples - self.min_samples) // self.hop_length + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `SSLConfig(**values)` is the way back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, *, normalize: bool | None = None
    ) -> "SSLConfig":
        """Reads what the transformers library calls `config.json` and `preprocessor_config.json`.

        Args:
            config: the first file. Values it leaves out have that library's defaults.
            preprocessor: the second file, for `do_normalize` and `sampling_rate`.
            normalize: overrides `do_normalize`; must be given where there is no second file.

        Raises:
            CheckpointError: another kind of model, or one with parts that are not supported.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            raise CheckpointError(
                f"model_type is {kind!r}: only {', '.join(MODEL_TYPES)} are supported; give such a model's folder"
            )
        for key, supported in _SUPPORTED.items():
            if config.get(key, supported) != supported:
                raise CheckpointError(
                    f"{key} is {config[key]!r} in config.json, and only {supported!r} is supported: use a model "
                    "without that part, or the transformers library"
                )
        if normalize is None:
            if preprocessor is None:
                raise CheckpointError(
                    "no preprocessor_config.json says whether the waveform is normalised: give normalize=True or False"
                )
            normalize = preprocessor.get("do_normalize", True)
        norm = config.get("feat_extract_norm", "group")
        if norm not in ("group", "layer"):
            raise CheckpointError(f"feat_extract_norm is {norm!r} in config.json: only 'group' and 'layer' exist")
        known = {ours: config[theirs] for ours, theirs in _NAMES.items() if theirs in config}
        defaults = {"num_layers": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": 3072}
        try:
            return cls(
                model_type=kind,
                group_norm=norm == "group",
                normalize=normalize,
                sample_rate=(preprocessor or {}).get("sampling_rate", 16000),
                **(defaults | known),
            )
        except (InputError, TypeError) as error:
            raise CheckpointError(f"config.json describes no network: {error}") from error


_NAMES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "conv_dim": "conv_dim",
    "conv_kernel": "conv_kernel",
    "conv_stride": "conv_stride",
    "conv_bias": "conv_bias",
    "projection_norm": "feat_proj_layer_norm",
    "pre_norm": "do_stable_layer_norm",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "norm_eps": "layer_norm_eps",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
}
# `add_adapter` is not here: that adapter comes after the last block and changes no hidden state.
_SUPPORTED: dict[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "adapter_attn_dim": None,
    "conv_pos_batch_norm": False,
}


def _check_sizes(name: str, values: tuple[Any, ...], largest: int = _LARGEST) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise InputError(f"{name} must be whole numbers in 1..{largest}, not {value!r}")
