"""`audiotok train codec`: a tokenizer of one's own."""

import argparse
import os
from typing import Any

from ..checkpoint import parse_yaml, read_yaml
from ..errors import InputError
from ..train import parse_config, train_codec
from ..train.pool import MEMORY_BYTES
from .exits import Exit
from .fit import byte_size
from .options import Commands, command, seconds, whole
from .output import emit, say, table, wants_bars


def add_codec(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "codec",
        run,
        summary="audio to tokens and back",
        text="""
            Trains a codec on your own audio: CONFIG is a YAML file with two groups of keys, `codec` (sizes, quantizer)
            and `training`; docs/training.md lists them. OUT becomes a folder for `audiotok.load`. A training that was
            stopped, or killed, goes on from its last checkpoint in OUT by the same command. Needs accelerate; on
            several GPUs run it as `accelerate launch -m audiotok train codec ...`.
        """,
        examples="""
            audiotok train codec examples/codec_small.yaml --data corpus --out ./my-codec
            audiotok train codec my.yaml --data train.jsonl --valid valid.jsonl --out ./my-codec --max-minutes 25
            audiotok train codec my.yaml --data corpus --init ./my-codec --out ./second --set training.balancer=false
            audiotok train codec examples/codec_small.yaml --data tests/data/audio --device cpu --out ./tiny \\
                --set training.steps=100 training.batch_size=4 training.quantize_from=20
        """,
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        action="extend",
        metavar="SOURCE",
        help="what `audiotok tokenize` takes: docs/sources.md",
    )
    parser.add_argument(
        "--valid", nargs="+", action="extend", metavar="SOURCE", help="to validate on; default: a few items held out"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the tokenizer, its log and checkpoints")
    parser.add_argument("--name", help="of the tokenizer; default that of OUT")
    parser.add_argument("--init", metavar="DIR", help="begin with the weights of another run, or of a tokenizer")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="in place of what CONFIG says"
    )
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from a checkpoint (default)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="default auto: a GPU if there is one")
    parser.add_argument(
        "--memory", type=byte_size, default=MEMORY_BYTES, metavar="SIZE", help="for decoded audio; default 2GiB"
    )
    parser.add_argument("--num-workers", type=whole, default=2, metavar="N", help="processes that read; default 2")
    parser.add_argument("--max-minutes", type=seconds, metavar="N", help="then save a checkpoint, and end")
    parser.add_argument("--tensorboard", action=argparse.BooleanOptionalAction, help="default: where it is installed")


def run(args: argparse.Namespace) -> int:
    """Trains, saves and prints the report."""
    values = read_yaml(args.config)
    for text in args.set:
        _put(values, text)
    config, training = parse_config(values, args.config)
    report = train_codec(
        config,
        args.data[0] if len(args.data) == 1 else args.data,
        args.out,
        training=training,
        valid=args.valid[0] if args.valid and len(args.valid) == 1 else args.valid,
        init=args.init,
        name=args.name,
        resume=args.resume,
        device=args.device,
        memory_bytes=args.memory,
        num_workers=args.num_workers,
        max_seconds=60 * args.max_minutes if args.max_minutes else None,
        tensorboard=args.tensorboard,
        progress=wants_bars(args),
    )
    if os.environ.get("RANK", "0") != "0":
        return Exit.OK  # under `accelerate launch` the first process speaks for all
    if args.json:
        emit(report.to_dict())
    else:
        before = {name: f"{value:.3f}" for name, value in report.before.items()}
        rows = [(name, before.get(name, ""), f"{value:.3f}") for name, value in report.metrics.items()]
        print(table(("validation", "first", "last"), rows))
    for reason in report.failed:
        say(f"left out {reason}")
    if not args.quiet:
        say(
            f"saved {report.folder}: step {report.steps}, {report.items} items, {report.items_failed} left out, "
            f"{report.hours:.3g} h, {report.seconds:.1f} s, {report.throughput:g} s of audio per second"
        )
        if report.steps <= training.quantize_from:
            say(f"its codebooks have not been trained: training.quantize_from is {training.quantize_from}")
    return Exit.SOME_FAILED if report.items_failed else Exit.OK


def _put(values: dict[str, Any], text: str) -> None:
    """Puts "training.steps=100" into a configuration.

    Example:
        >>> values = {"training": {"steps": 5, "seed": 1}}
        >>> _put(values, "training.steps=100")
        >>> values
        {'training': {'steps': 100, 'seed': 1}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set wants KEY=VALUE, not {text!r}")
    *groups, last = key.split(".")
    for group in groups:
        if values.get(group) is None:  # which is what "training:" with nothing below it is
            values[group] = {}
        values = values[group]
        if not isinstance(values, dict):
            raise InputError(f"--set {text}: {group} is no group of keys, but {values!r}")
    values[last] = parse_yaml(f"value: {value}", text)["value"]
