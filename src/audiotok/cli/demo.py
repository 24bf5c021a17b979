"""`audiotok demo`: real audio to tokens and back, to look at and to listen to."""

import argparse
import importlib
import importlib.util
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import audio
from ..codes import Codes
from ..errors import InputError, UnsupportedError
from ..tokenizer import Tokenizer
from .exits import Exit
from .options import Commands, add_model_options, command, load_tokenizer
from .output import emit, failure, say, table
from .picture import MAX_CLIPS, MAX_SECONDS, Panel, draw, import_matplotlib

CLIPS = Path(__file__).parents[1] / "assets" / "clips"


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "demo",
        run,
        summary="real audio to tokens and back, to look at and to listen to",
        text=f"""
            Encodes the clips that ship with audiotok (or your own FILEs), decodes them, and writes into OUT: for each
            NAME-original.wav and NAME-decoded.wav at the tokenizer's rate, and demo.png, which shows waveform, tokens
            and both spectrograms (of at most {MAX_CLIPS} clips and their first {MAX_SECONDS:g} s).

            The table: STOI is the intelligibility of the decoded speech against the original, 0 to 1 (Taal et al. 2011;
            only when pystoi is installed); encode and decode are seconds of audio per second of computing.
        """,
        examples="""
            audiotok demo
            audiotok demo interview.mp3 --model ./my-tok --num-codebooks 2 --out low
        """,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio file or folder; default the bundled clips")
    parser.add_argument("-o", "--out", default="demo", metavar="OUT", help="folder; default demo")
    parser.add_argument("--no-picture", action="store_true", help="needs no matplotlib")
    add_model_options(parser)


@dataclass(frozen=True)
class _Clip:
    """One clip, there and back."""

    name: str
    wav: Tensor  # [C, T]
    decoded: Tensor  # [C, T]
    codes: Codes
    encode_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        return self.wav.shape[1] / self.codes.spec.sample_rate

    def facts(self) -> dict[str, Any]:
        """What is printed of it."""
        return {
            "clip": self.name,
            "seconds": self.seconds,
            "tokens": list(self.codes.tokens.shape),
            "kbps": self.codes.spec.bitrate_bps / 1000,
            "stoi": stoi(self.wav, self.decoded, self.codes.spec.sample_rate),
            "encode": self.seconds / self.encode_seconds,
            "decode": self.seconds / self.decode_seconds,
        }


def run(args: argparse.Namespace) -> int:
    """Writes the WAVs and the picture, prints the table."""
    if not args.no_picture:
        import_matplotlib()  # says so before the work when it is missing
    files = audio.find_audio(args.files or CLIPS)
    if not args.files:
        files.sort(key=lambda path: not path.stem.startswith("speech"))  # speech first
    tokenizer = load_tokenizer(args)
    if not tokenizer.spec.decodable:
        raise UnsupportedError(f"{tokenizer.spec.name} only encodes: the demo needs one that decodes")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    clips: list[_Clip] = []
    failed: list[dict[str, Any]] = []
    for path, name in zip(files, _names(files), strict=True):
        try:
            clip = _there_and_back(tokenizer, path, name, warm_up=not clips)
        except (OSError, InputError) as error:
            failed.append(failure(str(path), error))
            continue
        audio.save(out / f"{name}-original.wav", clip.wav, tokenizer.spec.sample_rate)
        audio.save(out / f"{name}-decoded.wav", clip.decoded, tokenizer.spec.sample_rate)
        clips.append(clip)
    if not clips:
        raise InputError(f"none of the {len(files)} files can be read")
    facts = [clip.facts() for clip in clips]
    picture = None if args.no_picture else out / "demo.png"
    if picture is not None:
        panels = [
            Panel(clip.name, clip.wav, clip.decoded, clip.codes, fact["stoi"])
            for clip, fact in zip(clips, facts, strict=True)
        ]
        draw(picture, panels)
    if args.json:
        where = {"folder": str(out), "picture": None if picture is None else str(picture)}
        emit({"tokenizer": tokenizer.spec.name, "clips": facts, "failed": failed} | where)
    else:
        print(_table(facts))
    if not args.quiet:
        say(f"listen to {out}/*.wav" + (f", look at {picture}" if picture else ""))
    return Exit.SOME_FAILED if failed else Exit.OK


def _there_and_back(tokenizer: Tokenizer, path: Path, name: str, *, warm_up: bool) -> _Clip:
    spec = tokenizer.spec
    wav, rate = audio.load(path, sample_rate=spec.sample_rate, channels=spec.channels)
    if warm_up:  # tables and kernels that are made once are not this clip's time
        tokenizer.decode(tokenizer.encode(wav[None, :, : rate // 2]))
    started = time.perf_counter()
    codes = tokenizer.encode(wav[None]).to("cpu")
    encoded = time.perf_counter()
    decoded = tokenizer.decode(codes)[0].cpu()
    return _Clip(name, wav, decoded, codes, encoded - started, time.perf_counter() - encoded)


def stoi(wav: Tensor, decoded: Tensor, sample_rate: int) -> float | None:
    """Short-time objective intelligibility (Taal, Hendriks, Heusdens and Jensen 2011) of [C, T], mixed to mono; None
    when pystoi is not installed or hears no speech to judge."""
    if importlib.util.find_spec("pystoi") is None or not bool(wav.any()):
        return None
    measure = importlib.import_module("pystoi").stoi
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = float(measure(wav.mean(0).numpy(), decoded.mean(0).numpy(), sample_rate))
        except (RuntimeWarning, ValueError):  # too short, or silence
            return None
    return value if math.isfinite(value) else None


def _names(files: list[Path]) -> list[str]:
    """A name for each file, no two alike: the stem, with a number where stems are the same."""
    names: list[str] = []
    for path in files:
        number, name = 1, path.stem
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    return names


def _table(facts: list[dict[str, Any]]) -> str:
    judged = any(fact["stoi"] is not None for fact in facts)
    header = ["clip", "seconds", "tokens [B, K, F]", "kbit/s", *["STOI"] * judged, "encode", "decode"]
    rows = [
        [
            fact["clip"],
            f"{fact['seconds']:.2f}",
            str(fact["tokens"]),
            f"{fact['kbps']:.4g}",
            *["-" if fact["stoi"] is None else f"{fact['stoi']:.3f}"] * judged,
            f"{fact['encode']:.0f}x",
            f"{fact['decode']:.1f}x",
        ]
        for fact in facts
    ]
    return table(header, rows)
