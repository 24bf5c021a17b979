"""TiCodec: HiFi-Codec's network with a few codes for the whole utterance beside those of its frames."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import file_sha256
from ..errors import InputError
from ..nn.hifigan import SLOPE
from ..quantize import ProductVQ
from ..spec import Spec
from .hificodec import FROZEN, HiFiCodec
from .hificodec_files import Published, codebooks_of, network_sizes, read_published, sample_rate_of
from .hificodec_network import NetworkSizes, check_size
from .weights import build

_MAX_SIZE = 2**16
_UNUSED = ("encoder.linear.0.", "global_encoder.norm.num_batches_tracked")  # a layer never called, and a count


class StoredBatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167) by the statistics that training left, in any mode.

    Args:
        channels: C.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] of [B, C]."""
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


class GlobalEncoder(nn.Module):
    """What stays the same through an utterance, from the encoder's middle: three convolutions, the mean over time, a
    linear layer and batch norm.

    Args:
        channels_in, hidden, channels_out: of the convolutions.
        kernel, stride: of each; they are padded by (kernel - stride) / 2 zeros, which must be whole.

    Raises:
        InputError: kernel - stride is negative or odd.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        if kernel < stride or (kernel - stride) % 2:
            raise InputError(f"a kernel must exceed its stride by 0, 2, 4, ..., not {kernel} and {stride}")
        widths = [channels_in, hidden, hidden, channels_out]
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel, stride=stride, padding=(kernel - stride) // 2, bias=False)
            for a, b in pairwise(widths)
        )
        self.linear = nn.Linear(channels_out, channels_out)
        self.norm = StoredBatchNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, G] of [B, C, T']."""
        for conv in self.convs:
            x = functional.leaky_relu(conv(x), SLOPE)
        vector: Tensor = self.norm(functional.leaky_relu(self.linear(x.mean(dim=2)), SLOPE))
        return vector


class TiCodec(HiFiCodec):
    """TiCodec (Ren et al. 2023, arXiv 2310.00014).

    Beside the tokens, `extras["global_codes"]` [B, N] int64 holds the codes of the whole utterance: a vector from the
    middle of the encoder, cut into N parts with a codebook each. The generator adds it to every sample of the one
    stage that has as many channels.

    Args:
        spec, network, groups: as for `HiFiCodec`.
        global_conv: hidden channels, size of the global vector, kernel and stride of the global encoder.
        global_codes: N.
        global_size: entries of each global codebook.

    Raises:
        InputError: values that do not fit one another.
    """

    family: ClassVar[str] = "ticodec"
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder", "global_encoder")

    def __init__(
        self,
        spec: Spec,
        network: NetworkSizes | dict[str, Any],
        groups: int,
        global_conv: list[int],
        global_codes: int,
        global_size: int,
    ) -> None:
        super().__init__(spec, network, groups)
        for what, value in (("global_codes", global_codes), ("global_size", global_size)):
            check_size(what, value, _MAX_SIZE)
        if not isinstance(global_conv, list) or len(global_conv) != 4:
            raise InputError(f"global_conv must be four whole numbers, not {str(global_conv)[:80]}")
        for value in global_conv:
            check_size("every number in global_conv", value, _MAX_SIZE)
        hidden, width, kernel, stride = self.global_conv = global_conv
        sizes = self.sizes
        if sizes.half == 0:
            raise InputError("a network of one stage has no middle for the global encoder")
        if width not in [sizes.initial_channels >> (stage + 1) for stage in range(len(sizes.upsample_factors))]:
            raise InputError(f"no stage of the generator has the {width} channels of the global vector")
        self.global_encoder = GlobalEncoder(sizes.base_channels << sizes.half, hidden, width, kernel, stride)
        self.global_quantizer = ProductVQ(width, global_size, global_codes, options=FROZEN)
        self.min_samples = max(sizes.hop_length, sizes.half_hop * stride**3)  # one frame, one step of the last conv

    def _config(self) -> dict[str, Any]:
        return {
            **super()._config(),
            "global_conv": list(self.global_conv),
            "global_codes": self.global_quantizer.num_codebooks,
            "global_size": self.global_quantizer.codebook_sizes[0],
        }

    @property
    def required_extras(self) -> tuple[str, ...]:
        return ("global_codes",)

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        middle = self.encoder.first_half(wav.to(self.dtype))
        codes = self.global_quantizer.encode(self.global_encoder(middle)[:, :, None])[:, :, 0]
        return self._quantize(self.encoder.second_half(middle)), {"global_codes": codes}

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        codes = extras["global_codes"]
        if codes.dim() != 2:
            raise InputError(
                f"global_codes must be [B, {self.global_quantizer.num_codebooks}], not {list(codes.shape)}"
            )
        vector = self.global_quantizer.decode(codes[:, :, None])[:, :, 0]
        wav: Tensor = self.generator(self._embed(tokens).to(self.dtype), vector.to(self.dtype))
        return wav


def read_ticodec(
    source: Path,
    *,
    name: str = "",
    config: str | os.PathLike[str] | None = None,
    sample_rate: int | None = None,
) -> TiCodec:
    """A checkpoint of TiCodec. Nothing in it is run.

    Global books that an early checkpoint keeps under the name of the third residual stage are told by their width.

    Args:
        source: the checkpoint, a file without a suffix ("g_00300000"), or a folder with one such file and its
            config*.json.
        name: of the tokenizer; default from rate, hop and the number of codes.
        config: the JSON file that belongs to it; None takes the one in the folder, if there is one.
        sample_rate: in Hz, where there is no JSON file. What shapes do not tell is then as in the published
            checkpoints.

    Raises:
        CheckpointError: a file is missing, broken, hostile or of another kind, or the JSON does not fit the weights.
        InputError: nothing says the sample rate, or it is said twice and differently.
    """
    published = read_published(source, config)
    sizes = network_sizes(published)
    groups, stages, entries = codebooks_of(published)
    conv = _global_conv(published)
    count, size = published.count("global_quantizer.books.{}.entries"), 0
    if count:
        size = published.shape("global_quantizer.books.0.entries", 2)[0]
        published.check("n_codes", size)
    published.check("global_code_num", count)
    rate = sample_rate_of(published, sample_rate)
    spec = Spec(
        name=name or f"ticodec-{rate // 1000}khz-hop{sizes.hop_length}-{groups}g{stages}r{count}t",
        sample_rate=rate,
        hop_length=sizes.hop_length,
        codebook_sizes=(entries,) * (groups * stages),
        nested=groups == 1,
    )
    state = {name: value for name, value in published.state.items() if not name.startswith(_UNUSED)}
    tokenizer = build(lambda: TiCodec(spec, sizes, groups, conv, count, size), state, published.path)
    tokenizer.provenance = {
        "license": "not stated for the weights; the repository's readme says Apache-2.0",
        "paper": "arXiv 2310.00014",
        "converted_from": {"file": published.path.name, "sha256": file_sha256(published.path)},
    }
    return tokenizer


def _global_conv(published: Published) -> list[int]:
    """Hidden channels, width, kernel and stride of the global encoder."""
    hidden, channels_in, kernel = published.shape("global_encoder.convs.0.weight", 3)
    width = published.shape("global_encoder.convs.2.weight", 3)[0]
    said = published.config.get("global_feature_conv", [channels_in, hidden, width, kernel, 1])
    stride = said[4] if isinstance(said, list) and len(said) == 5 else 0
    published.check("global_feature_conv", [channels_in, hidden, width, kernel, stride])
    return [hidden, width, kernel, stride]
