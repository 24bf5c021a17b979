"""JSON and YAML as data: objects, lists, texts, numbers. Nothing is built, referred to or run."""

import json
import warnings
from typing import Any

import yaml

from audiotok.checkpoint.base import Source, fault, read_bytes, written
from audiotok.errors import CheckpointError

MAX_JSON_BYTES = 16 * 1024**2
MAX_YAML_BYTES = 1024**2
# A file within the size limit has fewer nodes than this; only aliases to aliases can exceed it.
MAX_YAML_NODES = MAX_YAML_BYTES

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def read_json(path: Source) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: a file of at most 16 MiB, UTF-8.

    Returns:
        The object as a dict.

    Raises:
        CheckpointError: the file is missing, too large, not JSON, or its top level is not an object.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(pathlib.Path(folder, "config.json"), {"sample_rate": 16000})
        ...     read_json(pathlib.Path(folder, "config.json"))
        {'sample_rate': 16000}
    """
    wanted = "a JSON object"
    data = read_bytes(path, wanted=wanted, max_bytes=MAX_JSON_BYTES)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, encoding, an endless number
        found = f"something else: {error}"
        raise fault(path, wanted=wanted, found=found, advice="download or save it again") from error
    if not isinstance(value, dict):
        found = f"a JSON {type(value).__name__}"
        raise fault(path, wanted=wanted, found=found, advice="make sure it is the right file")
    return value


def write_json(path: Source, value: dict[str, Any]) -> None:
    """Write an object to a JSON file, all of it or nothing.

    Args:
        path: the file; one that exists is replaced at once, never half.
        value: an object of texts, finite numbers, booleans, None, lists and dicts. Keys are sorted, so that
            the same value always gives the same bytes.

    Raises:
        CheckpointError: the value is not an object, or cannot be written as JSON.
        CheckpointWriteError: the file cannot be written, for example because the disk is full.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(pathlib.Path(folder, "config.json"), {"b": [1, 2], "a": None})
        ...     print(pathlib.Path(folder, "config.json").read_text())
        {
          "a": null,
          "b": [
            1,
            2
          ]
        }
        <BLANKLINE>
    """
    if not isinstance(value, dict):
        raise _not_writable(path, f"a {type(value).__name__}")
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        data = (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_writable(path, str(error)) from error
    with written(path) as handle:
        handle.write(data)


def _not_writable(path: Source, found: str) -> CheckpointError:
    advice = "use texts, finite numbers, booleans, None, lists and dicts only"
    return fault(path, wanted="an object that can be written as JSON", found=found, advice=advice)


_YAML = "a YAML mapping of plain data"


def read_yaml(path: Source) -> dict[str, Any]:
    """The mapping in a YAML file, read as plain data.

    Tags are refused, both Python's own (`!!python/object/apply:`) and HyperPyYAML's (`!new:`, `!apply:`,
    `!ref`), because they ask for code to be run. Dates stay texts. As everywhere in YAML 1.1, `1e-4` without
    a dot is a text too.

    Args:
        path: a file of at most 1 MiB with one document.

    Returns:
        The mapping as a dict.

    Raises:
        CheckpointError: the file is missing, too large or not YAML; its top level is not a mapping with text
            keys; it holds a tag; or aliases blow it up ("billion laughs") or make it contain itself.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "config.yaml")
        ...     _ = path.write_text("sample_rate: 24000\\nratios: [8, 5, 4, 2]")
        ...     read_yaml(path)
        {'sample_rate': 24000, 'ratios': [8, 5, 4, 2]}
    """
    return parse_yaml(read_bytes(path, wanted=_YAML, max_bytes=MAX_YAML_BYTES), path)


def parse_yaml(data: bytes | str, path: Source) -> dict[str, Any]:
    """The mapping in a YAML text that stands in the file `path`, as `read_yaml` reads it."""
    try:
        if len(data) > MAX_YAML_BYTES:
            raise ValueError(f"{len(data)} bytes of YAML, more than {MAX_YAML_BYTES}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = _PlainLoader(data)
            node = loader.get_single_node()
            if node is not None:
                _refuse_tags_and_bombs(path, node)
            value = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        found = f"something else: {' '.join(str(error).split())}"
        raise fault(path, wanted=_YAML, found=found, advice="download the file again") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        found = f"a {type(value).__name__}" if not isinstance(value, dict) else "keys that are not texts"
        raise fault(path, wanted=_YAML, found=found, advice="make sure it is the right file")
    return value


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without the tags nobody needs here: a date in a configuration stays the text it was."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the base class's own declaration)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _refuse_tags_and_bombs(path: Source, root: yaml.Node) -> None:
    """Walk the graph of nodes once, before anything is built of it."""
    sizes: dict[int, int] = {}  # nodes below and including each, counted as if every alias were written out

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise _bomb(path, node, "an alias to a value that contains it")
            return sizes[id(node)]
        if node.tag not in _PLAIN_TAGS:
            found = f"the tag {node.tag!r} on line {node.start_mark.line + 1}"
            advice = "tags can run code and are never followed: read the values by hand, or ask for another file"
            raise fault(path, wanted="a YAML mapping of plain data", found=found, advice=advice)
        sizes[id(node)] = 0  # being counted
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(size_of(item) for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            total += sum(size_of(key) + size_of(value) for key, value in node.value)
        if total > MAX_YAML_NODES:
            raise _bomb(path, node, f"aliases that write out to more than {MAX_YAML_NODES} values")
        sizes[id(node)] = total
        return total

    size_of(root)


def _bomb(path: Source, node: yaml.Node, found: str) -> CheckpointError:
    where = f"{found}, on line {node.start_mark.line + 1}"
    return fault(path, wanted="a YAML mapping of plain data", found=where, advice="do not use this file")
