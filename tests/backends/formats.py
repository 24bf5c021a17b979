"""Every on-disk format that `audiotok.convert` reads, as a fixture folder whose parts can be exchanged one by one."""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from audiotok import Tokenizer, convert

from .cases import Case

Where = tuple[str | int, ...]


@dataclass(frozen=True, eq=False)
class Format:
    """A published folder.

    Attributes:
        name: of the row in tables.
        family: as `convert` knows it.
        case: the fixture.
        weights: the file that is exchanged.
        states: where state dicts lie in it; the first is changed.
        config: the file that describes the network, "" for none.
        inside: where the description lies in the weights file, if there.
        form: the folder inside the fixture.
        options: of `convert`.
    """

    name: str
    family: str
    case: Case
    weights: str
    config: str = ""
    states: tuple[Where, ...] = ((),)
    inside: Where | None = None
    form: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.case.folder / self.form

    def staged(self, folder: Path, *without: str) -> Path:
        """A folder with links to all files of the fixture, some left out."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_file() and path.suffix != ".npy" and path.name not in ("meta.json", *without):
                (folder / path.name).symlink_to(path)
        return folder

    def read(self, folder: Path) -> Tokenizer:
        return convert(self.family, folder, **self.options)

    def saved(self) -> Any:
        """What the weights file holds, its containers fresh and its tensors shared."""
        return _fresh(_saved(self.folder / self.weights))

    def state(self, saved: Any) -> dict[Any, Any]:
        """The first state dict of what `saved` gave."""
        return at(saved, self.states[0])

    def save(self, saved: Any, folder: Path) -> Path:
        """Writes weights in the format's own way."""
        path = folder / self.weights
        if path.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in saved.items()}, path, {"format": "pt"})
        else:
            torch.save(saved, path)
        return path

    def described(self) -> dict[str, Any]:
        """The description of the network, as a fresh dict."""
        if self.inside is not None:
            found = at(self.saved(), self.inside)
            return yaml.safe_load(found) if isinstance(found, str) else copy.deepcopy(found)
        text = (self.folder / self.config).read_text("utf-8")
        return json.loads(text) if self.config.endswith(".json") else yaml.safe_load(text)

    def describe(self, values: Any, folder: Path) -> Path:
        """A staged folder with another description."""
        if self.inside is None:
            self.staged(folder, self.config)
            text = json.dumps(values) if self.config.endswith(".json") else yaml.safe_dump(values)
            (folder / self.config).write_text(text, "utf-8")
            return folder
        self.staged(folder, self.weights)
        saved = self.saved()
        as_text = isinstance(at(saved, self.inside), str)
        at(saved, self.inside[:-1])[self.inside[-1]] = yaml.safe_dump(values) if as_text else values
        self.save(saved, folder)
        return folder


def at(value: Any, where: Where) -> Any:
    """The part of nested dicts and lists that a path leads to."""
    for key in where:
        value = value[key]
    return value


