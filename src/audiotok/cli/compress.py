"""`audiotok compress` and `audiotok decompress`: codes as files of as few bits as possible, and back."""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .. import audio
from ..checkpoint import read_safetensors_metadata
from ..codes import Codes
from ..errors import InputError
from ..lm.container import MAX_TOKENS, Compressed, compress, compress_bytes, decompress
from ..lm.entropy import TABLE_KEY, EntropyFit, EntropyModel
from ..lm.header import is_compressed
from ..tokenizer import Tokenizer
from .encode import SUFFIX as CODES
from .encode import holds_codes
from .options import Commands, add_model_options, command, load_tokenizer, positive
from .output import emit, for_each, say
from .paths import STDOUT, Item, check_replaceable, check_stdout, file_for, file_of, plan

SUFFIX = ".atz"


def add_to(commands: Commands) -> None:
    """Adds both commands to the parser."""
    _add_compress(commands)
    _add_decompress(commands)


def _add_compress(commands: Commands) -> None:
    parser = command(
        commands,
        "compress",
        _compress,
        summary="audio or codes to entropy-coded files",
        text="""
            Audio, or files of codes, to entropy-coded files: the same tokens in fewer bits. INPUT is a file, a folder
            (with all its subfolders) or - for standard input; audio is encoded first. OUT is what it is for
            `audiotok encode`. Needs constriction.

            adaptive   learns while it goes which tokens come, and which after which; with --table it begins with what
                       was learnt on other audio, which helps most where audio is short
            codebook   stores a table of its own in each file: for long files
            static     uses --table alone, the fastest

            A table is fitted once, with --fit-table, on other audio; it is needed again to decompress.
        """,
        examples="""
            audiotok compress speech.flac                        writes speech.atz
            audiotok compress codes -o small                     codes/a/b.codes to small/a/b.atz
            audiotok compress train --fit-table speech.table     counts, and writes the table only
            audiotok compress --table speech.table speech.flac
            audiotok decompress small -o codes
            audiotok decompress --table speech.table speech.atz -o - | audiotok decode - -o speech.wav
        """,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio file, file of codes, folder, or -")
    parser.add_argument("-o", "--out", metavar="OUT", help="file, folder, or -; default beside the input")
    parser.add_argument(
        "--coding", choices=("adaptive", "codebook", "static"), default="adaptive", help="default adaptive, see above"
    )
    parser.add_argument("--table", metavar="FILE", help="what was learnt on other audio")
    parser.add_argument("--fit-table", metavar="FILE", help="learn from all INPUTs, write FILE and nothing else")
    add_model_options(parser)


def _add_decompress(commands: Commands) -> None:
    parser = command(
        commands,
        "decompress",
        _decompress,
        summary="entropy-coded files back to codes",
        text="""
            Files of `audiotok compress` back to files of codes, which `audiotok decode` turns to audio. INPUT is a
            file, a folder (with all its subfolders) or - for standard input. OUT is what it is for `audiotok encode`.
        """,
        examples="""
            audiotok decompress speech.atz                       writes speech.codes
            audiotok decompress small -o codes                   small/a/b.atz to codes/a/b.codes
            audiotok decompress speech.atz -o - | audiotok decode - -o speech.wav
        """,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file of audiotok compress, folder, or -")
    parser.add_argument("-o", "--out", metavar="OUT", help="file, folder, or -; default beside the input")
    parser.add_argument("--table", metavar="FILE", help="the one that was used to compress")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        default=MAX_TOKENS,
        metavar="N",
        help=f"refuse files that hold more, padding included; default {MAX_TOKENS}",
    )


def _compress(args: argparse.Namespace) -> int:
    """Compresses every input, or fits a table on all of them."""
    fits = args.fit_table is not None
    if fits and (args.out is not None or args.table is not None):
        raise InputError("--fit-table writes nothing but the table: leave out -o and --table")
    if args.out and Path(args.out).suffix.lower() in audio.EXTENSIONS:
        raise InputError(f"{args.out} ends as audio does: choose an ending like {SUFFIX}")
    items = plan(
        args.inputs,
        None if fits else args.out,
        endings=(CODES, *audio.EXTENSIONS),
        suffix=SUFFIX,
        kind="audio files or files of codes",
        without_out="" if args.json or fits else STDOUT,
    )
    tokenizer = cache(lambda: load_tokenizer(args, mode="encode"))
    if fits:
        return _fit(items, args, tokenizer)
    check_stdout(items, json=args.json, kind="compressed codes")
    table = None if args.table is None else EntropyModel.load(args.table)
    done: list[Compressed] = []

    def work(item: Item) -> tuple[dict[str, Any], str]:
        if item.target not in ("", STDOUT):
            check_replaceable(Path(item.target), is_compressed, "compressed codes")
        codes = _codes_of(item.source, args, tokenizer)
        if item.target:
            with file_for(item.target, SUFFIX) as path:
                result = compress(codes, path, coding=args.coding, table=table)
        else:
            _, result = compress_bytes(codes, coding=args.coding, table=table)
        done.append(result)
        return _facts(item, codes, result, args.coding)

    code = for_each(items, args, work)
    if len(done) > 1 and not (args.json or args.quiet):
        say(f"together {_rates(done)}")
    return code


def _fit(items: list[Item], args: argparse.Namespace, tokenizer: Callable[[], Tokenizer]) -> int:
    path = Path(args.fit_table)
    check_replaceable(path, lambda path: TABLE_KEY in read_safetensors_metadata(path), "table")
    fit, lengths = EntropyFit(), [0]

    def work(item: Item) -> tuple[dict[str, Any], str]:
        codes = _codes_of(item.source, args, tokenizer)
        fit.add(codes)
        frames = int(codes.lengths.sum())
        lengths.append(frames)
        return {"input": item.source, "frames": frames}, f"{item.source}: {frames} frames"

    code = for_each(items, args, work)
    table = fit.model()
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    pairs = [k for k, pairs in enumerate(table.pairs) if pairs is not None]
    if args.json:
        emit({"output": str(path), "frames": sum(lengths), "checksum": table.checksum, "codebooks_with_pairs": pairs})
    elif not args.quiet:
        with_pairs = f", with pairs for codebooks {', '.join(map(str, pairs))}" if pairs else ""
        say(f"saved {path}: counts of {sum(lengths)} frames{with_pairs}")
    return code


def _codes_of(source: str, args: argparse.Namespace, tokenizer: Callable[[], Tokenizer]) -> Codes:
    """Codes of a file of codes, or of audio; of standard input as its bytes say."""
    with file_of(source) as path:
        if Path(source).suffix.lower() != CODES and not holds_codes(path):
            return tokenizer().encode_file(path)
        codes = Codes.load(path)
    if args.bandwidth is not None:
        codes = codes.truncate(codes.spec.codebooks_for(args.bandwidth))
    return codes if args.num_codebooks is None else codes.truncate(args.num_codebooks)


def _facts(item: Item, codes: Codes, result: Compressed, coding: str) -> tuple[dict[str, Any], str]:
    facts: dict[str, Any] = {
        "input": item.source,
        "output": item.target or None,
        "tokenizer": codes.spec.name,
        "coding": coding,
        "frames": int(codes.lengths.sum()),
        "codebooks": codes.spec.num_codebooks,
        "seconds": round(result.seconds, 6),
        "bytes": result.total_bytes,
        "kbps_fixed": round(_kbps(result.fixed_bits, result.seconds), 6),
        "kbps": round(result.bitrate_bps / 1000, 6),
        "kbps_total": round(result.total_bitrate_bps / 1000, 6),
    }
    return facts, f"{item.arrow}: {_rates([result])}"


def _rates(results: list[Compressed]) -> str:
    """ "2.68 s, 4 kbit/s fixed, 3.1 coded, 3.5 with headers"."""
    seconds = sum(result.seconds for result in results)
    fixed, tokens, total = (
        _kbps(bits, seconds)
        for bits in (
            sum(result.fixed_bits for result in results),
            8 * sum(result.payload_bytes for result in results),
            8 * sum(result.total_bytes for result in results),
        )
    )
    return f"{seconds:.2f} s, {fixed:.4g} kbit/s fixed, {tokens:.4g} coded, {total:.4g} with headers"


def _kbps(bits: float, seconds: float) -> float:
    return bits / seconds / 1000 if seconds else 0.0


def _decompress(args: argparse.Namespace) -> int:
    """Turns every input back to codes."""
    items = plan(args.inputs, args.out, endings=(SUFFIX,), suffix=CODES, kind="compressed codes")
    if args.out and Path(args.out).suffix.lower() in audio.EXTENSIONS:
        raise InputError(f"{args.out} ends as audio does: decompress to {CODES}, then audiotok decode")
    check_stdout(items, json=args.json, kind="codes")
    table = None if args.table is None else EntropyModel.load(args.table)

    def work(item: Item) -> tuple[dict[str, Any], str]:
        if item.target != STDOUT:
            check_replaceable(Path(item.target), holds_codes, "audiotok codes")
        with file_of(item.source) as source:
            codes = decompress(source, table=table, max_tokens=args.max_tokens)
        with file_for(item.target, CODES) as path:
            codes.save(path)
        frames, spec = int(codes.lengths.sum()), codes.spec
        facts = {
            "input": item.source,
            "output": item.target,
            "tokenizer": spec.name,
            "frames": frames,
            "codebooks": spec.num_codebooks,
            "seconds": round(int(codes.num_samples.sum()) / spec.sample_rate, 6),
        }
        return facts, f"{item.arrow}: {facts['seconds']:.2f} s, {spec.num_codebooks} x {frames} tokens"

    return for_each(items, args, work)
