"""SpeechTokenizer (Zhang et al. 2023, arXiv 2308.16692)."""

from pathlib import Path
from typing import Any

from ..checkpoint import file_sha256, read_json, read_torch
from ..codec.convolutional import ConvolutionalCodec
from ..errors import CheckpointError
from ..nn.seanet import SeanetConfig, plain_names, seanet_decoder, seanet_encoder, seanet_names
from ..quantize import ResidualVQ, VQOptions
from ..spec import Spec
from .weights import Weights, build, flag, folded, layout, named_tensors, number, numbers, one_file

_UNUSED = ("cluster_size", "embed_avg", "inited")  # of a codebook's training


class SpeechTokenizer(ConvolutionalCodec):
    """Residual vector quantization of SEANet's latents, of which the first codebook was taught by HuBERT: its tokens
    hold mostly what is said, the others how.

    The encoder's LSTM runs both ways, so every token depends on the whole utterance. Of long audio only the latents
    lie in memory as a whole.

    Args:
        spec: what it takes and gives.
        seanet: sizes of the network.
    """

    family = "speechtokenizer"

    def __init__(self, spec: Spec, seanet: SeanetConfig) -> None:
        super().__init__(spec)
        self.seanet = seanet
        self.encoder = seanet_encoder(seanet)
        self.quantizer = ResidualVQ(
            seanet.dimension, spec.codebook_sizes, spec.num_codebooks, options=VQOptions(update="frozen")
        )
        self.decoder = seanet_decoder(seanet)

    def _config(self) -> dict[str, Any]:
        return {"seanet": self.seanet.to_dict()}

    @classmethod
    def from_config(cls, spec: Spec, config: dict[str, Any]) -> "SpeechTokenizer":
        return cls(spec, SeanetConfig.from_dict(config["seanet"]))


def read_speechtokenizer(source: Path, *, name: str = "") -> SpeechTokenizer:
    """Reads `SpeechTokenizer.pt` and the `config.json` beside it.

    Args:
        source: the folder, or the `.pt` file itself.
        name: of the tokenizer.

    Raises:
        CheckpointError: missing, broken or hostile files, or another network.
    """
    path = one_file(source, ("SpeechTokenizer.pt", "*.pt"), "weights")
    beside = path.parent / "config.json"
    facts = read_json(beside)
    seanet = _seanet(facts, beside)
    count = number(facts.get("n_q"), "n_q", beside, high=256)
    sample_rate = number(facts.get("sample_rate"), "sample_rate", beside, high=1 << 20)
    spec = Spec(
        name=name or f"speechtokenizer-{sample_rate // 1000}khz",
        sample_rate=sample_rate,
        hop_length=seanet.hop_length,
        codebook_sizes=(number(facts.get("codebook_size"), "codebook_size", beside, high=1 << 24),) * count,
        nested=True,
        batching="mask",
    )
    weights = Weights(folded(plain_names(named_tensors(read_torch(path), path)), path), path)
    weights.ignore("transform.")  # compares the first codebook with HuBERT in training
    encoder, decoder = layout(lambda: (seanet_encoder(seanet), seanet_decoder(seanet)), path)
    state = weights.fill(encoder, seanet_names(seanet, decoder=False), "encoder.")
    state |= weights.fill(decoder, seanet_names(seanet, decoder=True), "decoder.")
    for stage in range(count):
        theirs = f"quantizer.layers.{stage}.codebook"
        state[f"quantizer.layers.{stage}.books.0.entries"] = weights.take(f"{theirs}.embed")
        weights.ignore(*(f"{theirs}.{part}" for part in _UNUSED))
    weights.finish()
    tokenizer = build(lambda: SpeechTokenizer(spec, seanet), state, path)
    tokenizer.provenance = {
        "license": "unknown",
        "paper": "arXiv 2308.16692",
        "converted_from": {"file": path.name, "sha256": file_sha256(path)},
    }
    return tokenizer


def _seanet(facts: dict[str, Any], path: Path) -> SeanetConfig:
    """The sizes that a configuration names; what it does not hold is fixed in upstream's code."""
    activation = facts.get("activation")
    if activation not in ("ELU", "Snake"):
        raise CheckpointError(f"{path}: activation must be ELU or Snake, not {activation!r}")
    seanet = SeanetConfig(
        dimension=number(facts.get("dimension"), "dimension", path),
        filters=number(facts.get("n_filters"), "n_filters", path, low=2),
        ratios=tuple(numbers(facts.get("strides"), "strides", path, high=1 << 10)),
        residual_layers=number(facts.get("n_residual_layers"), "n_residual_layers", path, high=8),
        residual_kernel=number(facts.get("residual_kernel_size"), "residual_kernel_size", path, high=64),
        dilation_base=number(facts.get("dilation_base"), "dilation_base", path, high=4),
        lstm_layers=number(facts.get("lstm_layers"), "lstm_layers", path, low=0, high=8),
        bidirectional=flag(facts.get("bidirectional"), "bidirectional", path),
        causal=False,
        snake=activation == "Snake",
    )
    number(seanet.widest, "the number of channels", path)
    number(seanet.hop_length, "the product of the strides", path, high=1 << 20)
    return seanet