def leaves(value: Any, where: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Paths and values of everything in nested dicts and lists that is neither."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*where, key))
    else:
        yield where, value


@cache
def _saved(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def _fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fresh(one) for key, one in value.items()}
    return [_fresh(one) for one in value] if isinstance(value, list) else value


def _transformers(family: str, folder: str, name: str) -> Format:
    return Format(family, family, Case(folder, name), "model.safetensors", "config.json")


def _esc(name: str) -> Format:
    return Format(
        f"esc-{name.partition('_')[0]}", "esc", Case("esc", name), "model.pth", "config.yaml", (("model_state_dict",),)
    )


def _facodec(half: str, version: int) -> Format:
    suffix = "_v2" if version == 2 else ""
    return Format(
        f"facodec-v{version}-{half}", "facodec", Case("facodec", f"v{version}"), f"ns3_facodec_{half}{suffix}.bin"
    )


def _sqcodec(name: str, levels: int) -> Format:
    return Format(
        f"sqcodec-{levels}",
        "sqcodec",
        Case("sqcodec", name),
        "ckpt_00190000.pth",
        "config.yaml",
        (("codec_model",),),
        options={"levels": levels},
    )


def _s3tokenizer(name: str, weights: str) -> Format:
    return Format(f"s3tokenizer-{name}", "s3tokenizer", Case("s3tokenizer", name), weights, "config.json")


_PARTS: Sequence[str] = ("encoder", "generator", "quantizer")

FORMATS: list[Format] = [
    Format("encodec", "encodec", Case("encodec-native", "24k-mono-causal"), "encodec_24khz-96221c1a.th", "config.json"),
    Format(
        "encodec-48khz",
        "encodec",
        Case("encodec-native", "48k-stereo-chunked"),
        "encodec_48khz-548e094c.th",
        "config.json",
    ),
    Format(
        "encodec-transformers",
        "encodec",
        Case("encodec-native", "48k-stereo-chunked"),
        "model.safetensors",
        "config.json",
        form="hf",
    ),
    Format(
        "encodec-audiocraft",
        "encodec",
        Case("audiocraft-encodec", "causal-24k-like"),
        "compression_state_dict.bin",
        states=(("best_state",),),
        inside=("xp.cfg",),
    ),
    Format(
        "dac",
        "dac",
        Case("dac-native", "44k-like"),
        "weights_44khz_8kbps_0.0.1.pth",
        states=(("state_dict",),),
        inside=("metadata", "kwargs"),
    ),
    Format("dac-transformers", "dac", Case("dac-native", "44k-like"), "model.safetensors", "config.json", form="hf"),
    Format(
        "mimi",
        "mimi",
        Case("mimi", "context-longer-than-input"),
        "tokenizer-tiny-checkpoint.safetensors",
        "moshi_mimi_config.json",
    ),
    Format(
        "mimi-transformers",
        "mimi",
        Case("mimi", "context-longer-than-input"),
        "model.safetensors",
        "config.json",
        form="hf",
    ),
    Format(
        "speechtokenizer",
        "speechtokenizer",
        Case("speechtokenizer", "hop240_q4_same_dim"),
        "SpeechTokenizer.pt",
        "config.json",
    ),
    Format(
        "wavtokenizer",
        "wavtokenizer",
        Case("wavtokenizer", "hop600_speech"),
        "WavTokenizer_small_600_24k_4096.ckpt",
        "wavtokenizer_smalldata_frame40_3s_nq1_code4096_dim512_kmeans200_attn.yaml",
        (("state_dict",),),
    ),
    _sqcodec("levels5_noncausal", 5),
    _sqcodec("levels9_causal", 9),
    Format("snac", "snac", Case("snac", "attn_4levels"), "pytorch_model.bin", "config.json"),
    Format("llmcodec", "llmcodec", Case("llmcodec", "strides421"), "ckpt.pth", "config.yaml", (("codec_model",),)),
    *(
        Format(
            f"hificodec-{part}",
            "hificodec",
            Case("hificodec", "24k_hop80_g2_full_kernels"),
            "HiFi-Codec-24k-320d",
            "config_24k_320d.json",
            ((part,),),
        )
        for part in _PARTS
    ),
    *(
        Format(
            f"ticodec-{part}",
            "ticodec",
            Case("ticodec", "1g2r"),
            "g_00350000",
            "config_24k_320d_conv_1g2r_8g3k1s.json",
            ((part,),),
        )
        for part in _PARTS
    ),
    _esc("conv_6streams"),
    _esc("swin_6streams"),
    _facodec("encoder", 1),
    _facodec("decoder", 1),
    _facodec("encoder", 2),
    _facodec("decoder", 2),
    _s3tokenizer("v1-25hz", "speech_tokenizer_v1_25hz.pt"),
    _s3tokenizer("v2-25hz", "speech_tokenizer_v2_25hz.pt"),
    _transformers("xcodec", "xcodec", "hubert-like"),
    _transformers("xcodec2", "transformers-codec", "xcodec2"),
    _transformers("neucodec", "transformers-codec", "neucodec"),
    _transformers("higgs-audio-v2", "transformers-codec", "higgs-audio-v2"),
]
