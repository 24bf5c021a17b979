"""The file that says which codec is trained, and how."""

import os
from collections.abc import Mapping
from typing import Any

from ..checkpoint import read_yaml
from ..codec.config import CodecConfig, check_keys
from ..errors import InputError
from .codec_training import CodecTraining


def read_config(path: str | os.PathLike[str]) -> tuple[CodecConfig, CodecTraining]:
    """The codec and its training of a YAML file with two groups of keys, `codec` and `training`.

    Raises:
        CheckpointError: the file cannot be read as plain YAML. InputError: an unknown key, or a value out of range.
    """
    return parse_config(read_yaml(path), path)


def parse_config(values: Mapping[str, Any], name: str | os.PathLike[str]) -> tuple[CodecConfig, CodecTraining]:
    """The codec and its training of plain values, as `read_config`.

    Args:
        values: `codec` and `training`, each with what is not to keep its default.
        name: of where they are from, for messages.

    Raises:
        InputError: an unknown key, or a value out of range.

    Example:
        >>> config, training = parse_config({"codec": {"preset": "small"}, "training": {"steps": 500}}, "mine")
        >>> config.network.width, training.steps
        (192, 500)
    """
    check_keys(str(name), values, ["codec", "training"])
    parts = [values.get(part) or {} for part in ("codec", "training")]
    for part, found in zip(("codec", "training"), parts, strict=True):
        if not isinstance(found, Mapping):
            raise InputError(f"{name}: {part} is a group of keys, not {found!r}")
    return CodecConfig.from_dict(parts[0]), CodecTraining.from_dict(parts[1])
