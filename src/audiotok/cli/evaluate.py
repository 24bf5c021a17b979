"""`audiotok eval`: tokenizers and classical codecs compared on one's own audio."""

import argparse
import os
from collections import defaultdict

from ..evaluate.evaluating import evaluate
from ..evaluate.metrics import METRICS
from ..evaluate.page import HTML
from ..evaluate.report import PAGE
from .exits import Exit
from .options import Commands, command, positive, seconds, whole
from .output import emit, say, wants_bars


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "eval",
        run,
        summary="compare tokenizers and classical codecs on your own audio",
        text="""
            Sends audio through tokenizers and classical codecs, measures what comes out, and writes a report:
            report.md, report.html with plots and players, results.csv and results.json with means, rows.csv with every
            item, cost.md with times and memory.

            MODEL is "default", a catalog name, a folder (./x) or a Hub repository, with :K for its first K codebooks;
            or an anchor: opus:KBPS, codec2:BPS, original. DATA is a folder, a manifest (JSONL, CSV, TSV), Lhotse cuts,
            WebDataset tars, a Hugging Face dataset or Parquet with audio in it: see docs/sources.md.

            A run that was stopped, in whatever way, goes on when the same command is given again; so does one with more
            models, metrics or items. What failed is listed with its reason (exit code 1), and tried again by the
            next run.
        """,
        examples="""
            audiotok eval default default:4 opus:6 codec2:3200 original --data speech/ --out report
            audiotok eval mimi:8 ./my-codec --data test.jsonl --where domain=speech --longer-than 2 --out report
            audiotok eval default --data test.jsonl --limit 50 --metrics stoi pesq_wb --out quick
            audiotok eval default --data test.jsonl --probe speaker language/speaker lm --out probed
        """,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="tokenizers and anchors, in the order of the tables")
    parser.add_argument("--data", nargs="+", required=True, metavar="SOURCE", help="dataset, or files and folders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report; one begun before goes on")
    default = " ".join(name for name, metric in METRICS.items() if metric.default)
    parser.add_argument(
        "--metrics",
        action="extend",
        nargs="+",
        choices=METRICS,
        metavar="NAME",
        help=f"of {' '.join(METRICS)}; default {default}",
    )
    group = parser.add_argument_group("which items")
    group.add_argument(
        "--where",
        action="extend",
        nargs="+",
        default=[],
        type=_pair,
        metavar="COLUMN=TEXT",
        help="only items whose column has this text; several of one column: any of them",
    )
    group.add_argument(
        "--longer-than", type=seconds, default=0.0, metavar="S", help="only those of more than S seconds"
    )
    group.add_argument("--limit", type=positive, metavar="N", help="only N items, drawn at random")
    group.add_argument("--seed", type=int, default=0, help="of the draw; default 0")
    group.add_argument("--by", default="domain", metavar="COLUMN", help="column that groups the tables; default domain")

    group = parser.add_argument_group("what is measured beside the metrics")
    group.add_argument("--no-cost", action="store_true", help="no times, memory, parameters and multiplications")
    group.add_argument("--no-robustness", action="store_true", help="not what changes codes, and no parity table")
    group.add_argument(
        "--probe",
        action="extend",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="columns that a small classifier is to tell from tokens; LABEL/GROUP keeps apart by another column, "
        "as in language/speaker; lm is a small language model of the tokens",
    )
    group.add_argument(
        "--label",
        action="extend",
        nargs="+",
        default=[],
        type=_pair,
        metavar="LABEL=PATTERN",
        help="columns for probes that regular expressions find in the path",
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--sample-rate", type=positive, default=16000, metavar="HZ", help="at which audio is compared; default 16000"
    )
    group.add_argument("--examples", type=whole, default=3, metavar="N", help="items to see and hear; default 3")
    group.add_argument(
        "--num-processes", type=positive, metavar="N", help="that share the work; default one for each CPU, at most 8"
    )
    group.add_argument("--device", default="cpu", help='"cpu", "cuda", "cuda:1", "mps"; default cpu')
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with an evaluation that was begun in DIR (default), or refuse it",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates, and prints the tables."""
    where: dict[str, list[str]] = defaultdict(list)
    for name, value in args.where:
        where[name].append(value)
    try:
        report = evaluate(
            args.models,
            args.data[0] if len(args.data) == 1 else args.data,
            args.out,
            metrics=args.metrics,
            where=where,
            longer_than=args.longer_than,
            limit=args.limit,
            seed=args.seed,
            by=args.by,
            sample_rate=args.sample_rate,
            num_examples=args.examples,
            num_processes=args.num_processes or min(8, os.cpu_count() or 1),
            cost=not args.no_cost,
            robustness=not args.no_robustness,
            probes=args.probe,
            labels=dict(args.label),
            device=args.device,
            resume=args.resume,
            progress=wants_bars(args),
        )
    except KeyboardInterrupt:
        say(f"{args.out}: stopped; what is done is there, and the same command goes on from it")
        raise
    if args.json:
        emit({"output": args.out, **report.to_dict()})
    else:
        print(report.markdown(), end="")
    failed = len(report.unreadable) + sum(one.count for one in report.reasons)
    if not args.quiet:
        say(f"{args.out}: {report.items} items in {len(report.systems)} systems; {PAGE} and {HTML} are the report")
    return Exit.SOME_FAILED if failed else Exit.OK


def _pair(text: str) -> tuple[str, str]:
    """Column and text of "domain=speech"."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"wanted COLUMN=TEXT such as domain=speech, not {text!r}")
    return name, value
