"""`audiotok fit`: a k-means tokenizer of one's own audio."""

import argparse
import re
import warnings

from ..errors import FitWarning
from ..fit import FitReport, fit_kmeans
from .exits import Exit
from .options import Commands, command, empty_folder, positive
from .output import emit, say, wants_bars

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "fit",
        run,
        summary="fit a k-means tokenizer on your own audio",
        text="""
            Fits a k-means tokenizer on audio and saves it. Frames are sampled over the whole corpus within a byte
            budget, so it may be larger than memory. One file in twenty (one frame in twenty, when there are few files)
            is held out, and the table says how well it is coded. With N codebooks, each codes what the ones before
            leave over. A file that cannot be read is left out and reported (exit code 1).
        """,
        examples="""
            audiotok fit corpus --features logmel --k 500 --out ./my-tok
            audiotok fit corpus --features microsoft/wavlm-large --layers 7 18 --k 1000 --out ./units
            audiotok encode --model ./my-tok speech.flac
            audiotok fit a b c.wav --k 1024 --num-codebooks 8 --max-bytes 4GB --out ./my-tok --json
        """,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="audio file, or folder with all its subfolders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the tokenizer, new or empty")
    parser.add_argument("--force", action="store_true", help="replace the tokenizer in DIR")
    parser.add_argument("--name", default="", help="of the tokenizer; default such as logmel-k500x4")
    parser.add_argument(
        "--features", default="logmel", metavar="NAME", help="logmel (default), or an SSL model: ./folder or user/repo"
    )
    parser.add_argument("--layers", nargs="+", type=int, metavar="L", help="of the SSL model")
    parser.add_argument("--k", type=positive, default=1000, metavar="N", help="entries per codebook; default 1000")
    parser.add_argument("--num-codebooks", type=positive, default=1, metavar="N", help="default 1")
    parser.add_argument("--engine", default="auto", choices=("auto", "faiss", "torch"), help="default auto")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="to fit on; default 512 for each entry")
    parser.add_argument(
        "--max-bytes", type=byte_size, default=1 << 30, metavar="SIZE", help="of frames held: 500MB, 4GiB; default 1GiB"
    )
    parser.add_argument("--iterations", type=positive, default=10, metavar="N", help="of k-means; default 10")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same tokenizer on a CPU; default 0"
    )
    parser.add_argument("--device", default="cpu", help="where to fit; default cpu")


def run(args: argparse.Namespace) -> int:
    """Fits, saves and prints the report."""
    folder = empty_folder(args.out, args.force)
    with warnings.catch_warnings():
        warnings.simplefilter("always", FitWarning)
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        tokenizer = fit_kmeans(
            args.sources,
            features=args.features,
            layers=args.layers,
            k=args.k,
            num_codebooks=args.num_codebooks,
            engine=args.engine,
            max_frames=args.max_frames,
            max_bytes=args.max_bytes,
            iterations=args.iterations,
            seed=args.seed,
            device=args.device,
            name=args.name,
            progress=wants_bars(args),
        )
    tokenizer.save(folder)
    report = FitReport(**tokenizer.provenance["fit"])
    if args.json:
        facts = {"output": str(folder), "name": tokenizer.spec.name, "fingerprint": tokenizer.fingerprint}
        emit(facts | {"report": report.to_dict()})
    else:
        print(report.table())
    if not args.quiet:
        say(
            f"saved {tokenizer.spec.name} to {folder}: {report.files - report.files_failed} files, "
            f"{report.hours:.3g} h, {report.frames_used} of {report.frames_seen} frames, {report.engine}, "
            f"{report.seconds_reading:.1f} s reading, {report.seconds_fitting:.1f} s fitting"
        )
    return Exit.SOME_FAILED if report.files_failed else Exit.OK


def byte_size(text: str) -> int:
    """Bytes of "500000", "500MB", "1.5 GiB": decimal units, and binary ones with an i.

    Example:
        >>> byte_size("1GB"), byte_size("2KiB")
        (1000000000, 2048)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?", text.strip().upper(), flags=re.ASCII)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"wanted a size like 500MB or 4GiB, not {text!r}")
    return size
