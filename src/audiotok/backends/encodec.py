"""EnCodec (Défossez et al. 2022, arXiv 2210.13438) of the encodec package, audiocraft and transformers."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256, parse_yaml, read_json, read_safetensors, read_torch
from ..errors import CheckpointError, InputError
from ..nn.flow import PadMode
from ..nn.seanet import SeanetConfig, plain_names, seanet_decoder, seanet_encoder, seanet_names
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from .convolutional import ConvolutionalCodec
from .weights import MAX_LAYERS, Weights, build, flag, folded, layout, named_tensors, number, numbers, one_file

_EPSILON = 1e-8  # added to the loudness that a segment is divided by
_TOGETHER = 16  # segments in one call


class EnCodec(ConvolutionalCodec):
    """Residual vector quantization of SEANet's latents.

    The causal networks stream. Where `segment` is set (48 kHz), audio is cut into segments that overlap a little, each
    encoded by itself; where `normalize` is set, each is first divided by its loudness, which travels in
    `extras["scale"]` [B, segments]. Decoding joins the segments with triangular weights.

    Args:
        spec: what it takes and gives.
        seanet: sizes of the network.
        segment: samples of a segment, or None for none.
        overlap: share of a segment that the next one covers too.
        normalize: whether each segment (all audio, if there are none) is brought to one loudness.
    """

    family = "encodec"

    def __init__(
        self,
        spec: Spec,
        seanet: SeanetConfig,
        *,
        segment: int | None = None,
        overlap: float = 0.01,
        normalize: bool = False,
    ) -> None:
        super().__init__(spec)
        self.seanet, self.segment, self.overlap, self.normalize = seanet, segment, overlap, normalize
        self.encoder = seanet_encoder(seanet)
        self.quantizer = ResidualVQ(
            seanet.dimension, spec.codebook_sizes, spec.num_codebooks, options=VQOptions(update="frozen")
        )
        self.decoder = seanet_decoder(seanet)

    def _config(self) -> dict[str, Any]:
        return {
            "seanet": self.seanet.to_dict(),
            "segment": self.segment,
            "overlap": self.overlap,
            "normalize": self.normalize,
        }

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "EnCodec":
        return cls(spec, SeanetConfig.from_dict(config["seanet"]), **{k: v for k, v in config.items() if k != "seanet"})

    @property
    def codebooks(self) -> list[Tensor]:
        return self.quantizer.codebooks

    @property
    def required_extras(self) -> tuple[str, ...]:
        return (*(("scale",) if self.normalize else ()), *(("segment_frames",) if self.segment else ()))

    @property
    def segment_step(self) -> int:
        """Samples from the start of one segment to that of the next."""
        assert self.segment is not None
        return max(1, int((1 - self.overlap) * self.segment))

    def segment_lengths(self, num_samples: int) -> list[int]:
        """Samples of each segment of audio of so many."""
        assert self.segment is not None
        return [min(self.segment, num_samples - start) for start in range(0, num_samples, self.segment_step)]

    def num_frames(self, num_samples: int) -> int:
        frames = super().num_frames
        return sum(map(frames, self.segment_lengths(num_samples))) if self.segment else frames(num_samples)

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        if self.segment or self.normalize:
            return torch.cat([one for one, _ in self._segments(wav)], 2)
        return super()._features(wav, lengths)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.segment or self.normalize):
            return super()._encode(wav, lengths)
        tokens, scales = [], []
        for features, scale in self._segments(wav):
            tokens.append(self._quantize(features))
            scales.append(scale)
        extras = {}
        if self.segment:
            frames = [super(EnCodec, self).num_frames(length) for length in self.segment_lengths(wav.shape[2])]
            extras["segment_frames"] = torch.tensor(frames, device=wav.device).repeat(len(wav), 1)
        if self.normalize:
            extras["scale"] = torch.stack(scales, 1)
        return torch.cat(tokens, 2), extras

    def _segments(self, wav: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents [B, D, f] and loudness [B] of each segment."""
        rows, _, total = wav.shape
        lengths = self.segment_lengths(total) if self.segment else [total]
        step = self.segment_step if self.segment else 0
        at = 0
        while at < len(lengths):
            together = 1
            while at + together < len(lengths) and lengths[at + together] == lengths[at] and together < _TOGETHER:
                together += 1
            batch = torch.cat([wav[:, :, i * step : i * step + lengths[i]] for i in range(at, at + together)])
            scale = batch.new_ones(len(batch))
            if self.normalize:
                scale = batch.mean(1).square().mean(1).sqrt().add_(_EPSILON)
                batch = batch / scale[:, None, None]
            sizes = torch.full((len(batch),), batch.shape[2])
            latents = torch.cat(list(self._latents(batch, sizes)), 1).transpose(1, 2)
            for i in range(together):
                yield latents[i * rows : (i + 1) * rows], scale[i * rows : (i + 1) * rows]
            at += together

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        if not self.segment:
            wav = super()._decode(tokens, extras)
            return wav * extras["scale"][:, :1, None] if self.normalize else wav
        rows = []
        for i, frames in enumerate(extras["segment_frames"].tolist()):
            counts = [count for count in frames if count]  # shorter rows of a batch are filled up with zeros
            rows.append(self._join(counts, tokens[i], extras["scale"][i] if self.normalize else None))
        longest = max(row.shape[1] for row in rows)
        return torch.stack([nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])

    def _join(self, frames: list[int], tokens: Tensor, scales: Tensor | None) -> Tensor:
        """wav [C, T] of the segments of one row's tokens [K, F]."""
        if sum(frames) != tokens.shape[1] or min(frames) < 0:
            raise InputError(
                f"segment_frames add up to {sum(frames)}, but there are {tokens.shape[1]} frames of tokens"
            )
        hop, step = self.spec.output_hop_length, self.segment_step
        ends = [i * step + count * hop for i, count in enumerate(frames)]
        wav = torch.zeros(self.spec.channels, max(ends), device=tokens.device)
        weights = torch.zeros(max(ends), device=tokens.device)
        ramp = torch.linspace(0, 1, frames[0] * hop + 2, device=tokens.device)[1:-1]
        triangle = 0.5 - (ramp - 0.5).abs()
        at = done = 0
        while at < len(frames):
            together = 1
            while at + together < len(frames) and frames[at + together] == frames[at] and together < _TOGETHER:
                together += 1
            count = frames[at]
            batch = tokens[:, done : done + together * count].reshape(-1, together, count).transpose(0, 1)
            decoded = super()._decode(batch, {})
            for i in range(together):
                one = decoded[i] if scales is None else decoded[i] * scales[at + i]
                where = slice((at + i) * step, ends[at + i])
                wav[:, where] += triangle[: one.shape[1]] * one
                weights[where] += triangle[: one.shape[1]]
            at, done = at + together, done + together * count
        return wav / weights


