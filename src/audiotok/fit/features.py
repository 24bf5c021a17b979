"""What k-means is fitted on: frames of a waveform, and the tokenizer that their centroids make."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..hub import download_encoder, parse_name
from ..spec import Spec
from ..ssl.encoder_weights import load_encoder
from ..ssl.logmel import LogMel
from ..ssl.logmel_kmeans import LogMelKMeans
from ..ssl.tokenizer import SSLKMeans
from ..tokenizer import Tokenizer


class Features(Protocol):
    """Frames of `layers` side by side, `width` values for each (one nameless layer for log-mel)."""

    label: str
    sample_rate: int
    width: int
    layers: tuple[int, ...]

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        """Frames [N, layers · width] of wav [1, T], in pieces that follow one another."""
        ...

    def tokenizer(self, name: str, tables: list[Tensor]) -> Tokenizer:
        """The tokenizer with these centroids [V, width]: residual ones for log-mel, one per layer for SSL."""
        ...


class LogMelFeatures:
    """Log-mel frames."""

    layers: tuple[int, ...] = ()

    def __init__(self, mel: LogMel, device: torch.device) -> None:
        self.mel, self.device = mel, device
        self.label, self.sample_rate, self.width = "logmel", mel.sample_rate, mel.n_mels
        self._frames = self.tokenizer("", [torch.zeros(1, mel.n_mels)])

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        found, _ = self._frames.features(wav)
        yield found[0].t()

    def tokenizer(self, name: str, tables: list[Tensor]) -> Tokenizer:
        size = len(tables[0])
        spec = Spec(
            name=name or f"logmel-k{size}" + f"x{len(tables)}" * (len(tables) > 1),
            sample_rate=self.mel.sample_rate,
            hop_length=self.mel.hop_length,
            codebook_sizes=tuple(map(len, tables)),
            nested=True,
            batching="mask",
        )
        return LogMelKMeans(spec, self.mel, tables).to(self.device)


class SSLFeatures:
    """Hidden states of a WavLM, HuBERT or wav2vec 2.0: a folder as transformers stores it, or a Hub repository."""

    def __init__(self, source: str | os.PathLike[str], layers: Sequence[int], device: torch.device) -> None:
        name, where = parse_name(source)
        folder = Path(name).expanduser() if where == "folder" else download_encoder(name)
        self.layers, self.device = tuple(sorted(set(layers))), device
        self.encoder = load_encoder(folder, self.layers).to(device)
        self.label = folder.name if where == "folder" else f"{name}@{folder.name}"
        self.sample_rate, self.width = self.encoder.config.sample_rate, self.encoder.config.hidden_size

    def frames(self, wav: Tensor) -> Iterator[Tensor]:
        row = wav[0].to(self.device)
        row = torch.nn.functional.pad(row, (0, max(0, self.encoder.min_samples - len(row))))
        for _, states in self.encoder.windows(row):
            yield torch.cat([states[layer] for layer in self.layers], dim=1)

    def tokenizer(self, name: str, tables: list[Tensor]) -> Tokenizer:
        config, size = self.encoder.config, len(tables[0])
        spec = Spec(
            name=name or f"{config.model_type}-l{'-'.join(map(str, self.layers))}-k{size}",
            sample_rate=config.sample_rate,
            hop_length=config.hop_length,
            codebook_sizes=tuple(map(len, tables)),
            decodable=False,
            batching="mask",
        )
        tokenizer = SSLKMeans.of(spec, self.encoder, tables, source=self.label)
        return tokenizer.to(self.device)


def features_of(
    features: str | os.PathLike[str] | LogMel, layers: Sequence[int] | None, device: torch.device
) -> Features:
    """ "logmel", a `LogMel`, or an SSL model's folder or Hub repository with its layers.

    Raises:
        InputError: layers for log-mel, none for an SSL model, or something else.
    """
    if isinstance(features, LogMel) or features == "logmel":
        if layers is not None:
            raise InputError("layers= is for an SSL model given as features; log-mel has none")
        return LogMelFeatures(features if isinstance(features, LogMel) else LogMel(), device)
    if isinstance(features, str) and parse_name(features)[1] == "catalog":
        raise InputError(
            f'features must be "logmel", a LogMel, an SSL model\'s folder (./{features}) or Hub repository, '
            f"not {features!r}"
        )
    if not layers:
        raise InputError(f"say which layers of {features} to fit: layers=[7] or layers=[3, 7, 12]")
    return SSLFeatures(features, layers, device)
