"""`audiotok convert`: another project's checkpoint to a folder that `audiotok.load` reads."""

import argparse
import json
import textwrap
from dataclasses import fields
from typing import Any

from ..convert import READERS
from ..convert import convert as read
from ..errors import InputError
from ..ssl.logmel import LogMel
from .exits import Exit
from .options import Commands, codebooks, command, empty_folder, positive
from .output import emit, say

_DEFAULTS = LogMel()


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "convert",
        run,
        summary="read another project's checkpoint",
        text=f"""
            Reads a checkpoint in its upstream's own format and saves it as a tokenizer of audiotok. Nothing in the file
            is run: a hostile one is refused (exit code 3).

            families:
{textwrap.indent(textwrap.fill(", ".join(sorted(READERS)), 100), " " * 14)}

              ssl-kmeans      SOURCE is the folder of a WavLM, HuBERT or wav2vec 2.0 as transformers stores it; the
                              k-means files come with --kmeans, a unit HiFi-GAN with --vocoder
              logmel-kmeans   SOURCE holds k-means centres over log-mel frames: .npy, .npz, .safetensors, a torch
                              checkpoint, or a k-means of scikit-learn saved with joblib or pickle
              the others      SOURCE is the folder or file as its authors publish it: docs/tokenizers has a page for
                              each, with the facts that the format does not hold, which --option gives
        """,
        examples="""
            audiotok convert ssl-kmeans hubert-base-ls960/ ./units --kmeans 6=km100/km.bin
            audiotok convert ssl-kmeans wavlm-large/ ./dwavlm --kmeans 7=L7.pt 23=L23.pt --vocoder hifigan-wavlm/
            audiotok convert dac weights_44khz_16kbps.pth ./dac-44khz-16kbps
            audiotok convert hificodec HiFi-Codec-24k-320d ./hificodec --option sample_rate=24000
            audiotok convert logmel-kmeans kmeans.joblib ./my-tok
            audiotok convert logmel-kmeans centres.npy ./my-tok --n-mels 64 --hop-length 160 --n-fft 400
        """,
    )
    parser.add_argument("family", metavar="FAMILY", help="what SOURCE is, see above")
    parser.add_argument("source", metavar="SOURCE", help="file or folder, as published")
    parser.add_argument("out", metavar="OUT", help="folder for the tokenizer, new or empty")
    parser.add_argument("--force", action="store_true", help="replace the tokenizer in OUT")
    parser.add_argument("--name", default="", help="of the tokenizer")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="a fact that the format does not hold, as the family's page names it; VALUE is JSON, or else text. "
        "Can be given several times",
    )
    units = parser.add_argument_group("ssl-kmeans")
    units.add_argument("--kmeans", nargs="+", type=_layer_file, metavar="LAYER=FILE", help="k-means of each layer")
    units.add_argument("--vocoder", metavar="DIR", help="unit HiFi-GAN that decodes these layers")
    units.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="the waveform; default as the encoder says"
    )
    group = parser.add_argument_group("log-mel features that the centres were fitted on")
    for name, kind, what in (
        ("sample_rate", positive, "Hz"),
        ("n_fft", positive, "window in samples"),
        ("hop_length", positive, "samples per frame"),
        ("n_mels", positive, "bands"),
        ("f_min", float, "Hz"),
        ("f_max", float, "Hz; 0 is half the sample rate"),
        ("floor", float, "smallest magnitude"),
    ):
        default = getattr(_DEFAULTS, name)
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"{what}; default {default:g}")


def _layer_file(text: str) -> tuple[int, str]:
    """ "7=file" as (7, "file")."""
    layer, separator, file = text.partition("=")
    if not separator or not layer.isdigit() or not file:
        raise argparse.ArgumentTypeError(f"wanted LAYER=FILE, such as 7=km.bin, not {text!r}")
    return int(layer), file


def _option(text: str) -> tuple[str, Any]:
    """ "levels=9" as ("levels", 9), "config=a.yaml" as ("config", "a.yaml")."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, such as levels=9, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def run(args: argparse.Namespace) -> int:
    """Converts and saves."""
    folder = empty_folder(args.out, args.force)
    tokenizer = read(args.family, args.source, name=args.name, **_options(args))
    tokenizer.save(folder)
    if args.json:
        emit(
            {
                "output": str(folder),
                "name": tokenizer.spec.name,
                "fingerprint": tokenizer.fingerprint,
                "spec": tokenizer.spec.to_dict(),
                "provenance": tokenizer.provenance,
            }
        )
    if not args.quiet:
        spec = tokenizer.spec
        say(f"saved {spec.name} to {folder}: {codebooks(spec)}, {spec.frame_rate:g} Hz")
    return Exit.OK


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The reader's options, from those with a flag of their own and from --option.

    Raises:
        InputError: an option that is given twice, is no option but an argument, or is of another family.
    """
    mel = {field.name: getattr(args, field.name) for field in fields(LogMel)}
    mel = {name: value for name, value in mel.items() if value is not None}
    if mel and args.family in READERS.keys() - {"logmel-kmeans"}:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in mel)
        raise InputError(f"{flags} is of logmel-kmeans: facts of other families are given with --option NAME=VALUE")
    options: dict[str, Any] = {"kmeans": dict(args.kmeans) if args.kmeans else None, "vocoder": args.vocoder}
    options |= {"normalize": args.normalize, "mel": LogMel(**mel) if mel else None}
    for name, value in args.option:
        if name in ("family", "source", "name", "kmeans", "mel"):
            raise InputError(f"{name} is not given with --option: it has an argument of its own, see --help")
        if options.get(name) is not None:
            raise InputError(f"{name} is given twice")
        options[name] = value
    return options
