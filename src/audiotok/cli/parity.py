"""`audiotok parity`: in which ways of encoding do codes change, and how many."""

import argparse
from typing import Any

from torch import Tensor

from .. import audio
from ..errors import AudioFileError, InputError
from ..testing import Parity, allowed_share
from ..testing import parity as measure
from ..tokenizer import Tokenizer
from .exits import Exit
from .options import Commands, add_model_options, command, load_tokenizer, seconds
from .output import emit, failure, say, table

_WAYS = {
    "again": "encoded a second time",
    "batch": "all files in one batch",
    "padded": "in a padded batch, noise after each end",
    "order": "in a batch in reverse order",
    "chunked": "in pieces",
    "streamed": "pushed piece by piece",
    "saved": "by a saved and loaded copy",
    "bfloat16": "with weights in bfloat16",
    "gpu": "on the GPU",
    "cpu": "on the CPU",
}


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "parity",
        run,
        summary="the share of codes that change with the way of encoding",
        text="""
            Encodes files alone and whole, then in every way that must not matter and in those that may, and prints the
            share of codes that differ. The exit code is 1 when a way that must not matter does: pieces are allowed
            what the tokenizer declares, bfloat16 and another device whatever they give.
        """,
        examples="""
            audiotok parity audiotok-base-16k a.flac b.flac
            audiotok parity ./my-tok corpus/dev --seconds 10 --json
        """,
    )
    parser.add_argument("model", metavar="NAME", help="catalog name, folder or Hub repository")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio file or folder; several files say more")
    parser.add_argument("--seconds", type=seconds, metavar="S", help="only the first S seconds of each file")
    add_model_options(parser, model=False)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    files = [str(path) for path in audio.find_audio(args.files)]
    tokenizer = load_tokenizer(args)
    wavs, failed = _read(files, tokenizer, args)
    if not wavs:
        raise InputError(f"none of the {len(files)} files can be read")
    found = measure(tokenizer, wavs)
    allowed = {way.way: allowed_share(way.way, tokenizer) for way in found}
    wrong = [way.way for way in found if way.share > allowed[way.way]]
    if args.json:
        emit(_document(tokenizer, files, found, allowed, wrong) | {"failed": failed})
    else:
        total = sum(wav.shape[1] for wav in wavs) / tokenizer.spec.sample_rate
        print(f"{tokenizer.spec.name}, {len(wavs)} files, {total:.1f} s")
        rows = [
            (way.way, _WAYS.get(way.way, ""), way.codes, way.different, f"{way.share:.3%}", f"{allowed[way.way]:.3%}")
            for way in found
        ]
        print(table(("way", "", "codes", "differ", "share", "allowed"), rows))
    if wrong:
        say(f"{', '.join(wrong)}: more codes differ than {tokenizer.spec.name} may change")
    return Exit.SOME_FAILED if wrong or failed else Exit.OK


def _read(
    files: list[str], tokenizer: Tokenizer, args: argparse.Namespace
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Rows [C, T_i] of the files that can be read, and the failures of the others."""
    spec, failed = tokenizer.spec, []
    wavs: list[Tensor] = []
    for file in files:
        try:
            wav, rate = audio.load(file, sample_rate=spec.sample_rate, channels=spec.channels)
            if args.seconds is not None:
                wav = wav[:, : max(1, round(args.seconds * rate))]
            if not bool(wav.isfinite().all()):
                raise AudioFileError(f"{file} holds NaN or infinite samples")
            wavs.append(wav)
        except (AudioFileError, InputError) as error:
            failed.append(failure(file, error))
    return wavs, failed


def _document(
    tokenizer: Tokenizer, files: list[str], found: list[Parity], allowed: dict[str, float], wrong: list[str]
) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer.spec.name,
        "files": files,
        "ways": [
            {
                "way": way.way,
                "codes": way.codes,
                "different": way.different,
                "share": way.share,
                "allowed": allowed[way.way],
                "passed": way.way not in wrong,
            }
            for way in found
        ],
    }
