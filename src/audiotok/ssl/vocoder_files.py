"""Unit vocoders on disk: our own folders, and SpeechBrain's `generator.ckpt` with `hyperparams.yaml`."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_json, read_safetensors, read_torch, write_json, write_safetensors
from ..errors import CheckpointError, InputError
from ..nn.weight_norm import fold_weight_norm
from .vocoder import UnitVocoder
from .vocoder_config import VocoderConfig

FORMAT = 1
KIND = "unit-vocoder"
_MAX_YAML_BYTES = 1024**2

#: What the shapes of the weights cannot tell, with the values of the published vocoders.
_PUBLISHED = {
    "sample_rate": 16000,
    "normalize_speaker_embeddings": False,
    "upsample_factors": [5, 4, 4, 2, 2],  # with kernels 11, 8, 8, 4, 4
    "resblock_dilation_sizes": [1, 3, 5],  # for every kernel; "resblock 2" has the first two
}
_PUBLISHED_KERNELS = [11, 8, 8, 4, 4]

_RENAMED = (
    (r"unit_embedding\.weight", "embedding.weight"),
    (r"attn_pooling\.0\.(weight|bias)", r"pooling.hidden.\1"),
    (r"attn_pooling\.2\.weight", "pooling.score.weight"),
    (r"var_predictor\.(conv[12])\.0\.conv\.(weight|bias)", r"duration.\1.\2"),
    (r"var_predictor\.proj\.(weight|bias)", r"duration.proj.\1"),
    (r"(conv_pre|conv_post|ups\.\d+|resblocks\.\d+\.convs[12]?\.\d+)\.conv\.(weight|bias)", r"generator.\1.\2"),
)


def load_vocoder(folder: str | os.PathLike[str], *, layers: Sequence[int] | None = None) -> UnitVocoder:
    """A vocoder from a folder: one of ours (`save_vocoder`), or one in SpeechBrain's layout.

    Of the latter, `generator.ckpt` is read without running its pickle and all sizes come from the shapes of its
    weights. `hyperparams.yaml` is never parsed as YAML, because its tags ask for code to be run: the four facts that
    shapes cannot tell (sample_rate, upsample_factors, resblock_dilation_sizes, normalize_speaker_embeddings) are
    looked up as lines "key: number, list or true/false"; without the file they are those of the published vocoders.

    Args:
        folder: as published; the Hub's files in one place.
        layers: numbers of its layers, in the order of its embedding. None reads them off the names of the k-means
            files that lie beside it (`kmeans/*_k1000_L7.pt`). A folder of ours knows its own.

    Returns:
        The vocoder, in evaluation mode, its weights asking for no gradient.

    Raises:
        CheckpointError: files that are missing, broken, hostile, or of another network.
        InputError: the layers are not given and not to be found, or do not fit its vocabulary.
    """
    folder = Path(folder)
    if (folder / "config.json").exists() and not (folder / "generator.ckpt").exists():
        return _load_ours(folder, layers)
    state = renamed_state(read_torch(folder / "generator.ckpt"), folder / "generator.ckpt")
    sizes = [size for _, size in _kmeans_files(folder)]
    found = [layer for layer, _ in _kmeans_files(folder)]
    if layers is None:
        if not found:
            raise InputError(f"{folder} does not say which layers its vocoder decodes: give layers=(1, 3, 7, ...)")
        layers = found
    yaml = folder / "hyperparams.yaml"
    config = config_of_shapes(state, layers, plain_facts(yaml) if yaml.exists() else {}, source=folder)
    if found == list(layers) and sizes != list(config.codebook_sizes):
        raise CheckpointError(
            f"{folder}: the k-means files beside the vocoder have {sizes} clusters, its embedding has room for "
            f"{list(config.codebook_sizes)}: it cannot decode them"
        )
    return _filled(config, state, folder)


def check_vocoder(vocoder: UnitVocoder, wanted: Mapping[int, int]) -> None:
    """Raises `InputError` unless the vocoder decodes these layers (layer -> entries)."""
    room = dict(zip(vocoder.layers, vocoder.config.codebook_sizes, strict=True))
    for layer, size in wanted.items():
        if room.get(layer) != size:
            raise InputError(
                f"the vocoder decodes {room.get(layer, 0)} entries of layer {layer}, the k-means has {size}: "
                f"it knows {room} (layer: entries)"
            )


def save_vocoder(
    vocoder: UnitVocoder, folder: str | os.PathLike[str], *, provenance: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json and model.safetensors, which `load_vocoder` reads.

    Args:
        vocoder: weight norm, if it has any, is folded into plain weights.
        folder: made if need be; files of those names are replaced.
        provenance: facts about where it comes from, plain JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", fold_weight_norm(vocoder.state_dict()))
    facts = {"audiotok_format": FORMAT, "kind": KIND, "config": vocoder.to_config(), "provenance": provenance or {}}
    write_json(folder / "config.json", facts)


def _load_ours(folder: Path, layers: Sequence[int] | None) -> UnitVocoder:
    path = folder / "config.json"
    facts = read_json(path)
    if facts.get("kind") != KIND or not isinstance(facts.get("config"), dict):
        raise CheckpointError(f'{path}: wanted a "{KIND}", found {str(facts.get("kind"))[:80]!r}')
    if facts.get("audiotok_format") != FORMAT:
        raise CheckpointError(f"{path}: written in another format, by a newer audiotok: update it")
    try:
        config = VocoderConfig.from_dict(facts["config"])
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if layers is not None and tuple(layers) != config.layers:
        raise InputError(f"{folder} decodes the layers {config.layers}, not {tuple(layers)}")
    return _filled(config, read_safetensors(folder / "model.safetensors"), folder)


def _filled(config: VocoderConfig, state: Mapping[str, Tensor], source: Path) -> UnitVocoder:
    """The network with these weights, after every name and shape was compared on the meta device."""
    try:
        with torch.device("meta"):
            vocoder = UnitVocoder(config)
    except InputError as error:
        raise CheckpointError(f"{source}: {error}") from error
    wanted = {name: list(value.shape) for name, value in vocoder.state_dict().items()}
    found = {name: list(value.shape) for name, value in state.items()}
    if wanted != found:
        name = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))[0]
        raise CheckpointError(
            f"{source}: not the weights of the vocoder it describes: {name} is {found.get(name, 'missing')}, "
            f"wanted {wanted.get(name, 'none')}"
        )
    strange = sorted(name for name, value in state.items() if not value.is_floating_point())
    if strange:
        raise CheckpointError(f"{source}: {strange[0]} is {state[strange[0]].dtype}, not a float")
    vocoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return vocoder.eval().requires_grad_(False)


def renamed_state(state: object, source: Path) -> dict[str, Tensor]:
    """Plain weights under our names from a state dict of SpeechBrain's generator, in either spelling of weight norm.

    Raises:
        CheckpointError: it is no state dict, or holds weights that this network does not have.
    """
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{source}: wanted named tensors of a unit HiFi-GAN, found a {type(state).__name__}")
    renamed = {}
    for name, value in fold_weight_norm(state).items():
        targets = [re.sub(pattern, ours, name) for pattern, ours in _RENAMED if re.fullmatch(pattern, name, re.ASCII)]
        if not targets:
            raise CheckpointError(
                f"{source}: {name[:200]!r} is no weight of a unit HiFi-GAN with attention over layers"
            )
        renamed[targets[0]] = value
    return renamed


def config_of_shapes(
    state: Mapping[str, Tensor], layers: Sequence[int], facts: Mapping[str, Any], *, source: Path
) -> VocoderConfig:
    """The sizes of a network from the shapes of its weights, and from `facts` what shapes cannot tell.

    Raises:
        CheckpointError: weights that make no such network, or facts that are missing or do not fit.
        InputError: layers that do not divide its vocabulary.
    """

    def shape(name: str, rank: int) -> torch.Size:
        if name not in state or state[name].dim() != rank:
            found = list(state[name].shape) if name in state else "missing"
            raise CheckpointError(f"{source}: {name} is {found}, wanted {rank} axes: not a unit HiFi-GAN?")
        return state[name].shape

    rows, dim = shape("embedding.weight", 2)
    if not layers or rows < 2 or (rows - 1) % len(layers):
        raise InputError(f"{source}: {rows - 1} embedded units cannot be those of {len(layers)} layers: {list(layers)}")
    first = shape("generator.conv_pre.weight", 3)
    stages = sum(re.fullmatch(r"generator\.ups\.\d+\.weight", name) is not None for name in state)
    up_kernels = [shape(f"generator.ups.{stage}.weight", 3)[2] for stage in range(stages)]
    paired = any(".convs1." in name for name in state)
    branch = "convs1" if paired else "convs"
    blocks = re.compile(rf"generator\.resblocks\.(\d+)\.{branch}\.\d+\.weight", re.ASCII)
    found = Counter(int(match[1]) for name in state if (match := blocks.fullmatch(name)))
    counts = [found[i] for i in range(len(found))]
    if not stages or not counts or len(counts) % stages:
        raise CheckpointError(f"{source}: {len(counts)} residual blocks for {stages} up-sampling stages")
    per_stage = len(counts) // stages
    kernels = [shape(f"generator.resblocks.{i}.{branch}.0.weight", 3)[2] for i in range(per_stage)]
    if "upsample_factors" not in facts and up_kernels != _PUBLISHED_KERNELS:
        raise CheckpointError(
            f"{source}: hyperparams.yaml does not say the upsample_factors, and kernels {up_kernels} are not the "
            f"published ones {_PUBLISHED_KERNELS}"
        )
    common = _PUBLISHED["resblock_dilation_sizes"]
    assert isinstance(common, list)
    dilations = facts.get("resblock_dilation_sizes", [common[: counts[i]] for i in range(per_stage)])
    if (
        not isinstance(dilations, list)
        or [len(item) if isinstance(item, list) else 0 for item in dilations] != counts[:per_stage]
    ):
        raise CheckpointError(
            f"{source}: resblock_dilation_sizes {str(dilations)[:200]} do not fit its residual blocks"
        )
    duration = "duration.conv1.weight" in state
    try:
        return VocoderConfig(
            layers=tuple(layers),
            codebook_sizes=((rows - 1) // len(layers),) * len(layers),
            sample_rate=facts.get("sample_rate", _PUBLISHED["sample_rate"]),
            embedding_dim=dim,
            attention_dim=shape("pooling.hidden.weight", 2)[0],
            speaker_dim=first[1] - dim,
            normalize_speaker=facts.get("normalize_speaker_embeddings", False),
            duration_dim=shape("duration.conv1.weight", 3)[0] if duration else 0,
            duration_kernel=shape("duration.conv1.weight", 3)[2] if duration else 3,
            initial_channels=first[0],
            upsample_factors=facts.get("upsample_factors", _PUBLISHED["upsample_factors"]),
            upsample_kernels=tuple(up_kernels),
            resblock_kernels=tuple(kernels),
            resblock_dilations=tuple(tuple(item) for item in dilations),
            resblock_type=1 if paired else 2,
            first_kernel=first[2],
            last_kernel=shape("generator.conv_post.weight", 3)[2],
            last_bias="generator.conv_post.bias" in state,
        )
    except InputError as error:
        raise CheckpointError(f"{source}: {error}") from error


def plain_facts(path: Path) -> dict[str, Any]:
    """The few facts wanted from a HyperPyYAML file, read line by line and not as YAML: a line counts only when it is
    "key: value" at its very beginning and the value is a number, true or false, or a list of numbers written out in
    that line. Tags, references, anchors and everything else in the file are never looked at.

    Raises:
        CheckpointError: the file is too large, or a fact that is wanted is there twice or is not plain.
    """
    if path.stat().st_size > _MAX_YAML_BYTES:
        raise CheckpointError(f"{path}: more than {_MAX_YAML_BYTES} bytes: not the hyperparams.yaml of a vocoder")
    facts: dict[str, Any] = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        key, colon, rest = line.partition(":")
        if not colon or key not in _PUBLISHED:
            continue
        text = re.sub(r"(^|\s)#.*", "", rest).strip()
        if key in facts:
            raise CheckpointError(f"{path}: {key} is there twice, again on line {number}")
        if re.fullmatch(r"[Tt]rue|[Ff]alse", text):
            facts[key] = text.lower() == "true"
        elif re.fullmatch(r"\d{1,9}|\[[\d\[\], ]{1,1000}\]", text, re.ASCII):
            try:
                facts[key] = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"{path}, line {number}: {key} is no list of numbers: {text[:80]}") from error
        else:
            raise CheckpointError(
                f"{path}, line {number}: wanted {key} as a plain number, true/false or list of numbers, found "
                f"{text[:80]!r}. Tags can run code and are never followed: write the value out"
            )
    return facts


def _kmeans_files(folder: Path) -> list[tuple[int, int]]:
    """(layer, clusters) of the k-means files in SpeechBrain's layout, ascending."""
    names = [path.name for path in (folder / "kmeans").glob("*.pt")] if (folder / "kmeans").is_dir() else []
    matches = [re.search(r"_k(\d{1,9})_L(\d{1,4})\.pt$", name, re.ASCII) for name in names]
    return sorted((int(match[2]), int(match[1])) for match in matches if match)
