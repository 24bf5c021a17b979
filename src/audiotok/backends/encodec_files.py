"""EnCodec's checkpoints: of the encodec package, of audiocraft and of transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import parse_yaml, read_json, read_safetensors, read_torch
from ..errors import CheckpointError
from ..nn.flow import PadMode
from ..nn.seanet import SeanetConfig
from .weights import flag, named_tensors, number, numbers, one_file

#: Of numbers that cost time and memory before any tensor bears witness to them.
_LIMITS = {"residual_layers": 8, "dilation_base": 8, "lstm_layers": 16}
_MIN_SEGMENT, _MAX_SEGMENT, _MAX_OVERLAP = 0.01, 3600, 0.9  # seconds, seconds, share


@dataclass(frozen=True)
class Found:
    """What a checkpoint says, in whatever format."""

    path: Path
    tensors: dict[str, Tensor]
    seanet: SeanetConfig
    sample_rate: int
    segment: int | None = None
    overlap: float = 0.01
    normalize: bool = False
    licence: str = "unknown"


def find_encodec(source: Path) -> Found:
    """What a folder or file says. Raises `CheckpointError` for anything else than an EnCodec."""
    path = one_file(source, ("model.safetensors", "compression_state_dict.bin", "*.th"), "weights")
    if path.suffix == ".safetensors":
        return _of_transformers(path)
    return _of_audiocraft(path) if path.suffix == ".bin" else _of_package(path)


#: What the encodec package's code says of the two models that it publishes.
_PACKAGE: dict[str, dict[str, Any]] = {
    "encodec_24khz": {"sample_rate": 24000, "channels": 1, "causal": True},
    "encodec_48khz": {
        "sample_rate": 48000,
        "channels": 2,
        "causal": False,
        "model_norm": "time_group_norm",
        "audio_normalize": True,
        "segment": 1.0,
        "overlap": 0.01,
    },
}


def _of_package(path: Path) -> Found:
    beside = path.parent / "config.json"
    config = beside if beside.is_file() else path
    if config == beside:
        facts = read_json(beside)
    else:
        facts = next((facts for name, facts in _PACKAGE.items() if path.name.startswith(name)), {})
        if not facts:
            raise CheckpointError(
                f"{path}: its name is of no published model ({', '.join(_PACKAGE)}) and no config.json lies beside it"
            )
    sample_rate = number(facts.get("sample_rate"), "sample_rate", config, high=1 << 20)
    return Found(
        path,
        named_tensors(read_torch(path), path),
        _seanet(
            config,
            channels=facts.get("channels"),
            dimension=facts.get("dimension"),
            filters=facts.get("n_filters"),
            ratios=facts.get("ratios"),
            residual_layers=facts.get("n_residual_layers"),
            kernel=facts.get("kernel_size"),
            residual_kernel=facts.get("residual_kernel_size"),
            last_kernel=facts.get("last_kernel_size"),
            dilation_base=facts.get("dilation_base"),
            compress=facts.get("compress"),
            lstm_layers=facts.get("lstm"),
            causal=facts.get("causal"),
            group_norm=_norm(facts.get("model_norm", "weight_norm"), config),
        ),
        sample_rate,
        *_segments(facts.get("segment"), facts.get("overlap"), sample_rate, config),
        normalize=flag(facts.get("audio_normalize", False), "audio_normalize", config),
    )


def _of_transformers(path: Path) -> Found:
    config = path.parent / "config.json"
    facts = read_json(config)
    if facts.get("model_type") != "encodec":
        raise CheckpointError(f"{config} is of a {str(facts.get('model_type'))[:80]!r}, not of an encodec")
    sample_rate = number(facts.get("sampling_rate", 24000), "sampling_rate", config, high=1 << 20)
    return Found(
        path,
        read_safetensors(path),
        _seanet(
            config,
            channels=facts.get("audio_channels"),
            dimension=facts.get("hidden_size"),
            filters=facts.get("num_filters"),
            ratios=facts.get("upsampling_ratios"),
            residual_layers=facts.get("num_residual_layers"),
            kernel=facts.get("kernel_size"),
            residual_kernel=facts.get("residual_kernel_size"),
            last_kernel=facts.get("last_kernel_size"),
            dilation_base=facts.get("dilation_growth_rate"),
            compress=facts.get("compress"),
            lstm_layers=facts.get("num_lstm_layers"),
            causal=facts.get("use_causal_conv"),
            pad_mode=_pad_mode(facts.get("pad_mode", "reflect"), config),
            conv_shortcut=facts.get("use_conv_shortcut"),
            group_norm=_norm(facts.get("norm_type", "weight_norm"), config),
        ),
        sample_rate,
        *_segments(facts.get("chunk_length_s"), facts.get("overlap"), sample_rate, config),
        normalize=flag(facts.get("normalize", False), "normalize", config),
    )


def _of_audiocraft(path: Path) -> Found:
    checkpoint: Any = read_torch(path)
    if isinstance(checkpoint, dict) and "pretrained" in checkpoint:
        raise CheckpointError(f"{path} holds no weights, only the name of another model: {checkpoint['pretrained']!r}")
    try:
        tensors, text = checkpoint["best_state"], checkpoint["xp.cfg"]
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is no audiocraft checkpoint: wanted best_state and xp.cfg") from error
    if not isinstance(text, str):
        raise CheckpointError(f"{path}: xp.cfg must be YAML text, not a {type(text).__name__}")
    config = parse_yaml(text, path)
    facts = _Settings(config, path)
    kind = (facts["compression_model"], facts["encodec.autoencoder"], facts["encodec.quantizer"])
    if kind != ("encodec", "seanet", "rvq") or facts["seanet.activation"] != "ELU":
        raise CheckpointError(f"{path}: wanted an encodec of seanet and rvq with ELU, not {kind}")
    return Found(
        path,
        named_tensors(tensors, path),
        _seanet(
            path,
            channels=facts["seanet.channels"],
            dimension=facts["seanet.dimension"],
            filters=facts["seanet.n_filters"],
            ratios=facts["seanet.ratios"],
            residual_layers=facts["seanet.n_residual_layers"],
            kernel=facts["seanet.kernel_size"],
            residual_kernel=facts["seanet.residual_kernel_size"],
            last_kernel=facts["seanet.last_kernel_size"],
            dilation_base=facts["seanet.dilation_base"],
            compress=facts["seanet.compress"],
            lstm_layers=facts["seanet.lstm"],
            causal=facts["seanet.causal"],
            pad_mode=_pad_mode(facts["seanet.pad_mode"], path),
            conv_shortcut=not flag(facts["seanet.true_skip"], "true_skip", path),
            group_norm=_norm(facts["seanet.norm"], path),
        ),
        number(facts["sample_rate"], "sample_rate", path, high=1 << 20),
        normalize=flag(facts["encodec.renormalize"], "renormalize", path),
        licence="CC-BY-NC-4.0",
    )


class _Settings:
    """Values of a configuration by their dotted names, references "${a.b}" followed."""

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        self.config, self.path = config, path

    def __getitem__(self, name: str) -> Any:
        seen = [name]
        while True:
            value: Any = self.config
            for part in seen[-1].split("."):
                if not isinstance(value, dict) or part not in value:
                    raise CheckpointError(f"{self.path}: its configuration has no {seen[-1]}")
                value = value[part]
            reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
            if reference is None:
                return value
            if reference[1] in seen:
                raise CheckpointError(f"{self.path}: its configuration refers to itself: {' -> '.join(seen)}")
            seen.append(reference[1])


def _seanet(path: Path, **facts: Any) -> SeanetConfig:
    """The sizes that a configuration names; those it leaves out are the published models'."""
    given = {field: value for field, value in facts.items() if value is not None}
    for field, value in given.items():
        if field == "ratios":
            given[field] = tuple(numbers(value, field, path, high=1 << 10))
        elif isinstance(getattr(SeanetConfig(), field), bool):
            given[field] = flag(value, field, path)
        elif field != "pad_mode":
            low = 0 if field == "lstm_layers" else 1
            given[field] = number(value, field, path, low=low, high=_LIMITS.get(field, 1 << 14))
    return replace(SeanetConfig(), **given)


