"""Checkpoints of Mimi as published: of the moshi package and of transformers."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..checkpoint import read_safetensors
from ..errors import CheckpointError, InputError
from ..nn.seanet import plain_names, seanet_names
from ..nn.weight_norm import fold_weight_norm
from .mimi_config import Described, MimiConfig, read_config
from .mimi_network import MimiDecoder, MimiEncoder
from .weights import Weights, one_file

_LEAST_USE = 1e-5  # of a codebook's entry, in upstream's average

#: Names in moshi, beside those that `plain_names` knows -> in transformers.
_MOSHI_SPELLINGS = (
    ("downsample.conv.conv.conv.", "downsample.conv."),
    ("upsample.convtr.convtr.convtr.", "upsample.conv."),
    ("_transformer.transformer.", "_transformer."),
    (".norm1.", ".input_layernorm."),
    (".self_attn.out_proj.", ".self_attn.o_proj."),
    (".layer_scale_1.", ".self_attn_layer_scale."),
    (".norm2.", ".post_attention_layernorm."),
    (".linear1.", ".mlp.fc1."),
    (".linear2.", ".mlp.fc2."),
    (".layer_scale_2.", ".mlp_layer_scale."),
    ("quantizer.rvq_first.", "quantizer.semantic_residual_vector_quantizer."),
    ("quantizer.rvq_rest.", "quantizer.acoustic_residual_vector_quantizer."),
    ("_quantizer.vq.", "_quantizer."),
    ("._codebook._initialized", "._codebook.initialized"),
    (".embedding_sum", ".embed_sum"),
)

#: Modules of a transformer's block here -> in transformers.
_BLOCK_NAMES = {
    "norm1": "input_layernorm",
    "out": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
_SCALE_NAMES = {"scale1": "self_attn_layer_scale.scale", "scale2": "mlp_layer_scale.scale"}


@dataclass(frozen=True)
class Published:
    """What a checkpoint says."""

    path: Path
    moshi: bool
    tensors: dict[str, Tensor]
    described: Described

    @property
    def config(self) -> MimiConfig:
        """Sizes of the network."""
        return self.described.network

    def state(self) -> dict[str, Tensor]:
        """Its weights by their names here.

        Raises:
            CheckpointError: some are missing or left over, or of another shape.
        """
        weights = Weights(fold_weight_norm(plain_names(self._respelled())), self.path)
        try:
            with torch.device("meta"):
                encoder, decoder = MimiEncoder(self.config), MimiDecoder(self.config)
        except InputError as error:
            raise CheckpointError(f"{self.path} describes no network that can be built: {error}") from error
        state = self._transformer(weights, "encoder") | self._transformer(weights, "decoder")
        state |= weights.fill(encoder, self._names("encoder", {"down": "downsample.conv"}), "encoder.")
        state |= weights.fill(decoder, self._names("decoder", {"up": "upsample.conv"}), "decoder.")
        state |= self._quantizer(weights, "semantic", self.config.semantic)
        state |= self._quantizer(weights, "acoustic", self.described.codebooks - self.config.semantic)
        weights.finish()
        return state

    def _respelled(self) -> dict[str, Tensor]:
        """Its tensors, those of moshi by names nearer to those of transformers."""
        if not self.moshi:
            return self.tensors
        found = {}
        for name, value in self.tensors.items():
            for theirs, ours in _MOSHI_SPELLINGS:
                name = name.replace(theirs, ours)
            found[name] = value
        return found

    def _names(self, side: str, resampling: dict[str, str]) -> dict[str, str]:
        """Modules of the encoder or the decoder that are the same here and there."""
        convolutions = seanet_names(self.config.seanet, decoder=side == "decoder")
        names = {f"seanet.{ours}": theirs for ours, theirs in convolutions.items()} | resampling
        for layer in range(self.config.layers):
            for ours, theirs in _BLOCK_NAMES.items():
                names[f"transformer.blocks.{layer}.{ours}"] = f"{side}_transformer.layers.{layer}.{theirs}"
        return names

    def _transformer(self, weights: Weights, side: str) -> dict[str, Tensor]:
        """What is not in a module of the same kind here."""
        found: dict[str, Tensor] = {}
        for layer in range(self.config.layers):
            ours, theirs = f"{side}.transformer.blocks.{layer}", f"{side}_transformer.layers.{layer}"
            found |= {f"{ours}.{scale}": weights.take(f"{theirs}.{name}") for scale, name in _SCALE_NAMES.items()}
            found[f"{ours}.qkv.weight"] = self._attention_input(weights, f"{theirs}.self_attn")
        return found

    def _attention_input(self, weights: Weights, root: str) -> Tensor:
        """Rows of queries, keys and values. In moshi a rotation turns neighbours of a head together, in transformers
        and here a channel of its first half and one of its second: rows are put in that order."""
        dim = self.config.seanet.dimension
        if not self.moshi:
            return torch.cat([self._matrix(weights, f"{root}.{part}_proj.weight", dim, dim) for part in "qkv"])
        q, k, v = self._matrix(weights, f"{root}.in_proj_weight", 3 * dim, dim).chunk(3)
        q, k = (rearrange(one, "(h pair two) d -> (h two pair) d", h=self.config.heads, two=2) for one in (q, k))
        return torch.cat([q, k, v])

    def _quantizer(self, weights: Weights, part: str, count: int) -> dict[str, Tensor]:
        ours, theirs = f"quantizer.{part}", f"quantizer.{part}_residual_vector_quantizer"
        dim, inner, size = self.config.seanet.dimension, self.config.codebook_dim, self.described.codebook_size
        found = {
            f"{ours}.project_in.weight": self._matrix(weights, f"{theirs}.input_proj.weight", inner, dim),
            f"{ours}.project_out.weight": self._matrix(weights, f"{theirs}.output_proj.weight", dim, inner),
        }
        for stage in range(count):
            book = f"{theirs}.layers.{stage}.codebook"
            total = self._matrix(weights, f"{book}.embed_sum", size, inner)
            uses = self._matrix(weights, f"{book}.cluster_usage", size, 1)
            found[f"{ours}.rvq.layers.{stage}.books.0.entries"] = total / uses.clamp(min=_LEAST_USE)
            weights.ignore(f"{book}.initialized")
        return found

    def _matrix(self, weights: Weights, name: str, rows: int, columns: int) -> Tensor:
        """A tensor of so many numbers, whatever axes of one it has."""
        value = weights.take(name)
        if value.shape[:1] != (rows,) or value.numel() != rows * columns or not value.is_floating_point():
            raise CheckpointError(
                f"{self.path}: {name} is {list(value.shape)} {value.dtype}, wanted {[rows, columns]} numbers"
            )
        return value.reshape(rows, columns).float()


def read_published(source: Path, config: str | os.PathLike[str] | None) -> Published:
    """The checkpoint that a folder or file is."""
    path = one_file(source, ("tokenizer-*.safetensors", "model.safetensors", "*.safetensors"), "weights")
    tensors = read_safetensors(path)
    moshi = any(name.startswith("quantizer.rvq_first.") for name in tensors)
    if config is not None:
        file: Path | None = Path(config)
    elif moshi:  # published without one: the package knows the sizes
        file = next(iter(sorted(path.parent.glob("*mimi_config*.json"))), None)
    else:
        file = path.parent / "config.json"
    return Published(path, moshi, tensors, read_config(file, moshi=moshi))
