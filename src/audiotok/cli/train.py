"""`audiotok train`: a codec of one's own audio, or a vocoder for one's own tokens."""

import argparse
import os

import torch

from ..hub import DEFAULT, load
from ..train import VocoderTraining, train_vocoder
from .exits import Exit
from .options import Commands, command, positive, seconds
from .output import emit, say, table, wants_bars
from .train_codec import add_codec

_DEFAULTS = VocoderTraining()


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train", help="train a codec, or a vocoder for your own tokens"
    )
    kinds = parser.add_subparsers(metavar="WHAT", title="what to train", required=True)
    add_codec(kinds)
    _add_vocoder(kinds)


def _add_vocoder(commands: Commands) -> None:
    parser = command(
        commands,
        "vocoder",
        run,
        summary="tokens of any subset of layers back to speech",
        text="""
            Trains a vocoder that decodes the tokens of a tokenizer, and of any subset of its codebooks ("layers"): each
            step draws how many layers it gets, and which. Files are tokenized once, whole. A training that was stopped
            goes on from its last checkpoint in OUT; --steps is the total. Needs accelerate; on several GPUs run it as
            `accelerate launch -m audiotok train vocoder ...`.
        """,
        examples="""
            audiotok train vocoder corpus --model ./my-ssl-tokenizer --out ./my-vocoder
            audiotok train vocoder corpus --model ./my-tok --size small --precision bf16 --out ./my-vocoder
            audiotok train vocoder tests/data/audio --size tiny --embedding centroids --steps 300 \\
                --learning-rate 0.001 --batch-size 4 --save-every 100 --device cpu --out ./tiny-vocoder
        """,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="audio file, or folder with all its subfolders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the vocoder, its log and checkpoints")
    parser.add_argument(
        "--model", default=DEFAULT, metavar="NAME", help=f"tokenizer: name or folder; default {DEFAULT}"
    )
    parser.add_argument("--num-codebooks", type=positive, metavar="N", help="only the first N codebooks")
    parser.add_argument("--layers", type=_numbers, metavar="N,N,...", help="the layers' own numbers; default 0,1,...")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from a checkpoint (default)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="default auto: a GPU if there is one")
    group = parser.add_argument_group("training")

    def option(name: str, kind: object, text: str, **more: object) -> None:
        default = getattr(_DEFAULTS, name)
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=kind, default=default, help=f"{text}; default {default}", **more)  # type: ignore[arg-type]

    option("steps", positive, "in all", metavar="N")
    option("size", str, "of the networks", choices=("published", "small", "tiny"))
    option("embedding", str, "where the vectors of the tokens begin", choices=("random", "centroids"))
    option("batch_size", positive, "segments per step and process", metavar="N")
    option("segment_seconds", seconds, "of a segment", metavar="S")
    option("min_layers", positive, "fewest layers drawn for a step", metavar="N")
    option("learning_rate", seconds, "of both sides", metavar="X")
    option("adversarial", str, "loss of the discriminators", choices=("lsgan", "hinge"))
    option("adversarial_from", int, "first step with discriminators", metavar="N")
    option("precision", str, "of the arithmetic", choices=("no", "bf16", "fp16"))
    option("save_every", positive, "steps between checkpoints", metavar="N")
    option("log_every", positive, "steps between lines of log.jsonl", metavar="N")
    option("seed", int, "of weights, segments and layers", metavar="N")


def run(args: argparse.Namespace) -> int:
    """Trains, saves and prints the report."""
    device = "cpu"
    if args.device == "auto" and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    report = train_vocoder(
        load(args.model, device=device, num_codebooks=args.num_codebooks),
        args.sources,
        args.out,
        training=VocoderTraining(**{name: getattr(args, name) for name in vars(_DEFAULTS) if name in args}),
        layers=args.layers,
        resume=args.resume,
        device=args.device,
        progress=wants_bars(args),
    )
    if os.environ.get("RANK", "0") != "0":
        return Exit.OK  # under `accelerate launch` the first process speaks for all
    if args.json:
        emit(report.to_dict())
    else:
        print(table(("layers", "log-mel difference"), [(k, f"{v:.3f}") for k, v in report.mel_by_layers.items()]))
    if not args.quiet:
        say(
            f"saved {report.folder}: step {report.steps}, {report.files - report.files_failed} files, "
            f"{report.hours:.3g} h, log-mel difference {report.mel_before:.3f} -> {report.mel_after:.3f} on "
            f"{report.files_held_out or 'no'} held-out files, {report.seconds:.1f} s"
        )
    return Exit.SOME_FAILED if report.files_failed else Exit.OK


def _numbers(text: str) -> list[int]:
    """Whole numbers with commas between.

    Example:
        >>> _numbers("3,7,12")
        [3, 7, 12]
    """
    if not all(part.isascii() and part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"wanted numbers like 3,7,12, not {text!r}")
    return [int(part) for part in text.split(",")]
