"""`TransformersCodec`: codecs that the transformers library carries (X-Codec, Higgs Audio v2, X-Codec 2, NeuCodec)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..checkpoint import file_sha256, read_json, read_safetensors, read_torch
from ..errors import CheckpointError, InputError
from ..spec import Spec
from ..tokenizer import Mode, Tokenizer
from .transformers_codec_config import codec_config, plain, refused
from .transformers_codec_network import CODECS, XCodec
from .weights import build, folded, one_file

_PROBE_FRAMES = 4


class TransformersCodec(Tokenizer):
    """A codec of the transformers library, its own code and weights, behind the interface of this one.

    Rows of a batch share a call only where they are equally long: the library lets padding into the codes, we do not.

    Args:
        spec: as the configuration says it; only its name is free.
        model_type: of the library: "xcodec", "higgs_audio_v2_tokenizer", "xcodec2" or "neucodec".
        config: fields of the library's configuration class, those of networks inside as dicts with a `model_type`.

    Raises:
        InputError: values that are unknown, out of bounds, or do not fit one another.
        MissingDependencyError: the transformers library is too old to have this codec.
    """

    family = "transformers-codec"

    def __init__(self, spec: Spec, *, model_type: str, config: Mapping[str, Any]) -> None:
        super().__init__(spec)
        settings = codec_config(model_type, config)
        # As given, not as completed by the library: what a later one adds to it must not change the fingerprint.
        self.model_type, self.settings = model_type, dict(config)
        wanted = self._codec.spec(settings, spec.name)
        if spec != wanted:
            raise InputError(f"{spec.name}: its configuration is of a codec of {wanted}, not of {spec}")
        self.min_samples = self._codec.min_samples(spec.hop_length)
        if self._anchor.is_meta:
            with refused(model_type):
                self.model = self._codec.build(settings).eval()
                self._check_fit()
        else:
            self.model = self._codec.build(settings).eval()
        self.decode_context = self._codec.decode_context(self.model)

    @property
    def _codec(self) -> XCodec:
        return CODECS[self.model_type]

    def _check_fit(self) -> None:
        """Sends shapes through the networks, on the meta device: strides, for example, show in no tensor's shape."""
        hop = self.spec.hop_length
        features = self._features(self._anchor.new_empty(1, 1, _PROBE_FRAMES * hop), self._anchor)
        tokens = self._quantize(features)
        wav = self._synthesize(self._embed(tokens))
        frames = self.num_frames(_PROBE_FRAMES * hop)
        found = list(tokens.shape), list(wav.shape)
        wanted = [1, self.spec.num_codebooks, frames], [1, 1, frames * self.spec.output_hop_length]
        if found != wanted:
            raise InputError(f"tokens and audio of {_PROBE_FRAMES * hop} samples would be {found}, not {wanted}")

    def _config(self) -> dict[str, Any]:
        return {"model_type": self.model_type, "config": self.settings}

    def num_frames(self, num_samples: int) -> int:
        return self._codec.num_frames(num_samples, self.spec.hop_length)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        missing = self._codec.padded(wav.shape[2], self.spec.hop_length) - wav.shape[2]
        return self._codec.features(self.model, functional.pad(wav, (0, missing)))

    def _quantize(self, features: Tensor) -> Tensor:
        return self._codec.quantize(self.model, features)[:, : self.spec.num_codebooks]

    def _embed(self, tokens: Tensor) -> Tensor:
        return self._codec.embed(self.model, tokens)

    def _synthesize(self, features: Tensor) -> Tensor:
        return self._codec.synthesize(self.model, features)

    @property
    def codebooks(self) -> list[Tensor]:
        return self._codec.tables(self.model)[: self.spec.num_codebooks]

    def use_mode(self, mode: Mode) -> "TransformersCodec":
        super().use_mode(mode)
        if self.mode != "both":
            for part in self._codec.decoder_parts if self.mode == "encode" else self._codec.encoder_parts:
                setattr(self.model, part, None)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # When its networks first run, the library hooks functions onto them that cannot be pickled. Without them it
        # hooks them again.
        for module in self.model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if hook.__module__ == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
            module.__dict__.pop("_output_capturing_hooks_installed", None)
        return dict(self.__dict__)


def read_xcodec(source: Path, *, name: str = "") -> TransformersCodec:
    """X-Codec (Ye et al. 2024, arXiv 2408.17175), as hf-audio/xcodec-hubert-librispeech publishes it.

    Args:
        source: folder with config.json, model.safetensors or pytorch_model.bin, and preprocessor_config.json if there
            is one; or the file of weights in such a folder.
        name: of the tokenizer.

    Raises:
        CheckpointError: a file is missing, broken, hostile or of another kind.
        MissingDependencyError: the transformers library is too old to have this codec.
    """
    return _read(source, "xcodec", name, {"license": "unknown", "paper": "arXiv 2408.17175"})


def read_higgs_audio(source: Path, *, name: str = "") -> TransformersCodec:
    """The tokenizer of Higgs Audio v2 (Boson AI 2025), as bosonai/higgs-audio-v2-tokenizer publishes it. Arguments and
    errors as `read_xcodec`."""
    facts = {"license": "other", "licence_in_words": "Boson Higgs Audio 2 Community License"}
    return _read(source, "higgs_audio_v2_tokenizer", name, facts)


def read_xcodec2(source: Path, *, name: str = "") -> TransformersCodec:
    """X-Codec 2 (Ye et al. 2025, arXiv 2502.04128), as HKUSTAudio/xcodec2-hf publishes it. Arguments and errors as
    `read_xcodec`."""
    return _read(source, "xcodec2", name, {"license": "cc-by-nc-4.0", "paper": "arXiv 2502.04128"})


def read_neucodec(source: Path, *, name: str = "") -> TransformersCodec:
    """NeuCodec (Julian et al. 2025, arXiv 2509.09550), as neuphonic/neucodec publishes it. Arguments and errors as
    `read_xcodec`."""
    return _read(source, "neucodec", name, {"license": "apache-2.0", "paper": "arXiv 2509.09550"})


def _read(source: Path, model_type: str, name: str, facts: Mapping[str, str]) -> TransformersCodec:
    path = one_file(source, ("model.safetensors", "pytorch_model.bin"), "weights")
    codec, described = CODECS[model_type], path.parent / "config.json"
    values = read_json(described)
    if values.get("model_type") != model_type:
        raise CheckpointError(f"{described} is of a {values.get('model_type')!r}, wanted a {model_type!r}")
    try:
        settings = codec_config(model_type, values)
        spec = codec.spec(settings, name or model_type.replace("_", "-"))
    except InputError as error:
        raise CheckpointError(f"{described}: {error}") from error
    _check_preprocessor(path.parent / "preprocessor_config.json", spec)
    tensors = folded(read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path), path)
    weights = {f"model.{key}": value for key, value in tensors.items() if codec.unused.isdisjoint(key.split("."))}
    config = plain(settings)
    tokenizer = build(lambda: TransformersCodec(spec, model_type=model_type, config=config), weights, path)
    tokenizer.provenance = {**facts, "converted_from": {"file": path.name, "sha256": file_sha256(path)}}
    return tokenizer


def _check_preprocessor(path: Path, spec: Spec) -> None:
    """The audio is prepared here as the library's feature extractors do it; a file that asks for another way is none
    of theirs."""
    if not path.exists():
        return
    facts = read_json(path)
    for key, wanted in (("sampling_rate", spec.sample_rate), ("hop_length", spec.hop_length)):
        if facts.get(key, wanted) != wanted:
            raise CheckpointError(f"{path}: {key} is {facts[key]!r}, but config.json says {wanted}")
