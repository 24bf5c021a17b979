"""`SSLKMeans`: k-means over layers of WavLM, HuBERT or wav2vec 2.0, and back to speech through a unit vocoder."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError, UnsupportedError
from ..inputs import Wav
from ..quantize import KMeansQuantizer
from ..spec import Spec
from ..tokenizer import Tokenizer
from .encoder import SSLEncoder
from .encoder_config import SSLConfig
from .vocoder import UnitVocoder
from .vocoder_files import check_vocoder, load_vocoder

#: How layers are counted, written into every saved tokenizer: hidden_states[L] of transformers.
INDEXING = "0 enters the first block, L leaves block L, before the network's last layer norm"


class SSLKMeans(Tokenizer):
    """One pass through the network, one k-means codebook per layer, K rows of tokens in ascending order of layers
    (Mousavi et al. 2024, arXiv 2406.10735; Lakhotia et al. 2021, arXiv 2102.01192, for one layer).

    Tokens of a row depend on its valid samples alone. Rows longer than `chunk_seconds` go through the transformer in
    windows that overlap by 4 s: an approximation, since attention looks at everything (docs/tokenizers/ssl.md has the
    measured share of tokens that change); shorter ones are exact.

    Args:
        spec: mono, at the network's rate and hop, one codebook per layer.
        encoder: the network's configuration, or its values as a dict.
        layers: hidden states to quantize, ascending.
        vocoder: configuration of the unit vocoder, or None.
        source: where the network's weights come from ("microsoft/wavlm-large@<commit>"), for the card.
        indexing: how `layers` are counted; only `INDEXING` is known.
        lookup: "euclidean", or "cosine" for the nearest direction (spherical k-means).

    Raises:
        InputError: values that do not fit one another.
    """

    family: ClassVar[str] = "ssl-kmeans"

    def __init__(
        self,
        spec: Spec,
        encoder: SSLConfig | dict[str, Any],
        layers: Sequence[int],
        vocoder: dict[str, Any] | None = None,
        source: str = "",
        indexing: str = INDEXING,
        lookup: str = "euclidean",
    ) -> None:
        super().__init__(spec)
        config = encoder if isinstance(encoder, SSLConfig) else SSLConfig(**encoder)
        if indexing != INDEXING:
            raise InputError(f"layers counted as {indexing!r} are not known here, only as {INDEXING!r}")
        if list(layers) != sorted(set(layers)) or len(layers) != len(spec.codebook_sizes):
            raise InputError(f"wanted one codebook per layer, layers ascending, not {list(layers)}")
        if (spec.sample_rate, spec.hop_length, spec.channels) != (config.sample_rate, config.hop_length, 1):
            raise InputError(f"{spec.name}: its rate, hop and one channel must be those of its network")
        self.source, self.lookup = source, lookup
        self.encoder = SSLEncoder(config, layers)
        self.encoder.row_by_row = False  # the base has decided already which rows share a call
        self.quantizers = nn.ModuleList(
            KMeansQuantizer(torch.zeros(size, config.hidden_size), lookup=lookup) for size in spec.codebook_sizes
        )
        self.vocoder = None if vocoder is None else UnitVocoder.from_config(vocoder)
        if self.vocoder is not None and not set(layers) <= set(self.vocoder.layers):
            raise InputError(
                f"the vocoder decodes layers {list(self.vocoder.layers)}, the tokens are of {list(layers)}"
            )
        self.min_samples = config.min_samples
        self.decode_context = None if self.vocoder is None else self.vocoder.context_frames
        super().train(False)

    @classmethod
    def of(
        cls,
        spec: Spec,
        encoder: SSLEncoder,
        tables: Sequence[Tensor],
        vocoder: UnitVocoder | None = None,
        source: str = "",
        lookup: str = "euclidean",
    ) -> "SSLKMeans":
        """A tokenizer of parts that are there already.

        Args:
            spec: as for the class.
            encoder: network with its weights; its layers, sorted, are those of the tables.
            tables: centres [V, D] of each layer.
            vocoder: with its weights, or None.
            source: as for the class.
            lookup: as for the class.
        """
        layers = sorted(encoder.layers)
        back = None if vocoder is None else vocoder.to_config()
        tokenizer = cls(spec, encoder.config, layers, back, source, lookup=lookup)
        state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        if vocoder is not None:
            state |= {f"vocoder.{key}": value for key, value in vocoder.state_dict().items()}
        state |= {f"quantizers.{i}.layers.0.books.0.entries": table for i, table in enumerate(tables)}
        tokenizer.load_state_dict(state)
        tokenizer.requires_grad_(False)
        return tokenizer

    def with_vocoder(self, vocoder: UnitVocoder | str | os.PathLike[str]) -> "SSLKMeans":
        """A tokenizer of the same tokens that decodes them, sharing this one's weights.

        Args:
            vocoder: one that knows all these layers with these numbers of entries, or its folder (as published, or
                as `audiotok train vocoder` wrote it).

        Raises:
            InputError: it knows other layers or entries. CheckpointError: its folder is broken.
        """
        back = vocoder if isinstance(vocoder, UnitVocoder) else load_vocoder(vocoder)
        check_vocoder(back, dict(zip(self.layers, self.full_spec.codebook_sizes, strict=True)))
        spec = replace(self.full_spec, decodable=True)
        tokenizer = type(self).of(spec, self.encoder, self.codebooks, back, self.source, self.lookup)
        tokenizer.provenance = dict(self.provenance)
        return tokenizer.to(self.device)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer of each row of tokens."""
        return self.encoder.layers

    def _config(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.config.to_dict(),
            "layers": list(self.layers),
            "vocoder": None if self.vocoder is None else self.vocoder.to_config(),
            "source": self.source,
            "indexing": INDEXING,
            **({} if self.lookup == "euclidean" else {"lookup": self.lookup}),  # so that fingerprints stay
        }

    def num_frames(self, num_samples: int) -> int:
        return self.encoder.num_frames(num_samples)

    def use_layers(self, layers: Sequence[int]) -> "SSLKMeans":
        """Drops all other layers, and the blocks above the highest. Returns itself, a different tokenizer from now on.

        Raises:
            InputError: there is no codebook for one of them.
        """
        chosen = sorted(set(layers))
        missing = [layer for layer in chosen if layer not in self.layers]
        if missing or not chosen:
            raise InputError(f"{self.spec.name} has codebooks for layers {list(self.layers)}, not {list(layers)}")
        rows = [self.layers.index(layer) for layer in chosen]
        self.quantizers = nn.ModuleList(self.quantizers[row] for row in rows)
        self.encoder.layers = tuple(chosen)
        self.encoder.blocks = self.encoder.blocks[: chosen[-1]]
        sizes = tuple(self.full_spec.codebook_sizes[row] for row in rows)
        self.spec = self.full_spec = replace(self.full_spec, codebook_sizes=sizes)
        self._fingerprint = None
        return self

    @torch.no_grad()
    def near_ties(self, wav: Wav, sample_rate: int | None = None, lengths: Wav | None = None) -> dict[int, float]:
        """Layer -> share of frames whose two nearest centres are closer than the precision in use can tell (see
        `KMeansQuantizer.near_ties`): what float16 or bfloat16 may cost. Arguments and errors as `encode`.

        Raises:
            UnsupportedError: its lookup is by direction.
        """
        if self.lookup != "euclidean":
            raise UnsupportedError(f"near ties of {self.spec.name} are not known: its lookup is {self.lookup}")
        states, counts = self.features(wav, sample_rate, lengths)
        valid = torch.arange(states.shape[2], device=states.device) < counts[:, None]
        parts = torch.split(states, self.encoder.config.hidden_size, dim=1)
        roundoff = torch.finfo(self.dtype).eps / 2
        shares = {}
        for layer, quantizer, part in zip(self.layers, self.quantizers, parts, strict=True):
            assert isinstance(quantizer, KMeansQuantizer)
            shares[layer] = float(quantizer.near_ties(part, roundoff)[valid].float().mean())
        return shares

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # Windows shorter than three overlaps would see more overlap than audio.
        self.encoder.max_window_seconds = max(self.chunk_seconds, 3 * self.encoder.overlap_seconds)
        if len(wav) > 1:
            states = self.encoder(wav[:, 0], lengths)
            return torch.stack([self._search(layer, states[layer]) for layer in self.layers], dim=1), {}
        # One row: hidden states of a window at a time, so that an hour never holds them all.
        pieces = [
            torch.stack([self._search(layer, states[layer][None])[0] for layer in self.layers])
            for _, states in self.encoder.windows(wav[0, 0])
        ]
        return torch.cat(pieces, dim=1)[None], {}

    def _search(self, layer: int, states: Tensor) -> Tensor:
        """[B, F] tokens of hidden states [B, F, D]."""
        quantizer = self.quantizers[self.layers.index(layer)]
        assert isinstance(quantizer, KMeansQuantizer)
        return quantizer.encode(states.transpose(1, 2))[:, 0]

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """[B, K·D, F]: the layers one after another."""
        states = self.encoder(wav[:, 0], lengths)
        return torch.cat([states[layer] for layer in self.layers], dim=2).transpose(1, 2)

    def _embed(self, tokens: Tensor) -> Tensor:
        """[B, k·D, F]: the centres of all layers one after another."""
        tables = self.codebooks
        return torch.cat([tables[k][tokens[:, k]] for k in range(tokens.shape[1])], dim=2).transpose(1, 2)

    def _decode(self, tokens: Tensor, extras: dict[str, Tensor]) -> Tensor:
        if self.vocoder is None:
            raise UnsupportedError(f"{self.spec.name} has no vocoder: convert it again with vocoder=FOLDER")
        wav: Tensor = self.vocoder(tokens, layers=self.layers)
        return wav

    @property
    def codebooks(self) -> list[Tensor]:
        return [quantizer.codebooks[0] for quantizer in self.quantizers if isinstance(quantizer, KMeansQuantizer)]
