"""`audiotok tokenize`: whole datasets to folders of tokens."""

import argparse
from pathlib import Path

from ..dataset import tokenize_dataset
from .exits import Exit
from .fit import byte_size
from .options import Commands, add_model_options, command, load_tokenizer, seconds, whole
from .output import emit, say, wants_bars


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "tokenize",
        run,
        summary="a whole dataset to a folder of tokens",
        text="""
            Tokenizes every item of a dataset into a folder of Parquet shards that pandas, DuckDB, datasets and Ray
            read. SOURCE is a folder, a manifest (JSONL, CSV, TSV), Lhotse cuts, WebDataset tars, a Hugging Face dataset
            or Parquet with audio in it: see docs/sources.md. Several are joined when all are audio files or folders.

            A run that was stopped, in whatever way, goes on when the same command is given again, also with other
            numbers of workers and devices. Items that cannot be used are listed in DIR/errors.jsonl with the reason
            (exit code 1, unless --ignore-errors), and tried again by the next run.
        """,
        examples="""
            audiotok tokenize corpus --model mimi --out tokens
            audiotok tokenize train.jsonl --model dwavlm-l5-k1000 --out tokens --device cuda:0 cuda:1 --num-workers 16
            audiotok tokenize podcasts --out tokens --max-seconds 30
            python -c "import pandas; print(pandas.read_parquet('tokens/data', columns=['id', 'num_frames']))"
        """,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="dataset, or audio files and folders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the tokens; one begun before goes on")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that was begun before")
    parser.add_argument(
        "--max-seconds", type=seconds, metavar="S", help="cut longer recordings into pieces of S seconds"
    )
    parser.add_argument("--columns", nargs="*", metavar="NAME", help="columns of the source to carry; default all")
    parser.add_argument("--ignore-errors", action="store_true", help="exit code 0 even if items failed")
    group = parser.add_argument_group("speed and memory")
    group.add_argument(
        "--num-workers", type=whole, metavar="N", help="reading processes; default the CPUs less one, at most 8"
    )
    group.add_argument(
        "--batch-seconds", type=seconds, metavar="S", help="audio in a batch; default 60 on a CPU, else 240"
    )
    group.add_argument(
        "--shard-size", type=byte_size, default=64 << 20, metavar="SIZE", help="of tokens; default 64MiB"
    )
    group.add_argument("--engine", default="local", choices=("local", "ray"), help="default local")
    add_model_options(parser, devices=True)


def run(args: argparse.Namespace) -> int:
    """Tokenizes, and says what came of it."""
    several = len(args.device) > 1
    tokenizer = load_tokenizer(args, mode="encode", device="cpu" if several else args.device[0])
    try:
        report = tokenize_dataset(
            tokenizer,
            args.sources[0] if len(args.sources) == 1 else args.sources,
            args.out,
            batch_seconds=args.batch_seconds,
            num_workers=args.num_workers,
            devices=args.device if several else None,
            max_seconds=args.max_seconds,
            columns=args.columns,
            shard_bytes=args.shard_size,
            resume=not args.no_resume,
            engine=args.engine,
            progress=wants_bars(args),
        )
    except KeyboardInterrupt:
        say(f"{args.out}: stopped; what is done is there, and the same command goes on from it")
        raise
    if args.json:
        emit({"output": args.out, "tokenizer": tokenizer.spec.name, **report.to_dict()})
    elif not args.quiet and not report.hours and not report.failed:
        say(f"{args.out}: {report.rows} items, nothing was left to do")
    elif not args.quiet:
        say(
            f"{args.out}: {report.rows} items, {report.frames} frames in {report.shards} shards; this run "
            f"{report.hours:.3g} h in {report.seconds:.1f} s, {report.hours_per_hour:.0f} times real time, waiting for "
            f"audio {report.share_waiting:.0%} of the time"
        )
    if report.failed:
        say(f"{report.failed} of {report.items} items failed: {Path(args.out, 'errors.jsonl')} says why")
    return Exit.SOME_FAILED if report.failed and not args.ignore_errors else Exit.OK
