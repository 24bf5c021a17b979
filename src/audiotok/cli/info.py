"""`audiotok info`: everything known of one tokenizer, without loading its weights."""

import argparse
from pathlib import Path
from typing import Any

from ..catalog import Entry
from ..errors import CheckpointError, InputError, UnknownTokenizerError
from ..hub import DEFAULT, download, parse_name, read_config
from ..registry import describe
from ..spec import Spec
from .exits import Exit
from .options import Commands, command
from .output import emit


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "info",
        run,
        summary="everything known of one tokenizer",
        text="""
            Everything known of one tokenizer, without loading its weights: the catalog's facts for a name (what it
            takes and gives, its place in the survey arXiv 2506.10274, paper, licences, files, and how it is loaded),
            those of config.json for a saved folder or a Hub repository (of which only that file is downloaded).
        """,
        examples="""
            audiotok info audiotok-base-16k
            audiotok info mimi
            audiotok info ./my-tok
            audiotok info user/repo@main --json
        """,
    )
    parser.add_argument(
        "name", nargs="?", default=DEFAULT, metavar="NAME", help=f"name, folder or user/repo; default {DEFAULT}"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the facts."""
    name, where = parse_name(args.name)
    unsaid: set[str] = set()  # what JSON has and a reader need not see
    if where == "catalog":
        entry = describe(name)
        facts = {"kind": "catalog", **entry.to_dict(), "load": _how(entry)}
        unsaid = {
            "loader",
            "advice",
            *(name for name in ("parameters_millions", "size_mb", "published") if not facts[name]),
        }
    elif where == "hub":
        repository, _, revision = name.partition("@")
        facts = {"kind": "repository", "repository": name}
        facts |= _saved(download(repository, "config.json", revision or None))
    else:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UnknownTokenizerError(f"no such folder: {folder}")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json: it is not a tokenizer saved by audiotok")
        facts = {"kind": "folder", "folder": str(folder)}
        facts |= _saved(folder / "config.json")
    if args.json:
        emit(facts)
    else:
        print("\n".join(_lines({name: value for name, value in facts.items() if name not in unsaid})))
    return Exit.OK


def _how(entry: Entry) -> str:
    """How the tokenizer of an entry is had."""
    if entry.status != "loadable":
        return entry.advice
    install = f"pip install 'audiotok[{entry.extra}]', then " if entry.extra else ""
    return f'{install}audiotok.load("{entry.name}")'


def _saved(path: Path) -> dict[str, Any]:
    """The facts of a saved tokenizer, with the rates that follow from its spec."""
    config = read_config(path)
    try:
        spec = Spec.from_dict(config["spec"])
    except InputError as error:
        raise CheckpointError(f"{path} does not describe a tokenizer: {error}") from error
    rates = {"frame_rate": spec.frame_rate, "bitrate_bps": spec.bitrate_bps, "vocab_size": spec.vocab_size}
    return {
        "name": spec.name,
        "family": config["family"],
        "num_codebooks": config["num_codebooks"],
        "spec": {**spec.to_dict(), **rates},
        "config": config["config"],
        "provenance": config["provenance"],
    }


def _lines(facts: dict[str, Any], depth: int = 0) -> list[str]:
    """One line a fact, the facts of a dict indented below its name."""
    indent, lines = "  " * depth, []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += [label, *(_lines(value, depth + 1))] if value else []
        elif value not in ("", ()):
            lines.append(f"{label:<26} {_text(value)}".rstrip())
    return lines


def _text(value: object) -> str:
    if value is None:
        return "not said"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        if len(value) > 1 and isinstance(value[0], int) and value.count(value[0]) == len(value):
            return f"{len(value)} x {value[0]}"
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
