"""`audiotok fit`: a k-means tokenizer of one's own audio."""

import argparse
import re
import warnings
from pathlib import Path

from ..errors import FitWarning
from ..fit import FOLDER, ITERATIONS, ROWS_PER_CENTROID, FitReport, fit_several
from ..tokenizer import Tokenizer
from .exits import Exit
from .options import Commands, command, empty_folder, positive, whole
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
            Fits a k-means tokenizer on audio and saves it. SOURCE is a folder, a manifest (JSONL, CSV, TSV), Lhotse
            cuts, WebDataset tars, a Hugging Face dataset or Parquet with audio in it: see docs/sources.md. Several are
            joined when all are audio files or folders.

            Frames are sampled over the whole corpus within a byte budget, so it may be larger than memory. One item in
            twenty (one frame in twenty, when there are few items) is held out, and the table says how well it is
            coded. With N codebooks, each codes what the ones before leave over. With several k, each is fitted on the
            same sample and saved in DIR/kN; DIR/report.md compares them.

            A fit that was stopped, in whatever way, goes on when the same command is given again, and gives the same
            tokenizer. An item that cannot be read is left out and listed in DIR/errors.jsonl (exit code 1).
        """,
        examples="""
            audiotok fit corpus --k 500 --out ./my-tok
            audiotok fit train.jsonl --held-out valid.jsonl --k 100 200 500 1000 --out ./how-many
            audiotok fit corpus --features microsoft/wavlm-large --layers 7 18 --k 1000 --out ./units
            audiotok fit corpus --features dac-44khz --k 1024 --num-codebooks 4 --out ./dac-units
            audiotok encode --model ./my-tok speech.flac
        """,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="dataset, or audio files and folders")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the tokenizer; one begun before goes on"
    )
    parser.add_argument("--force", action="store_true", help="replace the tokenizer in DIR")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with a fit that was begun in DIR (default), or refuse it",
    )
    parser.add_argument("--name", default="", help="of the tokenizer; default such as logmel-k500x4")
    parser.add_argument("--held-out", metavar="SOURCE", help="dataset to measure on instead of one item in twenty")

    group = parser.add_argument_group("what is fitted")
    group.add_argument(
        "--features",
        default="logmel",
        metavar="NAME",
        help="logmel (default); an SSL model: ./folder or user/repo; or a codec, by name, ./folder or user/repo",
    )
    group.add_argument("--layers", nargs="+", type=whole, metavar="L", help="of the SSL model")
    group.add_argument(
        "--k", nargs="+", type=positive, default=[1000], metavar="N", help="entries per codebook; default 1000"
    )
    group.add_argument("--num-codebooks", type=positive, default=1, metavar="N", help="default 1")
    group.add_argument("--spherical", action="store_true", help="compare directions only, here and in the tokenizer")

    group = parser.add_argument_group("how")
    group.add_argument("--engine", default="auto", choices=("auto", "faiss", "torch"), help="default auto")
    group.add_argument(
        "--iterations", type=positive, default=ITERATIONS, metavar="N", help=f"of k-means; default {ITERATIONS}"
    )
    group.add_argument("--restarts", type=positive, default=1, metavar="N", help="fits, the best is kept; default 1")
    group.add_argument("--minibatch", action="store_true", help="fit on every frame as it is read, not on a sample")
    group.add_argument(
        "--max-frames", type=positive, metavar="N", help=f"to fit on; default {ROWS_PER_CENTROID} for each entry"
    )
    group.add_argument(
        "--max-bytes", type=byte_size, default=2 << 30, metavar="SIZE", help="of frames held: 500MB, 4GiB; default 2GiB"
    )
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same tokenizer on a CPU; default 0")
    group.add_argument("--device", default="cpu", help="where to fit; default cpu")
    group.add_argument(
        "--executor", default="local", choices=("local", "ray"), help="where features are computed; default local"
    )
    group.add_argument(
        "--num-workers", type=whole, metavar="N", help="reading processes; default the CPUs less one, at most 8"
    )


def run(args: argparse.Namespace) -> int:
    """Fits, saves and prints the report."""
    folder = Path(args.out)
    if not (folder / FOLDER).is_dir():
        folder = empty_folder(args.out, args.force)
    with warnings.catch_warnings():
        warnings.simplefilter("always", FitWarning)
        warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        fits = fit_several(
            args.sources[0] if len(args.sources) == 1 else args.sources,
            args.k,
            features=args.features,
            layers=args.layers,
            num_codebooks=args.num_codebooks,
            engine=args.engine,
            max_frames=args.max_frames,
            max_bytes=args.max_bytes,
            iterations=args.iterations,
            restarts=args.restarts,
            spherical=args.spherical,
            minibatch=args.minibatch,
            seed=args.seed,
            held_out=args.held_out,
            device=args.device,
            num_workers=args.num_workers,
            executor=args.executor,
            name=args.name,
            out_dir=folder,
            resume=args.resume,
            progress=wants_bars(args),
        )
    failed = 0
    for k, tokenizer in fits.items():
        failed = _show(args, tokenizer, folder / f"k{k}" if len(fits) > 1 else folder)
    return Exit.SOME_FAILED if failed else Exit.OK


def _show(args: argparse.Namespace, tokenizer: Tokenizer, folder: Path) -> int:
    """Prints what came of one k. Returns how many items failed."""
    report = FitReport(**tokenizer.provenance["fit"])
    if args.json:
        facts = {"output": str(folder), "name": tokenizer.spec.name, "fingerprint": tokenizer.fingerprint}
        emit(facts | {"report": report.to_dict()})
    else:
        print(report.table())
    if not args.quiet:
        say(
            f"saved {tokenizer.spec.name} to {folder}: {report.files - report.files_failed} items, "
            f"{report.hours:.3g} h, {report.frames_used} of {report.frames_seen} frames, {report.engine}, "
            f"{report.seconds_reading:.1f} s reading, {report.seconds_fitting:.1f} s fitting"
        )
    return report.files_failed


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
