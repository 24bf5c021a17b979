"""`audiotok decode`: files of codes back to audio."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import audio
from ..checkpoint import read_safetensors_metadata
from ..codes import Codes
from ..errors import CheckpointError, InputError
from ..registry import list_tokenizers
from ..tokenizer import Tokenizer
from .encode import SUFFIX
from .options import Commands, add_model_options, command, load_tokenizer, positive
from .output import for_each
from .paths import STDOUT, Item, check_stdout, file_for, file_of, plan


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "decode",
        run,
        summary="codes to audio",
        text="""
            Codes to audio, exactly as long as what was encoded. CODES is a file, a folder (with all its subfolders) or
            - for standard input. OUT is a file for one input, whose ending chooses the format; a folder, in which the
            tree of an input folder is mirrored as .wav; or - for WAV on standard output.

            Codes name the tokenizer that made them: it is used when the catalog has it, otherwise --model says where
            it is. In a folder, audio that exists is kept (it may be the original) and reported, unless --force.
        """,
        examples="""
            audiotok decode speech.codes -o decoded.wav
            audiotok decode --model ./my-tok codes -o decoded
            audiotok decode --num-codebooks 2 --sample-rate 8000 speech.codes -o low.flac
            cat a.flac | audiotok encode - | audiotok decode - -o - > a.wav
        """,
    )
    parser.add_argument("inputs", nargs="+", metavar="CODES", help="file of codes, folder, or -")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="file, folder, or -")
    parser.add_argument("--sample-rate", type=positive, metavar="HZ", help="resample; default the tokenizer's own")
    parser.add_argument("--force", action="store_true", help="replace audio in a folder")
    add_model_options(parser, default=None)


def run(args: argparse.Namespace) -> int:
    """Decodes every input."""
    items = plan(args.inputs, args.out, endings=(SUFFIX,), suffix=".wav", kind="files of codes")
    single = len(items) == 1 and items[0].target == args.out
    if single and args.out != STDOUT and Path(args.out).suffix.lower() not in audio.EXTENSIONS:
        raise InputError(f"{args.out} must end as audio does, one of {' '.join(audio.EXTENSIONS)}")
    check_stdout(items, json=args.json, kind="samples")
    with file_of(items[0].source) as first:
        files = {item: item.source for item in items} | {items[0]: first}
        tokenizers = _tokenizers(args, list(files.values()))

        def decode(item: Item) -> tuple[dict[str, Any], str]:
            if not (single or args.force) and Path(item.target).exists():
                raise InputError(f"{item.target} exists: --force replaces it")
            codes = Codes.load(files[item])
            return _decode(tokenizers[args.model or codes.spec.name], codes, item, args)

        return for_each(items, args, decode)


def _decode(tokenizer: Tokenizer, codes: Codes, item: Item, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if len(codes) != 1:
        raise InputError(f"{item.source} holds {len(codes)} rows, not one: decode it in Python, with Codes.load")
    if args.bandwidth is not None:
        codes = codes.truncate(codes.spec.codebooks_for(args.bandwidth))
    if args.num_codebooks is not None:
        codes = codes.truncate(args.num_codebooks)
    rate = args.sample_rate or codes.spec.output_sample_rate
    wav = audio.resample(tokenizer.decode(codes)[0], codes.spec.output_sample_rate, rate)
    with file_for(item.target, ".wav") as path:
        audio.save(path, wav, rate)
    facts = {
        "input": item.source,
        "output": item.target,
        "tokenizer": tokenizer.spec.name,
        "frames": int(codes.lengths[0]),
        "codebooks": codes.spec.num_codebooks,
        "samples": wav.shape[1],
        "sample_rate": rate,
        "seconds": round(wav.shape[1] / rate, 6),
    }
    return facts, f"{item.arrow}: {facts['seconds']:.2f} s, {rate} Hz"


def _tokenizers(args: argparse.Namespace, files: Sequence[str]) -> dict[str, Tokenizer]:
    """The tokenizers needed, by name, loaded before anything is decoded.

    Raises:
        InputError: codes of a tokenizer that the catalog does not have, and no --model.
    """
    if args.model is not None:
        return {args.model: load_tokenizer(args, mode="decode")}
    names: dict[str, str] = {}
    for file in files:
        try:
            names.setdefault(json.loads(read_safetensors_metadata(file)["audiotok.codes"])["spec"]["name"], file)
        except (CheckpointError, KeyError, TypeError, ValueError):
            continue  # not a file of codes: reported with its reason when its turn comes
    known, tokenizers = set(list_tokenizers()), {}
    for name, file in names.items():
        if name not in known:
            raise InputError(
                f"{file} was made by {name!r}, which the catalog does not have: say with --model where it is "
                "(a folder ./x or a Hub repository user/repo)"
            )
        args.model = name
        tokenizers[name] = load_tokenizer(args, mode="decode")
    args.model = None
    return tokenizers
