"""`audiotok encode`: audio files to files of codes."""

import argparse
from pathlib import Path
from typing import Any

from .. import audio
from ..checkpoint import read_safetensors_metadata
from ..errors import CheckpointError, InputError
from ..tokenizer import Tokenizer
from .options import Commands, add_model_options, command, load_tokenizer
from .output import for_each
from .paths import STDIN, STDOUT, Item, check_replaceable, check_stdout, file_for, plan, read_stdin

SUFFIX = ".codes"


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "encode",
        run,
        summary="audio to codes",
        text="""
            Audio to codes. INPUT is a file, a folder (with all its subfolders) or - for standard input; any format,
            rate and number of channels that libsndfile reads is resampled and mixed to what the tokenizer takes.

            Without -o, x/a.flac gives x/a.codes, and - goes to standard output (with --json nowhere: only the JSON
            line is printed). OUT is a file for one input; a folder, in which the tree of an input folder is mirrored;
            or -. Codes that exist are replaced, each file at once and never half; a file that holds anything else is
            not. A file that cannot be read is reported, and the rest goes on.
        """,
        examples="""
            audiotok encode speech.flac                         writes speech.codes
            audiotok encode corpus -o codes                     corpus/a/b.wav to codes/a/b.codes
            audiotok encode --model ./my-tok --num-codebooks 4 speech.flac -o low.codes
            audiotok encode --json --tokens - < speech.flac     tokens as JSON, no file
            cat a.flac | audiotok encode - | audiotok decode - -o - > a.wav
        """,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio file, folder, or -")
    parser.add_argument("-o", "--out", metavar="OUT", help="file, folder, or -; default beside the input")
    parser.add_argument("--tokens", action="store_true", help="with --json: the tokens, a list per codebook")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Encodes every input."""
    if args.tokens and not args.json:
        raise InputError("--tokens are printed as JSON: add --json")
    if args.out and Path(args.out).suffix.lower() in audio.EXTENSIONS:
        raise InputError(f"{args.out} ends as audio does, but codes are written to it: choose an ending like {SUFFIX}")
    items = plan(
        args.inputs,
        args.out,
        endings=audio.EXTENSIONS,
        suffix=SUFFIX,
        kind="audio files",
        without_out="" if args.json else STDOUT,
    )
    check_stdout(items, json=args.json, kind="codes")
    tokenizer = load_tokenizer(args, mode="encode")
    return for_each(items, args, lambda item: _encode(tokenizer, item, with_tokens=args.tokens))


def _encode(tokenizer: Tokenizer, item: Item, *, with_tokens: bool) -> tuple[dict[str, Any], str]:
    if item.target not in ("", STDOUT):
        check_replaceable(Path(item.target), holds_codes, "audiotok codes")
    codes = tokenizer.encode_file(read_stdin() if item.source == STDIN else item.source)
    if item.target:
        with file_for(item.target, SUFFIX) as path:
            codes.save(path)
    spec, frames = codes.spec, int(codes.lengths[0])
    facts: dict[str, Any] = {
        "input": item.source,
        "output": item.target or None,
        "tokenizer": spec.name,
        "frames": frames,
        "codebooks": spec.num_codebooks,
        "seconds": round(int(codes.num_samples[0]) / spec.sample_rate, 6),
        "kbps": spec.bitrate_bps / 1000,
    }
    line = f"{item.arrow}: {facts['seconds']:.2f} s, {spec.num_codebooks} x {frames} tokens, {facts['kbps']:.4g} kbit/s"
    return facts | ({"tokens": codes.tokens[0].tolist()} if with_tokens else {}), line


def holds_codes(path: str | Path) -> bool:
    """Whether a file is one of codes."""
    try:
        return "audiotok.codes" in read_safetensors_metadata(path)
    except CheckpointError:
        return False