def read_encodec(source: Path, *, name: str = "") -> EnCodec:
    """Reads a folder of transformers, a native `encodec_*.th`, or audiocraft's `compression_state_dict.bin`.

    Args:
        source: the folder, or the `.th` or `.bin` file itself. A `config.json` beside a `.th` describes it; without
            one, its name says which of the two published models it is.
        name: of the tokenizer.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("model.safetensors", "compression_state_dict.bin", "*.th"), "weights")
    if path.suffix == ".safetensors":
        found = _of_transformers(path)
    elif path.suffix == ".bin":
        found = _of_audiocraft(path)
    else:
        found = _of_package(path)
    return found.build(name)


@dataclass(frozen=True)
class _Found:
    """What a checkpoint says, in whatever format."""

    path: Path
    tensors: dict[str, Tensor]
    seanet: SeanetConfig
    sample_rate: int
    segment: int | None = None
    overlap: float = 0.01
    normalize: bool = False
    licence: str = "unknown"

    def build(self, name: str) -> EnCodec:
        seanet, path = self.seanet, self.path
        weights = Weights(folded(plain_names(self.tensors), path), path)
        entries: dict[str, Tensor] = {}
        while f"quantizer.layers.{len(entries)}.codebook.embed" in weights:
            stage = len(entries)
            entries[f"quantizer.layers.{stage}.books.0.entries"] = weights.take(
                f"quantizer.layers.{stage}.codebook.embed"
            )
            weights.ignore(*(f"quantizer.layers.{stage}.codebook.{part}" for part in _TRAINING))
        if not entries or any(table.dim() != 2 for table in entries.values()):
            raise CheckpointError(f"{path} holds no codebooks [V, D] of EnCodec")
        plain = not (seanet.group_norm or self.segment or self.normalize)
        spec = Spec(
            name=name or f"encodec-{self.sample_rate // 1000}khz",
            sample_rate=self.sample_rate,
            hop_length=math.prod(seanet.ratios),
            codebook_sizes=tuple(len(table) for table in entries.values()),
            channels=seanet.channels,
            streamable=seanet.causal and plain,
            nested=True,
            batching="mask" if plain else "bucket",
            segmented=self.segment is not None,
        )
        encoder, decoder = layout(lambda: (seanet_encoder(seanet), seanet_decoder(seanet)), path)
        state = entries | weights.fill(encoder, seanet_names(seanet, decoder=False), "encoder.")
        state |= weights.fill(decoder, seanet_names(seanet, decoder=True), "decoder.")
        weights.finish()
        tokenizer = build(
            lambda: EnCodec(spec, seanet, segment=self.segment, overlap=self.overlap, normalize=self.normalize),
            state,
            path,
        )
        tokenizer.provenance = {
            "license": self.licence,
            "paper": "arXiv 2210.13438",
            "converted_from": {"file": path.name, "sha256": file_sha256(path)},
        }
        return tokenizer


_TRAINING = ("inited", "cluster_size", "embed_avg")  # the state of a codebook's training

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


def _of_package(path: Path) -> _Found:
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
    return _Found(
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


def _of_transformers(path: Path) -> _Found:
    config = path.parent / "config.json"
    facts = read_json(config)
    if facts.get("model_type") != "encodec":
        raise CheckpointError(f"{config} is of a {str(facts.get('model_type'))[:80]!r}, not of an encodec")
    sample_rate = number(facts.get("sampling_rate", 24000), "sampling_rate", config, high=1 << 20)
    return _Found(
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


def _of_audiocraft(path: Path) -> _Found:
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
    return _Found(
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
        elif field == "lstm_layers":
            given[field] = number(value, field, path, low=0, high=MAX_LAYERS)
        elif field != "pad_mode":
            given[field] = number(value, field, path, high=MAX_LAYERS if field == "residual_layers" else 1 << 14)
    return replace(SeanetConfig(), **given)


def _segments(seconds: object, overlap: object, sample_rate: int, path: Path) -> tuple[int | None, float]:
    """Samples of a segment, and the share that overlaps."""
    if seconds is None:
        return None, 0.01
    overlap = 0.01 if overlap is None else overlap
    if not isinstance(seconds, int | float) or not isinstance(overlap, int | float):
        raise CheckpointError(f"{path}: segments must be numbers, not {seconds!r} and {overlap!r}")
    if bool in (type(seconds), type(overlap)) or not 0 < seconds <= 3600 or not 0 <= overlap < 1:
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
