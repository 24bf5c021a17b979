"""DAC, the Descript Audio Codec (Kumar et al. 2023, arXiv 2306.06546)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import file_sha256, read_json, read_safetensors, read_torch
from ..codec.convolutional import ConvolutionalCodec
from ..errors import CheckpointError
from ..inputs import Wav
from ..nn.activations import Snake
from ..nn.conv import Apply, Chain, Conv, ConvTranspose, Residual, Stages
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from .dac_files import DacFile, compress, decompress
from .weights import Weights, build, folded, layout, named_tensors, number, numbers, one_file

_DILATIONS = (1, 3, 9)


class DAC(ConvolutionalCodec):
    """Residual vector quantization of a convolutional network with Snake activations, at 16, 24 or 44.1 kHz.

    Audio is padded with zeros to whole frames. Every codebook is searched by cosine in a space of few dimensions.

    Args:
        spec: what it takes and gives.
        encoder_width: channels of the first layer; they double at every stride.
        rates: strides of the encoder.
        latent: D.
        decoder_width: channels of the decoder's first layer; they halve at every stride.
        decoder_rates: strides of the decoder.
        codebook_dim: width of the search space.
    """

    family = "dac"

    def __init__(
        self,
        spec: Spec,
        *,
        encoder_width: int,
        rates: Sequence[int],
        latent: int,
        decoder_width: int,
        decoder_rates: Sequence[int],
        codebook_dim: int,
    ) -> None:
        super().__init__(spec)
        self.settings = {
            "encoder_width": encoder_width,
            "rates": list(rates),
            "latent": latent,
            "decoder_width": decoder_width,
            "decoder_rates": list(decoder_rates),
            "codebook_dim": codebook_dim,
        }
        self.encoder = encoder(encoder_width, rates, latent)
        self.quantizer = ResidualVQ(
            latent,
            spec.codebook_sizes,
            spec.num_codebooks,
            codebook_dim=codebook_dim,
            options=VQOptions(lookup="cosine", update="frozen"),
        )
        self.decoder = decoder(latent, decoder_width, decoder_rates)

    def _config(self) -> dict[str, Any]:
        return self.settings

    def padded_length(self, num_samples: int) -> int:
        return self.num_frames(num_samples) * self.spec.hop_length

    def compress(
        self,
        wav: Wav,
        sample_rate: int | None = None,
        *,
        window_seconds: float | None = 1.0,
        loudness_db: float | None = -16.0,
    ) -> DacFile:
        """Audio to what the `dac` package's own `compress` makes of it, ready to be saved as a `.dac` file.

        Its codes are not those of `encode`: loudness is changed first, and long audio is cut into windows that overlap
        and are coded without padding, each of which decodes by itself to a part of the audio.

        Args:
            wav: [T] or [C, T]; channels are coded one by one.
            sample_rate: in Hz; None means `spec.sample_rate`.
            window_seconds: length of a window; None, or shorter audio, codes it whole.
            loudness_db: BS.1770 loudness that the audio is brought to, or None to leave it.

        Raises:
            InputError: no audio. UnsupportedError: the package pyloudnorm is not installed.
        """
        self._need("encode")
        return compress(self, wav, sample_rate, window_seconds, loudness_db)

    def decompress(self, file: DacFile) -> Tensor:
        """wav [C, T] of a `.dac` file at `file.sample_rate`, as loud and as long as what went in.

        Raises:
            InputError: its codes are not of this network. UnsupportedError: pyloudnorm is not installed.
        """
        self._need("decode")
        return decompress(self, file)


def residual_unit(width: int, dilation: int) -> Residual:
    """Snake, dilated convolution, Snake, 1x1 convolution, beside a shortcut."""
    return Residual(
        Chain(
            [
                Conv(width, width, 7, dilation=dilation, padding="same", activation=Snake(width)),
                Conv(width, width, 1, activation=Snake(width)),
            ]
        )
    )


def encoder(width: int, rates: Sequence[int], latent: int) -> Stages:
    """wav [B, T, 1] to latents [B, T / hop, latent]."""
    stages: list[torch.nn.Module] = [Conv(1, width, 7, padding="same")]
    for rate in rates:
        padding = math.ceil(rate / 2)
        down = Conv(width, 2 * width, 2 * rate, stride=rate, padding=(padding, padding), activation=Snake(width))
        stages.append(Chain([*(residual_unit(width, dilation) for dilation in _DILATIONS), down]))
        width *= 2
    return Stages([*stages, Conv(width, latent, 3, padding="same", activation=Snake(width))])


def decoder(latent: int, width: int, rates: Sequence[int]) -> Stages:
    """Latents [B, F, latent] to wav [B, F · hop, 1], a few samples less where a rate is odd."""
    stages: list[torch.nn.Module] = [Conv(latent, width, 7, padding="same")]
    for rate in rates:
        padding = math.ceil(rate / 2)
        up = ConvTranspose(width, width // 2, 2 * rate, stride=rate, trim=(padding, padding), activation=Snake(width))
        width //= 2
        stages.append(Chain([up, *(residual_unit(width, dilation) for dilation in _DILATIONS)]))
    return Stages([*stages, Conv(width, 1, 7, padding="same", activation=Snake(width)), Apply(torch.tanh)])


def read_dac(source: Path, *, name: str = "") -> DAC:
    """Reads a native `weights*.pth`, a folder that holds one, or a folder of the transformers library.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("model.safetensors", "weights*.pth", "*.pth"), "weights")
    if path.suffix == ".safetensors":
        return _read_transformers(path, name)
    return _read_native(path, name)


