"""Sizes of Mimi, and the configurations that name them: those of moshi and of transformers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import read_json
from ..errors import CheckpointError
from ..nn.seanet import SeanetConfig
from .weights import number, numbers

_LARGEST, _WIDEST = 1 << 14, 1 << 18

#: Where a configuration of moshi has what one of transformers has under these names.
_MOSHI_FACTS = {
    "sampling_rate": "sample_rate",
    "audio_channels": "channels",
    "frame_rate": "frame_rate",
    "hidden_size": "seanet.dimension",
    "num_filters": "seanet.n_filters",
    "upsampling_ratios": "seanet.ratios",
    "num_residual_layers": "seanet.n_residual_layers",
    "kernel_size": "seanet.kernel_size",
    "residual_kernel_size": "seanet.residual_kernel_size",
    "last_kernel_size": "seanet.last_kernel_size",
    "dilation_growth_rate": "seanet.dilation_base",
    "compress": "seanet.compress",
    "num_quantizers": "quantizer.n_q",
    "num_semantic_quantizers": "quantizer.n_q_semantic",
    "codebook_size": "quantizer.bins",
    "codebook_dim": "quantizer.dimension",
    "num_attention_heads": "transformer.num_heads",
    "num_hidden_layers": "transformer.num_layers",
    "intermediate_size": "transformer.dim_feedforward",
    "sliding_window": "transformer.context",
    "rope_theta": "transformer.max_period",
}

#: What this network is, and a configuration must not deny.
_MOSHI_KIND = {
    "seanet.activation": "ELU",
    "seanet.causal": True,
    "seanet.pad_mode": "constant",
    "seanet.true_skip": True,
    "transformer.causal": True,
    "transformer.gating": "none",
    "transformer.norm": "layer_norm",
    "transformer.positional_embedding": "rope",
}
_TRANSFORMERS_KIND = {
    "model_type": "mimi",
    "hidden_act": "gelu",
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "attention_bias": False,
    "rope_scaling": None,
}


@dataclass(frozen=True)
class MimiConfig:
    """Sizes of the network.

    Attributes:
        seanet: of its convolutions.
        stride: frames of SEANet in one of tokens.
        heads, layers, hidden, context, max_period, epsilon: of each transformer; see `CausalTransformer`.
        semantic: codebooks of the first quantizer.
        codebook_dim: width of the space in which both quantizers search.
    """

    seanet: SeanetConfig
    stride: int
    heads: int
    layers: int
    hidden: int
    context: int
    max_period: float
    epsilon: float
    semantic: int
    codebook_dim: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "seanet": self.seanet.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MimiConfig":
        """The inverse of `to_dict`."""
        return cls(**{**values, "seanet": SeanetConfig.from_dict(values["seanet"])})


@dataclass(frozen=True)
class Described:
    """What a configuration says."""

    network: MimiConfig
    sample_rate: int
    codebooks: int
    codebook_size: int


def read_config(file: Path | None, *, moshi: bool) -> Described:
    """Sizes from a configuration of moshi or of transformers; without a file, those of the published model.

    Raises:
        CheckpointError: it is missing, broken or of another network.
    """
    values = {} if file is None else read_json(file)
    file = file or Path("the published sizes")
    if moshi:
        values = _flat(values)
        _expect(values, _MOSHI_KIND, file)
        values = {ours: values[theirs] for ours, theirs in _MOSHI_FACTS.items() if theirs in values}
    else:
        _expect({"model_type": None, **values}, _TRANSFORMERS_KIND, file)
        values = {name: value for name, value in values.items() if value is not None}
    return _described(_Facts(values, file))


def _described(facts: "_Facts") -> Described:
    seanet = SeanetConfig(
        channels=facts.number("audio_channels", 1, high=2),
        dimension=facts.number("hidden_size", 512),
        filters=facts.number("num_filters", 64),
        ratios=tuple(numbers(facts.get("upsampling_ratios", [8, 6, 5, 4]), "upsampling_ratios", facts.file, high=1024)),
        residual_layers=facts.number("num_residual_layers", 1, high=8),
        kernel=facts.number("kernel_size", 7),
        residual_kernel=facts.number("residual_kernel_size", 3),
        last_kernel=facts.number("last_kernel_size", 3),
        dilation_base=facts.number("dilation_growth_rate", 2, high=8),
        compress=facts.number("compress", 2),
        lstm_layers=0,
        pad_mode="zeros",
        conv_shortcut=False,
    )
    if seanet.widest > _WIDEST:
        raise CheckpointError(f"{facts.file}: {seanet.filters} filters grow to {seanet.widest} channels")
    sample_rate = facts.number("sampling_rate", 24000, high=1 << 20)
    rope = facts.get("rope_parameters", {})
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"{facts.file}: no such rotary positions here: {rope!r}")
    heads, codebooks = facts.number("num_attention_heads", 8), facts.number("num_quantizers", 32, high=256)
    network = MimiConfig(
        seanet=seanet,
        stride=facts.stride(sample_rate, seanet),
        heads=heads,
        layers=facts.number("num_hidden_layers", 8, high=256),
        hidden=facts.number("intermediate_size", 2048, high=1 << 16),
        context=facts.number("sliding_window", 250, high=1 << 20),
        max_period=facts.real("rope_theta", rope.get("rope_theta", 10000.0), low=1.0, high=1e12),
        epsilon=facts.real("norm_eps", 1e-5, low=0.0, high=0.1),
        semantic=facts.number("num_semantic_quantizers", 1, high=256),
        codebook_dim=facts.number("codebook_dim", 256),
    )
    if network.semantic >= codebooks:
        raise CheckpointError(
            f"{facts.file}: {network.semantic} of {codebooks} codebooks are semantic: some must not be"
        )
    same = {
        "num_key_value_heads": heads,
        "head_dim": seanet.dimension // heads,
        "upsample_groups": seanet.dimension,
        "vector_quantization_hidden_dimension": network.codebook_dim,
    }
    _expect(facts.values, same, facts.file)
    size = facts.number("codebook_size", 2048, high=1 << 24)
    return Described(network, sample_rate, codebooks, size)


class _Facts:
    """Values of a configuration by the names of transformers; those that it leaves out are the published model's."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        self.values, self.file = values, file

    def get(self, name: str, default: object) -> Any:
        return self.values.get(name, default)

    def number(self, name: str, default: int, *, high: int = _LARGEST) -> int:
        return number(self.get(name, default), name, self.file, high=high)

    def real(self, name: str, default: object, *, low: float, high: float) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise CheckpointError(f"{self.file}: {name} must be a number from {low} to {high}, not {value!r}")
        return float(value)

    def stride(self, sample_rate: int, seanet: SeanetConfig) -> int:
        """Frames of SEANet in one of tokens: 2, or what the frame rate says."""
        rate = sample_rate / seanet.hop_length
        wanted = self.real("frame_rate", self.get("_frame_rate", rate / 2), low=rate / 64, high=rate / 2)
        stride = round(rate / wanted)
        if abs(rate / wanted - stride) > 1e-3:
            raise CheckpointError(f"{self.file}: {wanted} frames/s are no whole fraction of {rate}")
        return stride


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    nested = {key: value for key, value in facts.items() if isinstance(value, dict)}
    below = {f"{key}.{name}": value for key, values in nested.items() for name, value in values.items()}
    return {key: value for key, value in facts.items() if key not in nested} | below


def _expect(facts: Mapping[str, Any], wanted: Mapping[str, object], file: Path) -> None:
    """Raises CheckpointError for the first of the facts, if it is there, that is not as wanted."""
    for name, value in wanted.items():
        if facts.get(name, value) != value:
            raise CheckpointError(f"{file}: {name} is {facts[name]!r}, but only {value!r} is a Mimi that is known here")
