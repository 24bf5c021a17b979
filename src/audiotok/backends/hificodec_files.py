"""Checkpoints of HiFi-Codec and TiCodec: one torch file without a suffix, and a `config*.json` beside it.

All sizes come from the shapes of the weights. The configuration is asked only for what shapes cannot tell (factors,
dilations, sample rate), and must agree with the shapes in everything else that it says of the network.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_json, read_torch
from ..errors import CheckpointError, InputError
from .hificodec_network import NetworkSizes, check_size
from .weights import folded, number

#: Factors that go with the kernels of all published checkpoints, and the dilations of all their residual blocks.
_PUBLISHED_FACTORS: dict[tuple[int, ...], list[int]] = {(16, 11, 8, 4): [8, 5, 4, 2], (16, 11, 7, 4): [8, 5, 3, 2]}
_PUBLISHED_DILATIONS = [1, 3, 5]
_MAX_RATE = 2**20

_RENAMED = (
    (r"encoder\.ups\.", "encoder.downs."),
    (r"encoder\.normalize\.", "encoder.norms."),
    (r"encoder\.GlobalTokenEncoder\.conv\.0\.", "global_encoder.convs.0."),
    (r"encoder\.GlobalTokenEncoder\.conv\.2\.", "global_encoder.convs.1."),
    (r"encoder\.GlobalTokenEncoder\.conv\.4\.", "global_encoder.convs.2."),
    (r"encoder\.GlobalTokenEncoder\.fn\.0\.", "global_encoder.linear."),
    (r"encoder\.GlobalTokenEncoder\.fn\.2\.", "global_encoder.norm."),
    (r"quantizer\.quantizer_modules_globaltokens\.(\d+)\.embedding\.weight", r"global_quantizer.books.\1.entries"),
)
_STAGE = re.compile(r"quantizer\.quantizer_modules(\d?)\.(\d+)\.embedding\.weight", re.ASCII)


@dataclass(frozen=True)
class Published:
    """A checkpoint as read.

    Attributes:
        path: of the torch file.
        state: its weights by the names of our modules, weight norm folded.
        config: what the JSON file says, empty where there is none.
    """

    path: Path
    state: dict[str, Tensor]
    config: Mapping[str, Any]

    def shape(self, name: str, rank: int) -> torch.Size:
        """Of a weight. Raises `CheckpointError` when it is missing or has another number of axes."""
        if name not in self.state or self.state[name].dim() != rank:
            found = list(self.state[name].shape) if name in self.state else "missing"
            raise CheckpointError(f"{self.path}: {name} is {found}, wanted a weight of {rank} axes")
        return self.state[name].shape

    def count(self, pattern: str) -> int:
        """How many names there are of a pattern, its {} counted from 0 without a gap."""
        number = 0
        while pattern.format(number) in self.state:
            number += 1
        return number

    def check(self, key: str, value: object) -> None:
        """Raises `CheckpointError` if the configuration says something else."""
        if key in self.config and self.config[key] != value:
            found = str(self.config[key])[:80]
            raise CheckpointError(f"{self.path}: {key} of its configuration is {found}, its weights say {value}")


def read_published(source: Path, config: str | os.PathLike[str] | None = None) -> Published:
    """Reads a checkpoint. Nothing in it is run.

    Args:
        source: the torch file, or a folder with one file without a suffix and at most one config*.json.
        config: the JSON file; None looks for it in the folder, or does without if `source` is a file.

    Raises:
        CheckpointError: a file that is missing, broken, hostile or of another kind, or a folder with several.
    """
    path = source
    if source.is_dir():
        path = _only(
            [p for p in source.iterdir() if p.is_file() and not p.suffix and not p.name.startswith(".")], source
        )
        beside = list(source.glob("config*.json"))
        if config is None and beside:
            config = _only(beside, source)
    saved = read_torch(path)
    state: dict[str, Tensor] = {}
    for part in ("generator", "encoder", "quantizer"):
        weights = saved.get(part) if isinstance(saved, dict) else None
        if not isinstance(weights, dict):
            raise CheckpointError(f"{path}: wanted a state dict named {part!r}, found {type(weights).__name__}")
        state |= {f"{part}.{name}": value for name, value in folded(weights, path).items()}
    return Published(path, _renamed(state), {} if config is None else read_json(config))


def network_sizes(published: Published) -> NetworkSizes:
    """The sizes of the network.

    Raises:
        CheckpointError: weights that make no such network, or a configuration that does not fit them; or there is
            none, and the kernels are not those of a published checkpoint, whose factors are known.
    """
    state, config = published.state, published.config
    kernels = [
        published.shape(f"generator.ups.{i}.weight", 3)[2] for i in range(published.count("generator.ups.{}.weight"))
    ]
    branch = "convs1" if any(".convs1." in name for name in state) else "convs"
    blocks = published.count(f"generator.resblocks.{{}}.{branch}.0.weight")
    if not kernels or not blocks or blocks % len(kernels):
        raise CheckpointError(f"{published.path}: {blocks} residual blocks for {len(kernels)} up-sampling stages")
    stage = range(blocks // len(kernels))
    resblock_kernels = [published.shape(f"generator.resblocks.{i}.{branch}.0.weight", 3)[2] for i in stage]
    depths = [published.count(f"generator.resblocks.{i}.{branch}.{{}}.weight") for i in stage]
    initial_channels = published.shape("generator.conv_pre.weight", 3)[0]
    published.check("upsample_kernel_sizes", kernels)
    published.check("upsample_initial_channel", initial_channels)
    published.check("resblock_kernel_sizes", resblock_kernels)
    factors = config.get("upsample_rates", _PUBLISHED_FACTORS.get(tuple(kernels)))
    dilations = config.get("resblock_dilation_sizes", [_PUBLISHED_DILATIONS for _ in stage])
    if factors is None:
        raise CheckpointError(
            f"{published.path}: shapes cannot tell the upsample_rates, and kernels {kernels} are not those of a "
            f"published checkpoint: give config=, the config*.json that belongs to it"
        )
    if not isinstance(dilations, list) or len(dilations) != len(depths):
        raise CheckpointError(f"{published.path}: resblock_dilation_sizes must be {len(depths)} lists")
    try:
        return NetworkSizes(
            base_channels=published.shape("encoder.conv_pre.weight", 3)[0],
            latent_dim=published.shape("encoder.conv_post.weight", 3)[0],
            initial_channels=initial_channels,
            upsample_factors=factors,
            upsample_kernels=tuple(kernels),
            resblock_kernels=tuple(resblock_kernels),
            resblock_dilations=tuple(_first(item, depth) for item, depth in zip(dilations, depths, strict=True)),
            resblock_type=1 if branch == "convs1" else 2,
        )
    except InputError as error:
        raise CheckpointError(f"{published.path}: {error}") from error


def sample_rate_of(published: Published, given: int | None) -> int:
    """The sample rate, which only the configuration or the caller knows.

    Raises:
        InputError: neither says it, or they contradict each other. CheckpointError: the configuration says nonsense.
    """
    said = published.config.get("sampling_rate")
    if said is not None:
        number(said, "sampling_rate", published.path, high=_MAX_RATE)
    if given is not None:
        check_size("sample_rate", given, _MAX_RATE)
    rate: int | None = given if said is None else said
    if rate is None:
        raise InputError(f"{published.path} does not say its sample rate: give config= (its JSON) or sample_rate=")
    if given is not None and given != rate:
        raise InputError(f"sample_rate={given}, but the configuration of {published.path} says {rate}")
    return rate


def codebooks_of(published: Published) -> tuple[int, int, int]:
    """Groups, residual stages and entries of the quantizer. Raises `CheckpointError` for one that is not there, or
    is not what the configuration says."""
    groups = published.count("quantizer.groups.{}.layers.0.books.0.entries")
    stages = published.count("quantizer.groups.0.layers.{}.books.0.entries")
    size = published.shape("quantizer.groups.0.layers.0.books.0.entries", 2)[0]
    if size < 1:
        raise CheckpointError(f"{published.path}: its codebooks are empty")
    published.check("n_code_groups", groups)
    published.check("residul_layer", stages)  # upstream's spelling
    published.check("n_codes", size)
    return groups, stages, size


def _only(paths: list[Path], folder: Path) -> Path:
    if len(paths) != 1:
        names = ", ".join(sorted(path.name for path in paths)[:10]) or "none"
        raise CheckpointError(
            f"{folder}: wanted one checkpoint (a file without a suffix) and at most one config*.json, found {names}: "
            "give the file itself, and config="
        )
    return paths[0]


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of our modules; a name that we do not know stays what it is, and is refused later."""
    renamed = {}
    for name, value in _with_global_books(state).items():
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name, count=1)
        stage = _STAGE.fullmatch(name)
        if stage:
            name = f"quantizer.groups.{stage[2]}.layers.{int(stage[1] or 1) - 1}.books.0.entries"
        renamed[name] = value
    return renamed


def _with_global_books(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Early TiCodec checkpoints call their global books quantizer_modules3, which elsewhere is the third residual
    stage: that one is as wide as the first stage."""
    first, third = state.get("quantizer.quantizer_modules.0.embedding.weight"), "quantizer.quantizer_modules3."
    sample = state.get(third + "0.embedding.weight")
    if first is None or sample is None or sample.shape[-1:] == first.shape[-1:]:
        return state
    return {name.replace(third, "quantizer.quantizer_modules_globaltokens."): value for name, value in state.items()}


def _first(values: object, count: int) -> tuple[int, ...]:
    """The first so many dilations: upstream's blocks look no further."""
    if not isinstance(values, list) or len(values) < count:
        raise InputError(f"a residual block needs {count} dilations, not {str(values)[:80]}")
    return tuple(values[:count])