def _read_native(path: Path, name: str) -> DAC:
    checkpoint: Any = read_torch(path)
    try:
        facts, tensors = checkpoint["metadata"]["kwargs"], checkpoint["state_dict"]
        facts.keys()
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no DAC checkpoint: wanted a state_dict and metadata.kwargs, it has {_keys(checkpoint)}"
        ) from error
    settings = {
        "encoder_width": facts.get("encoder_dim", 64),
        "rates": facts.get("encoder_rates", [2, 4, 8, 8]),
        "latent": facts.get("latent_dim"),
        "decoder_width": facts.get("decoder_dim", 1536),
        "decoder_rates": facts.get("decoder_rates", [8, 8, 4, 2]),
        "codebook_dim": facts.get("codebook_dim", 8),
    }
    return _read(
        path,
        path,
        named_tensors(tensors, path),
        name,
        settings,
        sample_rate=facts.get("sample_rate", 44100),
        codebooks=facts.get("n_codebooks", 9),
        size=facts.get("codebook_size", 1024),
        native=True,
    )


def _read_transformers(path: Path, name: str) -> DAC:
    config = path.parent / "config.json"
    facts = read_json(config)
    if facts.get("model_type") != "dac":
        raise CheckpointError(f"{config} is of a {str(facts.get('model_type'))[:80]!r}, not of a dac")
    settings = {
        "encoder_width": facts.get("encoder_hidden_size", 64),
        "rates": facts.get("downsampling_ratios", [2, 4, 8, 8]),
        "latent": facts.get("hidden_size"),
        "decoder_width": facts.get("decoder_hidden_size", 1536),
        "decoder_rates": facts.get("upsampling_ratios", [8, 8, 4, 2]),
        "codebook_dim": facts.get("codebook_dim", 8),
    }
    return _read(
        path,
        config,
        read_safetensors(path),
        name,
        settings,
        sample_rate=facts.get("sampling_rate", 16000),
        codebooks=facts.get("n_codebooks", 9),
        size=facts.get("codebook_size", 1024),
        native=False,
    )


