"""Configurations of the codecs of the transformers library: which are known, and that their values make sense.

A configuration comes from a stranger's file. Only fields that the library's own class declares are taken from it, so
that nothing in it can name code to fetch or run (`auto_map`, attention kernels of the Hub), and what no tensor of the
checkpoint bears witness to (numbers of layers, sizes of computed tables) is bounded here.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..errors import InputError, MissingDependencyError

#: Class of the library for each kind of network.
_CLASSES = {
    "xcodec": "XcodecConfig",
    "higgs_audio_v2_tokenizer": "HiggsAudioV2TokenizerConfig",
    "xcodec2": "Xcodec2Config",
    "neucodec": "NeuCodecConfig",
    "dac": "DacConfig",
    "hubert": "HubertConfig",
    "wavlm": "WavLMConfig",
    "wav2vec2-bert": "Wav2Vec2BertConfig",
}
_ACOUSTIC_AND_SSL: dict[str, tuple[str, ...]] = {
    "acoustic_model_config": ("dac",),
    "semantic_model_config": ("hubert", "wavlm"),
}
_W2V_BERT: dict[str, tuple[str, ...]] = {"semantic_model_config": ("wav2vec2-bert",)}
#: Codecs, and the networks that each may have inside; the first is meant where a file does not say.
INNER: dict[str, dict[str, tuple[str, ...]]] = {
    "xcodec": _ACOUSTIC_AND_SSL,
    "higgs_audio_v2_tokenizer": _ACOUSTIC_AND_SSL,
    "xcodec2": _W2V_BERT,
    "neucodec": _W2V_BERT,
}
#: Fields that a class takes without declaring them.
_UNDECLARED = {"dac": ("hidden_size", "upsampling_ratios")}

_MAX_NUMBER = 1 << 24
_MAX_ENTRIES = 64  # of a list
_MAX_CODEBOOKS = 256
#: Of fields whose size shows in no tensor before it has cost memory or time.
_LIMITS = {
    "num_hidden_layers": 256,
    "num_adapter_layers": 16,
    "block_dilations": 64,
    "max_source_positions": 1 << 14,
    "quantization_levels": 1 << 10,
}
_MAX_LEVELS = 1 << 18  # entries of a codebook of levels
_MAX_RATIO = 1000  # of two rates, in lowest terms: resampling has as many filters

#: Everything that the library was seen to raise on values that make no network: it checks few of them.
_FAULTS = (
    StrictDataclassError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    ArithmeticError,
    AssertionError,
)


@contextmanager
def refused(model_type: str) -> Iterator[None]:
    """Turns what the library raises on senseless values into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except _FAULTS as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the configuration makes no {model_type} network: {type(error).__name__}: {reason}"
        ) from error


def transformers_class(name: str) -> Any:
    """A class of the transformers library. Raises `MissingDependencyError` where it is too old to have it."""
    import transformers

    try:
        return getattr(transformers, name)
    except (AttributeError, ImportError) as error:
        raise MissingDependencyError(
            f"transformers {transformers.__version__} has no {name}: pip install 'transformers>=5.23'"
        ) from error


def codec_config(model_type: str, values: Mapping[str, Any]) -> Any:
    """The library's configuration object of a codec.

    Args:
        model_type: one of `INNER`.
        values: fields by name, those of networks inside as dicts; fields that its class does not declare are left out.

    Raises:
        InputError: no such codec, a network inside that is not one of `INNER`, or values out of bounds.
    """
    if model_type not in INNER:
        raise InputError(f"no codec {model_type!r} here: there are {', '.join(INNER)}")
    if not isinstance(values, Mapping):
        raise InputError(f"the configuration of {model_type} must be an object, not {values!r}")
    fields = _declared(model_type, values)
    for part, kinds in INNER[model_type].items():
        inner = fields.get(part)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            raise InputError(f"{part} must be an object, not {inner!r}")
        kind = inner.get("model_type", kinds[0])
        if kind not in kinds:
            raise InputError(f"{part} of {model_type} must be of {' or '.join(kinds)}, not {kind!r}")
        fields[part] = {**_declared(kind, inner), "model_type": kind}
    with refused(model_type):
        config = transformers_class(_CLASSES[model_type])(**fields)
        _check_bounds(plain(config))
        _check_quantizer(config)
        _check_rates(config)
    return config


def plain(config: Any) -> dict[str, Any]:
    """JSON values of a configuration object, from which `codec_config` makes the same one."""
    kind = config.model_type
    names = [*_fields(kind), *_UNDECLARED.get(kind, ())]
    values = {name: _plain_value(getattr(config, name)) for name in names}
    return values if kind in INNER else {**values, "model_type": kind}


def _plain_value(value: Any) -> Any:
    if hasattr(value, "model_type"):
        return plain(value)
    return list(value) if isinstance(value, tuple) else value


def _fields(kind: str) -> list[str]:
    """Names of the fields that a class declares itself, beyond those of every configuration."""
    common = {field.name for field in dataclasses.fields(transformers_class("PreTrainedConfig"))}
    declared = dataclasses.fields(transformers_class(_CLASSES[kind]))
    return [field.name for field in declared if field.name not in common]


def _declared(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {*_fields(kind), *_UNDECLARED.get(kind, ())}
    return {name: value for name, value in values.items() if name in known}


def _check_bounds(values: Any, name: str = "") -> None:
    if isinstance(values, dict):
        for key, value in values.items():
            _check_bounds(value, key)
    elif isinstance(values, list):
        if len(values) > _MAX_ENTRIES:
            raise InputError(f"{name} must have at most {_MAX_ENTRIES} entries, not {len(values)}")
        for value in values:
            _check_bounds(value, name)
    elif isinstance(values, int | float):
        low = -_MAX_NUMBER if name.endswith("_token_id") else 1 if name == "block_dilations" else 0
        high = _LIMITS.get(name, _MAX_NUMBER)
        if not low <= values <= high:  # nan is refused too
            raise InputError(f"{name} must be from {low} to {high}, not {values}")


def _check_quantizer(config: Any) -> None:
    if config.model_type in ("xcodec", "higgs_audio_v2_tokenizer"):
        if not 1 <= config.num_quantizers <= _MAX_CODEBOOKS:
            raise InputError(f"target_bandwidths hold 1 to {_MAX_CODEBOOKS} codebooks, not {config.num_quantizers}")
        return
    levels, rope = config.quantization_levels, config.rope_parameters["rope_type"]
    if min(levels) < 2 or math.prod(levels) > _MAX_LEVELS:
        raise InputError(f"quantization_levels must be from 2 on, {_MAX_LEVELS} codes in all, not {list(levels)}")
    if rope != "default":
        raise InputError(f"rope_parameters must be of type default, not {rope!r}")


def _check_rates(config: Any) -> None:
    if config.model_type != "higgs_audio_v2_tokenizer":
        return
    rates = config.sample_rate, config.semantic_sample_rate
    if min(rates) < 1 or max(rates) // math.gcd(*rates) > _MAX_RATIO:
        raise InputError(f"sample_rate and semantic_sample_rate must have a ratio of small numbers, not {rates}")
    if config.semantic_downsample_factor < 1:
        raise InputError("a frame must last as long as a semantic frame, or a multiple of it")
