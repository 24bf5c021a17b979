"""`audiotok convert`: another project's checkpoint to a folder that `audiotok.load` reads."""

import argparse
from dataclasses import fields
from typing import Any

from ..convert import READERS
from ..convert import convert as read
from ..ssl.logmel import LogMel
from .exits import Exit
from .options import Commands, command, empty_folder, positive
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

            families: {", ".join(sorted(READERS))}
              ssl-kmeans      SOURCE is the folder of a WavLM, HuBERT or wav2vec 2.0 as transformers stores it; the
                              k-means files come with --kmeans, a unit HiFi-GAN with --vocoder
              logmel-kmeans   SOURCE holds k-means centres over log-mel frames: .npy, .npz, .safetensors, a torch
                              checkpoint, or a k-means of scikit-learn saved with joblib or pickle
        """,
        examples="""
            audiotok convert ssl-kmeans hubert-base-ls960/ ./units --kmeans 6=km100/km.bin
            audiotok convert ssl-kmeans wavlm-large/ ./dwavlm --kmeans 7=L7.pt 23=L23.pt --vocoder hifigan-wavlm/
            audiotok convert logmel-kmeans kmeans.joblib ./my-tok
            audiotok convert logmel-kmeans centres.npy ./my-tok --n-mels 64 --hop-length 160 --n-fft 400
        """,
    )
    parser.add_argument("family", metavar="FAMILY", help="what SOURCE is, see above")
    parser.add_argument("source", metavar="SOURCE", help="file or folder, as published")
    parser.add_argument("out", metavar="OUT", help="folder for the tokenizer, new or empty")
    parser.add_argument("--force", action="store_true", help="replace the tokenizer in OUT")
    parser.add_argument("--name", default="", help="of the tokenizer")
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


def run(args: argparse.Namespace) -> int:
    """Converts and saves."""
    folder = empty_folder(args.out, args.force)
    given: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(LogMel)}
    given = {name: value for name, value in given.items() if value is not None}
    tokenizer = read(
        args.family,
        args.source,
        name=args.name,
        mel=LogMel(**given) if given else None,
        kmeans=dict(args.kmeans) if args.kmeans else None,
        vocoder=args.vocoder,
        normalize=args.normalize,
    )
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
        say(f"saved {spec.name} to {folder}: {spec.num_codebooks} x {spec.codebook_sizes[0]}, {spec.frame_rate:g} Hz")
    return Exit.OK
