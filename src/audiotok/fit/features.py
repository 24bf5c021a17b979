"""What k-means is fitted on: frames of a waveform, and the tokenizer that their centroids make."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checkpoint import read_json
from ..errors import InputError, UnknownTokenizerError
from ..hub import download, download_encoder, load, parse_name
from ..registry import family_class
from ..spec import Spec
from ..ssl.encoder_weights import load_encoder
from ..ssl.logmel import LogMel
from ..ssl.logmel_kmeans import LogMelKMeans
from ..ssl.tokenizer import INDEXING, SSLKMeans
from ..tokenizer import Tokenizer

FeaturesLike = str | os.PathLike[str] | LogMel | Tokenizer


class Features(Protocol):
    """Frames of `layers` side by side, `width` values for each (one nameless layer for log-mel and latents)."""

    label: str
    sample_rate: int
    channels: int
    width: int
    layers: tuple[int, ...]

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        """Frames [N, layers · width] of wav [C, T], in pieces that follow one another."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Moves what it computes with."""
        ...

    def tokenizer(self, name: str, tables: list[Tensor], lookup: str) -> Tokenizer:
        """The tokenizer with these centroids [V, width]: one per layer for SSL, else residual ones."""
        ...

    def facts(self) -> dict[str, Any]:
        """All that the frames depend on, weights included, as plain JSON values."""
        ...

    def card(self) -> dict[str, Any]:
        """What a user of the tokenizer must know of them, beside its spec."""
        ...


