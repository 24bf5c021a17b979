"""Options that several commands share."""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hub import DEFAULT, load
from ..spec import Spec
from ..tokenizer import Mode, Tokenizer
from .exits import HELP

Commands = Any  # what ArgumentParser.add_subparsers gives; argparse's own type for it is private


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, text: str, examples: str
) -> argparse.ArgumentParser:
    """Adds a command with --json, --quiet and --progress; `run` gets its arguments and gives the exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.dedent(text).strip(),
        epilog="examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  ") + "\n\n" + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    group = parser.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="JSON on stdout and nothing else there, for machines")
    group.add_argument("-q", "--quiet", action="store_true", help="only failures on stderr")
    group.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="progress bars on stderr; by default when it is a terminal",
    )
    return parser


def add_model_options(
    parser: argparse.ArgumentParser, *, model: bool = True, default: str | None = DEFAULT, devices: bool = False
) -> None:
    """--model (unless it is an argument of its own), --num-codebooks or --bandwidth, --device (a list with `devices`)
    and --dtype."""
    group = parser.add_argument_group("tokenizer")
    if model:
        group.add_argument(
            "--model",
            default=default,
            metavar="NAME",
            help="catalog name, folder (./x, ../x, /x, ~/x) or Hub repository (user/repo, user/repo@revision); "
            f"default {default or 'the one named in the codes, if the catalog has it'}",
        )
    fewer = group.add_mutually_exclusive_group()
    fewer.add_argument("--num-codebooks", type=positive, metavar="N", help="only the first N codebooks")
    fewer.add_argument(
        "--bandwidth", type=kbps, metavar="KBPS", help="only the first codebooks, as many as KBPS kbit/s hold"
    )
    if devices:
        several = "a process each when there are several"
        group.add_argument(
            "--device",
            nargs="+",
            default=["cpu"],
            metavar="DEV",
            help=f"cpu, cuda, cuda:0 cuda:1: {several}; default cpu",
        )
    else:
        group.add_argument("--device", default="cpu", help='"cpu", "cuda", "cuda:1", "mps"; default cpu')
    group.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or float64")


def load_tokenizer(args: argparse.Namespace, mode: Mode = "both", *, device: str | None = None) -> Tokenizer:
    """The tokenizer that `add_model_options` asked for, or the half of it that is needed, there or on `device`."""
    return load(
        args.model,
        device=device or args.device,
        dtype=args.dtype,
        num_codebooks=args.num_codebooks,
        bandwidth=args.bandwidth,
        mode=mode,
    )


def empty_folder(path: str, force: bool) -> Path:
    """A folder to save a tokenizer in.

    Raises:
        InputError: it is a file, or it holds something and `force` is not given.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name another folder, or --force to replace the tokenizer in it")
    return folder


def codebooks(spec: Spec) -> str:
    """ "8 x 1024", or "7 x 3248..32000" where sizes differ."""
    low, high = min(spec.codebook_sizes), max(spec.codebook_sizes)
    return f"{spec.num_codebooks} x {low if low == high else f'{low}..{high}'}"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, not {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 0, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time above 0."""
    return _above_zero(text, "seconds")


def kbps(text: str) -> float:
    """A rate above 0."""
    return _above_zero(text, "kbit/s")


def _above_zero(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"wanted {unit} above 0, not {text!r}")
    return value
