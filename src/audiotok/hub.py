"""`load`: a tokenizer by catalog name, from a local folder, or from a Hugging Face Hub repository."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .catalog import Entry
from .checkpoint import read_json, read_safetensors
from .errors import CheckpointError, HubError, InputError, UnknownTokenizerError, hub_client_errors
from .registry import describe, entry_loader, family_class
from .spec import Spec
from .tokenizer import FORMAT, Mode, Tokenizer

#: What `load()` gives: ships in the package, needs no network.
DEFAULT = "audiotok-base-16k"

_ASSETS = Path(__file__).parent / "assets"
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def load(
    name: str | os.PathLike[str] = DEFAULT,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    num_codebooks: int | None = None,
    bandwidth: float | None = None,
    layers: list[int] | None = None,
    mode: Mode = "both",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        name: a catalog name ("mimi"); a Hub repository "user/repo" or "user/repo@revision"; or a local
            folder: a Path, or a string that begins with ./ ../ / or ~.
        device: where to put it.
        dtype: of its weights; float16 and bfloat16 change some codes (`audiotok parity` says how many).
        num_codebooks: use only the first so many.
        bandwidth: in kilobits per second, instead of num_codebooks: as many codebooks as it holds.
        layers: of a tokenizer with one codebook per layer, those to use.
        mode: "encode" or "decode" drops the half of the network that the other needs.
        revision: branch, tag or commit of a Hub repository.
        cache_dir: of Hub downloads; None is the Hub client's own.

    Raises:
        UnknownTokenizerError: no such name. CheckpointError: the files are broken or of another kind.
        HubError: the repository cannot be reached. InputError: an argument that does not fit.

    Example:
        >>> tok = load()
        >>> tok.spec.num_codebooks, tok.spec.frame_rate
        (8, 50.0)
    """
    name, where = parse_name(name)
    if where == "catalog":
        entry = describe(name)
        tokenizer: Tokenizer = entry_loader(entry)(entry, revision, cache_dir)
    elif where == "hub":
        repository, _, at = name.partition("@")
        if at and revision and at != revision:
            raise InputError(f"two revisions: {at!r} in the name and {revision!r} in revision=")
        tokenizer = load_repository(repository, revision or at or None, cache_dir)
    else:
        tokenizer = load_folder(Path(name).expanduser())
    if layers is not None:
        tokenizer.use_layers(layers)
    if num_codebooks is not None and bandwidth is not None:
        raise InputError("give num_codebooks or bandwidth, not both")
    if num_codebooks is not None:
        tokenizer.use_codebooks(num_codebooks)
    if bandwidth is not None:
        tokenizer.use_bandwidth(bandwidth)
    tokenizer.use_mode(mode)
    return tokenizer.to(resolve_device(device), _dtype(dtype))


def parse_name(name: str | os.PathLike[str]) -> tuple[str, str]:
    """The name as a string, and where to look: "folder", "hub" or "catalog"."""
    if not isinstance(name, str):
        return os.fspath(name), "folder"
    if name.startswith(("./", "../", "/", "~")) or name in (".", ".."):
        return name, "folder"
    if _REPOSITORY.fullmatch(name):
        return name, "hub"
    if "/" in name:
        raise InputError(f"{name!r} is neither a Hub repository user/repo nor a path: a folder is written ./{name}")
    return name, "catalog"