class LogMelFeatures:
    """Log-mel frames."""

    layers: tuple[int, ...] = ()
    channels = 1

    def __init__(self, mel: LogMel, device: torch.device) -> None:
        self.mel, self.device = mel, device
        self.label, self.sample_rate, self.width = "logmel", mel.sample_rate, mel.n_mels
        self._frames = self.tokenizer("", [torch.zeros(1, mel.n_mels)], "euclidean")

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        found, _ = self._frames.features(wav)
        yield found[0].t()

    def to(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._frames.to(device)

    def tokenizer(self, name: str, tables: list[Tensor], lookup: str) -> Tokenizer:
        spec = Spec(
            name=name or _name("logmel", tables),
            sample_rate=self.mel.sample_rate,
            hop_length=self.mel.hop_length,
            codebook_sizes=tuple(map(len, tables)),
            nested=True,
            batching="mask",
        )
        return LogMelKMeans(spec, self.mel, tables, lookup=lookup).to(self.device)

    def facts(self) -> dict[str, Any]:
        return asdict(self.mel)

    def card(self) -> dict[str, Any]:
        return {}


class SSLFeatures:
    """Hidden states of a WavLM, HuBERT or wav2vec 2.0: a folder as transformers stores it, or a Hub repository."""

    channels = 1

    def __init__(self, folder: Path, label: str, layers: Sequence[int], device: torch.device) -> None:
        self.layers, self.label, self.device = tuple(sorted(set(layers))), label, device
        self.encoder = load_encoder(folder, self.layers).to(device)
        self.sample_rate, self.width = self.encoder.config.sample_rate, self.encoder.config.hidden_size

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        row = wav[0].to(self.device)
        row = torch.nn.functional.pad(row, (0, max(0, self.encoder.min_samples - len(row))))
        for _, states in self.encoder.windows(row):
            yield torch.cat([states[layer] for layer in self.layers], dim=1)

    def to(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.encoder.to(device)

    def tokenizer(self, name: str, tables: list[Tensor], lookup: str) -> Tokenizer:
        config, size = self.encoder.config, len(tables[0])
        spec = Spec(
            name=name or f"{config.model_type}-l{'-'.join(map(str, self.layers))}-k{size}",
            sample_rate=config.sample_rate,
            hop_length=config.hop_length,
            codebook_sizes=tuple(map(len, tables)),
            decodable=False,
            batching="mask",
        )
        tokenizer = SSLKMeans.of(spec, self.encoder, tables, source=self.label, lookup=lookup)
        return tokenizer.to(self.device)

    def facts(self) -> dict[str, Any]:
        empty = self.tokenizer("", [torch.zeros(1, self.width, device=self.device)] * len(self.layers), "euclidean")
        return {"fingerprint": empty.fingerprint}

    def card(self) -> dict[str, Any]:
        return {"layer_indexing": INDEXING}


class LatentFeatures:
    """Latents of a codec, before it quantizes them."""

    layers: tuple[int, ...] = ()

    def __init__(self, codec: Tokenizer) -> None:
        self.codec = codec
        self.label = codec.spec.name
        self.sample_rate, self.channels = codec.spec.sample_rate, codec.spec.channels
        family = family_class("latent-kmeans")  # backends are reached through the registry only
        self.width: int = family.width(self.codec)
        self._frames = self.tokenizer("", [torch.zeros(1, self.width)], "euclidean")

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        found: Iterator[Tensor] = self._frames.latents(wav)  # type: ignore[operator]
        return found

    def to(self, device: torch.device | str) -> None:
        self.codec.to(device)
        self._frames.to(device)

    def tokenizer(self, name: str, tables: list[Tensor], lookup: str) -> Tokenizer:
        found: Tokenizer = family_class("latent-kmeans").of(
            self.codec, tables, name=name or _name(self.label.rpartition("/")[2], tables), lookup=lookup
        )
        return found

    def facts(self) -> dict[str, Any]:
        return {"fingerprint": self.codec.fingerprint}

    def card(self) -> dict[str, Any]:
        return {"codec_fingerprint": self.codec.fingerprint}


def features_of(features: FeaturesLike, layers: Sequence[int] | None, device: torch.device) -> Features:
    """ "logmel" or a `LogMel`; a codec as a `Tokenizer`, catalog name, saved folder or Hub repository; or an SSL
    model's folder or Hub repository with its layers.

    Raises:
        InputError: layers for what has none, none for an SSL model, or something else.
    """
    if isinstance(features, LogMel) or features == "logmel":
        _no_layers(layers, "log-mel")
        return LogMelFeatures(features if isinstance(features, LogMel) else LogMel(), device)
    if isinstance(features, Tokenizer):
        _no_layers(layers, features.spec.name)
        return LatentFeatures(features)  # where its user has put it
    name, where = parse_name(features)
    if where == "catalog":
        try:
            codec = load(name)
        except UnknownTokenizerError as error:
            raise InputError(
                f'features must be "logmel", a LogMel, an SSL model\'s folder (./{name}) or Hub repository, or a '
                f"codec: {error}"
            ) from error
        _no_layers(layers, name)
        return LatentFeatures(codec.to(device))
    if _is_tokenizer(name, where):
        _no_layers(layers, name)
        return LatentFeatures(load(features, device=device))
    if not layers:
        raise InputError(f"say which layers of {features} to fit: layers=[7] or layers=[3, 7, 12]")
    folder = Path(name).expanduser() if where == "folder" else download_encoder(name)
    label = folder.name if where == "folder" else f"{name.partition('@')[0]}@{folder.name}"
    return SSLFeatures(folder, label, layers, device)


def _is_tokenizer(name: str, where: str) -> bool:
    """Whether a folder or repository holds a tokenizer that audiotok saved."""
    if where == "folder":
        config = Path(name).expanduser() / "config.json"
    else:
        repository, _, revision = name.partition("@")
        config = download(repository, "config.json", revision or None)
    return config.is_file() and "audiotok_format" in read_json(config)


def _no_layers(layers: Sequence[int] | None, what: str) -> None:
    if layers is not None:
        raise InputError(f"layers= is for an SSL model given as features; {what} has none")


def _name(of: str, tables: list[Tensor]) -> str:
    return f"{of}-k{len(tables[0])}" + f"x{len(tables)}" * (len(tables) > 1)