def _read(
    path: Path,
    config: Path,
    tensors: dict[str, Tensor],
    name: str,
    settings: dict[str, Any],
    *,
    sample_rate: object,
    codebooks: object,
    size: object,
    native: bool,
) -> DAC:
    rates = numbers(settings["rates"], "the encoder's rates", config)
    width = number(settings["encoder_width"], "the encoder's width", config)
    latent = width << len(rates) if settings["latent"] is None else settings["latent"]
    checked: dict[str, Any] = {
        "encoder_width": width,
        "rates": rates,
        "latent": number(latent, "the latent width", config),
        "decoder_width": number(settings["decoder_width"], "the decoder's width", config),
        "decoder_rates": numbers(settings["decoder_rates"], "the decoder's rates", config),
        "codebook_dim": number(settings["codebook_dim"], "codebook_dim", config),
    }
    if math.prod(rates) != math.prod(checked["decoder_rates"]):
        raise CheckpointError(
            f"{config}: the encoder's rates {rates} and the decoder's {checked['decoder_rates']} differ"
        )
    count, sample_rate = (
        number(codebooks, "n_codebooks", config, high=256),
        number(sample_rate, "the rate", config, high=1 << 20),
    )
    spec = Spec(
        name=name or f"dac-{sample_rate // 1000}khz",
        sample_rate=sample_rate,
        hop_length=math.prod(rates),  # published configurations name wrong ones
        codebook_sizes=(number(size, "codebook_size", config, high=1 << 24),) * count,
        nested=True,
        batching="mask",
    )
    bare = layout(lambda: DAC(spec, **checked), config)
    weights = Weights(folded(tensors, path), path)
    state = weights.fill(bare.encoder, _encoder_names(len(rates), native), "encoder.")
    state |= weights.fill(bare.decoder, _decoder_names(len(rates), native), "decoder.")
    for stage in range(count):
        theirs, ours = f"quantizer.quantizers.{stage}", f"quantizer.layers.{stage}"
        for side in ("in", "out"):
            state[f"{ours}.project_{side}.weight"] = weights.take_matrix(f"{theirs}.{side}_proj.weight")
            state[f"{ours}.project_{side}.bias"] = weights.take(f"{theirs}.{side}_proj.bias")
        state[f"{ours}.books.0.entries"] = weights.take(f"{theirs}.codebook.weight")
    weights.finish()
    tokenizer = build(lambda: DAC(spec, **checked), state, path)
    tokenizer.provenance = {
        "license": "MIT",
        "paper": "arXiv 2306.06546",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer


def _encoder_names(stages: int, native: bool) -> dict[str, str]:
    """Our module -> upstream's, in the package's own naming or in that of transformers."""
    names = {"0": "encoder.block.0" if native else "encoder.conv1"}
    for stage in range(stages):
        for unit in range(3):
            there = f"encoder.block.{stage + 1}.block.{unit}" if native else f"encoder.block.{stage}.res_unit{unit + 1}"
            names |= _unit_names(f"{stage + 1}.{unit}", there, native)
        there = f"encoder.block.{stage + 1}.block." if native else f"encoder.block.{stage}."
        names |= _with_snake(
            f"{stage + 1}.3", there + ("3" if native else "snake1"), there + ("4" if native else "conv1")
        )
    last = f"{stages + 1}"
    if native:
        return names | _with_snake(last, f"encoder.block.{stages + 1}", f"encoder.block.{stages + 2}")
    return names | _with_snake(last, "encoder.snake1", "encoder.conv2")


def _decoder_names(stages: int, native: bool) -> dict[str, str]:
    names = {"0": "decoder.model.0" if native else "decoder.conv1"}
    for stage in range(stages):
        there = f"decoder.model.{stage + 1}.block." if native else f"decoder.block.{stage}."
        names |= _with_snake(
            f"{stage + 1}.0", there + ("0" if native else "snake1"), there + ("1" if native else "conv_t1")
        )
        for unit in range(3):
            upstream = f"{there}{unit + 2}" if native else f"{there}res_unit{unit + 1}"
            names |= _unit_names(f"{stage + 1}.{unit + 1}", upstream, native)
    last = f"{stages + 1}"
    if native:
        return names | _with_snake(last, f"decoder.model.{stages + 1}", f"decoder.model.{stages + 2}")
    return names | _with_snake(last, "decoder.snake1", "decoder.conv2")


def _unit_names(ours: str, theirs: str, native: bool) -> dict[str, str]:
    parts = ("block.0", "block.1", "block.2", "block.3") if native else ("snake1", "conv1", "snake2", "conv2")
    snake1, conv1, snake2, conv2 = (f"{theirs}.{part}" for part in parts)
    return _with_snake(f"{ours}.branch.0", snake1, conv1) | _with_snake(f"{ours}.branch.1", snake2, conv2)


def _with_snake(ours: str, snake: str, conv: str) -> dict[str, str]:
    return {f"{ours}.activation": snake, ours: conv}


def _keys(checkpoint: object) -> str:
    return ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
