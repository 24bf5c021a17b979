"""How the codecs of the transformers library are built and called, one class for each way."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from ..errors import InputError
from ..spec import Spec
from .kaldi_fbank import SAMPLE_RATE, w2v_bert_features
from .transformers_codec_config import transformers_class


class XCodec:
    """X-Codec (Ye et al. 2024, arXiv 2408.17175): the mean of all hidden states of HuBERT or WavLM beside the encoder
    of DAC, a residual Euclidean quantizer, the decoder of DAC without its final tanh.

    Attributes:
        encoder_parts, decoder_parts: of the library's model, that only encoding, only decoding needs.
        unused: parts and tensors of the library's model that only its training needs.
    """

    encoder_parts: ClassVar[tuple[str, ...]] = ("semantic_model", "encoder_semantic", "acoustic_encoder", "fc")
    decoder_parts: ClassVar[tuple[str, ...]] = ("fc2", "acoustic_decoder")
    unused: ClassVar[frozenset[str]] = frozenset(
        ("decoder_semantic", "fc1", "masked_spec_embed", "embed_avg", "cluster_size", "inited")
    )

    def spec(self, config: Any, name: str) -> Spec:
        """What a model of this configuration takes and gives."""
        return Spec(
            name=name,
            sample_rate=config.sample_rate,
            hop_length=config.hop_length,
            codebook_sizes=(config.codebook_size,) * config.num_quantizers,
            nested=True,
        )

    def min_samples(self, hop: int) -> int:
        """Fewest samples that give a frame."""
        return 1

    def num_frames(self, num_samples: int, hop: int) -> int:
        """F of so many samples."""
        return -(-num_samples // hop)

    def padded(self, num_samples: int, hop: int) -> int:
        """Samples that the networks see of so many, the rest being zeros."""
        return self.num_frames(num_samples, hop) * hop

    def build(self, config: Any) -> nn.Module:
        """The library's model, without what only training needs and without weight norm."""
        # Only the encoder and the decoder of this network are kept: its quantizer must cost nothing.
        config.acoustic_model_config.n_codebooks = 1
        config.acoustic_model_config.codebook_size = 1
        config.acoustic_model_config.codebook_dim = 1
        return _stripped(transformers_class("XcodecModel")(config), self.unused)

    def decode_context(self, model: Any) -> int | None:
        """Frames on each side that a frame's audio depends on; None if it depends on all."""
        reach = 0
        layers: list[Any] = [one for one in model.acoustic_decoder.modules() if isinstance(one, _CONVOLUTIONS)]
        for layer in reversed(layers):
            span, padding = layer.dilation[0] * (layer.kernel_size[0] - 1), layer.padding[0]
            reach += max(span - padding, padding)
            if isinstance(layer, nn.ConvTranspose1d):  # output o sums inputs i with i · stride + j = o + padding
                reach = -(-reach // layer.stride[0])
        return reach

    def features(self, model: Any, wav: Tensor) -> Tensor:
        """[B, D, F] before quantization, of wav [B, 1, `padded` T]."""
        semantic = model.encoder_semantic(self._semantic(model, wav[:, 0]).transpose(1, 2))
        acoustic = model.acoustic_encoder(wav.to(model.dtype))
        return _linear(model.fc, torch.cat([acoustic, semantic], 1))

    def _semantic(self, model: Any, wav: Tensor) -> Tensor:
        """Mean hidden states [B, F, D'] of wav [B, T]."""
        around = model.config.hop_length // 2
        return _mean_hidden(model.semantic_model, functional.pad(wav, (around, around)))

    def quantize(self, model: Any, features: Tensor) -> Tensor:
        """Tokens [B, K, F] of features [B, D, F]."""
        tokens: Tensor = model.quantizer.encode(features).transpose(0, 1)
        return tokens

    def embed(self, model: Any, tokens: Tensor) -> Tensor:
        """[B, D, F] of tokens [B, k, F]."""
        features: Tensor = model.quantizer.decode(tokens.transpose(0, 1))
        return features

    def synthesize(self, model: Any, features: Tensor) -> Tensor:
        """wav [B, 1, F · output hop] of quantized features [B, D, F]."""
        wav: Tensor = model.acoustic_decoder(_linear(model.fc2, features))
        return wav

    def tables(self, model: Any) -> list[Tensor]:
        """Codebook of each row of tokens."""
        return [layer.codebook.embed for layer in model.quantizer.quantizers]


class HiggsAudio(XCodec):
    """Higgs Audio v2 (Boson AI 2025): X-Codec at 24 kHz, with HuBERT at 16 kHz, every second of its frames, and
    codebooks of few dimensions between linear maps.

    The library's own class needs torchaudio, which resamples for it; so the maps and the resampling are added to
    X-Codec's here.
    """

    def build(self, config: Any) -> nn.Module:
        model = super().build(config)
        layers: Any = model.quantizer
        for layer in layers.quantizers:
            layer.project_in = nn.Linear(config.hidden_size, config.codebook_dim)
            layer.project_out = nn.Linear(config.codebook_dim, config.hidden_size)
        return model

    def _semantic(self, model: Any, wav: Tensor) -> Tensor:
        config = model.config
        wav = sinc_resample(wav, config.sample_rate, config.semantic_sample_rate)
        hidden = _mean_hidden(model.semantic_model, functional.pad(wav, (160, 160)))
        return hidden[:, :: config.semantic_downsample_factor]

    def quantize(self, model: Any, features: Tensor) -> Tensor:
        residual, tokens = features.transpose(1, 2), []
        for layer in model.quantizer.quantizers:
            tokens.append(layer.codebook.encode(layer.project_in(residual)))
            residual = residual - layer.project_out(layer.codebook.decode(tokens[-1]))
        return torch.stack(tokens, 1)

    def embed(self, model: Any, tokens: Tensor) -> Tensor:
        parts = [
            layer.project_out(layer.codebook.decode(row))
            for layer, row in zip(model.quantizer.quantizers, tokens.unbind(1), strict=False)
        ]
        return torch.stack(parts).sum(0).transpose(1, 2)


class XCodec2(XCodec):
    """X-Codec 2 (Ye et al. 2025, arXiv 2502.04128): w2v-BERT 2.0 beside a convolutional encoder, one codebook of levels
    (FSQ), a transformer and an inverse STFT back.

    One zero is appended to the audio before it is padded to whole frames, so there is always a frame more than whole
    ones went in.
    """

    encoder_parts = ("semantic_encoder", "semantic_adapter", "acoustic_encoder", "fc_encoder")
    decoder_parts = ("acoustic_decoder",)
    unused = frozenset(("masked_spec_embed",))
    model_class = "Xcodec2Model"

    def spec(self, config: Any, name: str) -> Spec:
        return self._spec(name, config, config.sampling_rate, config.hop_length, config.sampling_rate)

    def _spec(self, name: str, config: Any, rate: int, hop: int, output_rate: int) -> Spec:
        if rate != SAMPLE_RATE:
            raise InputError(f"w2v-BERT 2.0 takes audio at {SAMPLE_RATE} Hz, not {rate}")
        return Spec(
            name=name,
            sample_rate=rate,
            hop_length=hop,
            codebook_sizes=(math.prod(config.quantization_levels),),
            output_sample_rate=output_rate,
        )

    def num_frames(self, num_samples: int, hop: int) -> int:
        return num_samples // hop + 1

    def padded(self, num_samples: int, hop: int) -> int:
        return (num_samples // hop + 1) * hop

    def build(self, config: Any) -> nn.Module:
        return _stripped(transformers_class(self.model_class)(config), self.unused)

    def decode_context(self, model: Any) -> int | None:
        return None

    def features(self, model: Any, wav: Tensor) -> Tensor:
        bands = w2v_bert_features(self._around(wav[:, 0], model.hop_length)).to(model.dtype)
        semantic = model.semantic_adapter(model.semantic_encoder(bands).last_hidden_state.transpose(1, 2))
        acoustic = model.acoustic_encoder(wav.to(model.dtype))
        return _linear(model.fc_encoder, torch.cat([semantic, acoustic[..., : semantic.shape[2]]], 1))

    def _around(self, wav: Tensor, hop: int) -> Tensor:
        """The audio [B, T'] whose filter banks are taken."""
        return functional.pad(wav, (hop // 2, hop // 2))

    def quantize(self, model: Any, features: Tensor) -> Tensor:
        tokens: Tensor = model.quantizer(features.transpose(1, 2))[1]
        return tokens.transpose(1, 2).long()

    def embed(self, model: Any, tokens: Tensor) -> Tensor:
        features: Tensor = model.quantizer.from_codes(tokens.transpose(1, 2)).transpose(1, 2)
        return features

    def synthesize(self, model: Any, features: Tensor) -> Tensor:
        wav: Tensor = model.acoustic_decoder(features.transpose(1, 2))
        return wav

    def tables(self, model: Any) -> list[Tensor]:
        return [model.quantizer.quantizer.codebook]


class NeuCodec(XCodec2):
    """NeuCodec (Julian et al. 2025, arXiv 2509.09550): X-Codec 2 with a decoder to 24 kHz.

    Nothing is put around the audio before its filter banks are taken, so they are a frame fewer than those of the
    convolutional encoder, whose last frame is dropped.
    """

    model_class = "NeuCodecModel"

    def spec(self, config: Any, name: str) -> Spec:
        rates = config.input_sampling_rate, config.encoder_hop_length, config.output_sampling_rate
        return self._spec(name, config, *rates)

    def min_samples(self, hop: int) -> int:
        return hop

    def num_frames(self, num_samples: int, hop: int) -> int:
        return num_samples // hop

    def _around(self, wav: Tensor, hop: int) -> Tensor:
        return wav


#: By `model_type` of the library.
CODECS: dict[str, XCodec] = {
    "xcodec": XCodec(),
    "higgs_audio_v2_tokenizer": HiggsAudio(),
    "xcodec2": XCodec2(),
    "neucodec": NeuCodec(),
}

_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


def sinc_resample(wav: Tensor, rate: int, new_rate: int) -> Tensor:
    """Audio at another rate, by the sinc interpolation that torchaudio does by default: 6 zero crossings on each side
    under a squared cosine, cut off at 0.99 of the lower band limit.

    Args:
        wav: [B, T] float.
        rate: of wav, in Hz.
        new_rate: wanted, in Hz.

    Returns:
        [B, ceil(T · new_rate / rate)].
    """
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    if old == new:
        return wav
    crossings, cutoff = 6, 0.99 * min(old, new)
    width = math.ceil(crossings * old / cutoff)
    # Output j lies at time j / new; it weighs the inputs i by the sinc of their distance in time from it.
    inputs = torch.arange(-width, width + old, dtype=wav.dtype, device=wav.device) / old
    outputs = torch.arange(0, -new, -1, dtype=wav.dtype, device=wav.device)[:, None] / new
    distance = ((outputs + inputs) * cutoff).clamp(-crossings, crossings)
    window = torch.cos(distance * (math.pi / crossings / 2)) ** 2
    kernels = torch.sinc(distance) * window * (cutoff / old)
    padded = functional.pad(wav, (width, width + old))
    steps = functional.conv1d(padded[:, None], kernels[:, None], stride=old)  # [B, new, steps of `old` inputs]
    return steps.transpose(1, 2).flatten(1)[:, : math.ceil(new * wav.shape[1] / old)]


def _mean_hidden(network: Any, wav: Tensor) -> Tensor:
    """Mean over all hidden states, the first one's input included: [B, F, D] of wav [B, T]."""
    hidden = network(wav.to(network.dtype), output_hidden_states=True).hidden_states
    return torch.stack(hidden, 1).mean(1)


def _linear(layer: nn.Module, features: Tensor) -> Tensor:
    """A linear layer over D of [B, D, F]."""
    found: Tensor = layer(features.transpose(1, 2)).transpose(1, 2)
    return found


def _stripped(model: nn.Module, unused: frozenset[str]) -> nn.Module:
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
            module._load_state_dict_pre_hooks.clear()  # left behind by weight norm, and cannot be pickled
        for name in unused:
            if hasattr(module, name):
                delattr(module, name)
    return model