def _segments(seconds: object, overlap: object, sample_rate: int, path: Path) -> tuple[int | None, float]:
    """Samples of a segment, and the share that overlaps."""
    if seconds is None:
        return None, 0.01
    overlap = 0.01 if overlap is None else overlap
    kinds = {type(seconds), type(overlap)}
    if not isinstance(seconds, int | float) or not isinstance(overlap, int | float) or bool in kinds:
        raise CheckpointError(f"{path}: segments must be numbers, not {seconds!r} and {overlap!r}")
    if not _MIN_SEGMENT <= seconds <= _MAX_SEGMENT or not 0 <= overlap <= _MAX_OVERLAP:
        raise CheckpointError(f"{path}: no such segments: {seconds} s that overlap by {overlap}")
    return max(1, int(seconds * sample_rate)), float(overlap)


def _pad_mode(mode: object, path: Path) -> PadMode:
    if mode == "constant":
        return "zeros"
    if mode == "reflect" or mode == "replicate":
        return mode
    raise CheckpointError(f"{path}: no such padding: {mode!r}")


def _norm(norm: object, path: Path) -> bool:
    if norm not in ("weight_norm", "none", "time_group_norm"):
        raise CheckpointError(f"{path}: no such normalisation here: {norm!r}")
    return norm == "time_group_norm"