def load_folder(folder: str | os.PathLike[str]) -> Tokenizer:
    """Reads a folder that `Tokenizer.save` wrote.

    Raises:
        UnknownTokenizerError: no such folder, or a family not known here. CheckpointError: broken files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UnknownTokenizerError(f"no such folder: {folder}")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: it is not a tokenizer saved by audiotok")
    config = read_config(folder / "config.json")
    try:
        family, spec = family_class(config["family"]), Spec.from_dict(config["spec"])
        with torch.device("meta"):  # a config that lies about its sizes must not cost memory
            shapes = {
                name: value.shape for name, value in family.from_config(spec, config["config"]).state_dict().items()
            }
        weights = _checked_weights(folder / "model.safetensors", shapes)
        tokenizer: Tokenizer = family.from_config(spec, config["config"])
        tokenizer.load_state_dict(weights)
        tokenizer.requires_grad_(False).use_codebooks(config["num_codebooks"])
    except (InputError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a tokenizer: {error}") from error
    if tokenizer.fingerprint != config["fingerprint"]:
        raise CheckpointError(
            f"{folder}: the weights are not the ones its config.json was saved with ({tokenizer.fingerprint}, not "
            f"{config['fingerprint']}): a save or a download broke off, or a file was exchanged"
        )
    tokenizer.provenance = config["provenance"]
    return tokenizer


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a saved folder, if it has everything that `load_folder` needs. Raises `CheckpointError`."""
    config = read_json(path)
    wanted: dict[str, type] = {
        **dict.fromkeys(("family", "fingerprint"), str),
        **dict.fromkeys(("spec", "config", "provenance"), dict),
        "num_codebooks": int,
    }
    if "audiotok_format" not in config:
        raise CheckpointError(
            f"{path} was not written by audiotok; `audiotok convert` reads other projects' checkpoints"
        )
    if config["audiotok_format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {config['audiotok_format']}, this audiotok reads {FORMAT}: upgrade audiotok"
        )
    for key, kind in wanted.items():
        if not isinstance(config.get(key), kind):
            raise CheckpointError(f"{path}: {key!r} must be a {kind.__name__}, not {json.dumps(config.get(key))}")
    return config


def _checked_weights(path: Path, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The file's tensors, if every name and shape is as the config has it."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    weights = read_safetensors(path)
    missing, unknown = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or unknown:
        raise CheckpointError(f"{path} does not fit its config: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise CheckpointError(f"{path}: {name} is {list(weights[name].shape)}, its config says {list(shape)}")
    return weights


def load_embedded(entry: Entry, revision: str | None, cache_dir: object) -> Tokenizer:  # noqa: ARG001
    """Loads a tokenizer that ships in the package; nothing is downloaded, so there is no revision to choose."""
    if revision is not None:
        raise InputError(f"{entry.name} ships in the package and has no revision {revision!r}")
    return load_folder(_ASSETS / entry.name)


def load_repository(
    repository: str, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Tokenizer:
    """Downloads (once) and reads a tokenizer that `push_to_hub` put on the Hub.

    Raises:
        HubError: no such repository, revision or file, no network, or a download that broke off.
        CheckpointError: it is there, but it is not a tokenizer saved by audiotok, or it is broken.
    """
    config = download(repository, "config.json", revision, cache_dir)
    read_config(config)  # before the large file is fetched
    download(repository, "model.safetensors", revision, cache_dir)
    tokenizer = load_folder(config.parent)
    tokenizer.spec = replace(tokenizer.spec, name=repository)
    tokenizer.full_spec = replace(tokenizer.full_spec, name=repository)
    return tokenizer


def download(
    repository: str, file: str, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Local path of a file of a Hub repository, downloaded unless it is in the cache. `HF_HUB_OFFLINE=1` and
    `HF_ENDPOINT` are honoured.

    Raises:
        HubError: with the reason and the way out.
    """
    import huggingface_hub
    from huggingface_hub import errors

    cache = None if cache_dir is None else os.fspath(cache_dir)
    at = f"{repository}@{revision}" if revision else repository
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision, cache_dir=cache))
    except errors.GatedRepoError as error:
        raise HubError(f"{at} is gated: accept its terms on its page, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"no repository {repository} on the Hub, or it is private: log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:  # also an EntryNotFoundError, so it comes first
        raise HubError(f"{at} is not in the cache, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)") from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{at} has no file {file}: it does not hold the tokenizer that was looked for") from error
    except hub_client_errors() as error:
        raise HubError(f"cannot download {file} of {at}: {error}") from error


def download_encoder(
    repository: str, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Folder with a network as the transformers library stores it: config.json, preprocessor_config.json, and
    model.safetensors or, where the repository has none, pytorch_model.bin. "user/repo@revision" is understood.

    Raises:
        HubError: as `download`.
    """
    repository, _, at = repository.partition("@")
    folder = download(repository, "config.json", revision or at or None, cache_dir).parent
    download(repository, "preprocessor_config.json", revision or at or None, cache_dir)
    try:
        download(repository, "model.safetensors", revision or at or None, cache_dir)
    except HubError:
        download(repository, "pytorch_model.bin", revision or at or None, cache_dir)
    return folder


def resolve_device(device: str | torch.device) -> torch.device:
    """The device, if it can be used on this machine. Raises `InputError` if not."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {error}") from error
    return found


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return _DTYPES[str(dtype)]
