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
from ..evaluate.metric_base import Example, MetricError
from ..evaluate.spectral_metrics import mel_distance
from ..spec import Spec
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
            and both spectrograms (of at most {MAX_CLIPS} clips and their first {MAX_SECONDS:g} s). Where the first
            codebooks decode alone, NAME-decoded-K.wav is what K of them give.

            The table: the mel distance is how far the spectrum of what is decoded lies from the original's, averaged
            over seven resolutions, in decades (0 is equal); STOI is the intelligibility of the decoded speech, 0 to 1
            (Taal et al. 2011; only when pystoi is installed); encode and decode are seconds of audio per second of
            computing. A second table has the means over all clips for fewer codebooks.
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
    fewer: dict[int, Tensor]  # the same of only so many codebooks
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
            **self._quality(self.codes.spec, self.decoded),
            "encode": self.seconds / self.encode_seconds,
            "decode": self.seconds / self.decode_seconds,
            "fewer": [self._quality(self.codes.spec.truncate(count), decoded) for count, decoded in self.fewer.items()],
        }

    def _quality(self, spec: Spec, decoded: Tensor) -> dict[str, Any]:
        return {
            "codebooks": spec.num_codebooks,
            "kbps": spec.bitrate_bps / 1000,
            "mel_distance": _mel_distance(self.wav, decoded, spec.sample_rate),
            "stoi": stoi(self.wav, decoded, spec.sample_rate),
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
        for suffix, decoded in {"": clip.decoded, **{f"-{count}": wav for count, wav in clip.fewer.items()}}.items():
            audio.save(out / f"{name}-decoded{suffix}.wav", decoded, tokenizer.spec.sample_rate)
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
        if clips[0].fewer:
            print("\n" + _fewer(facts))
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
    seconds = encoded - started, time.perf_counter() - encoded
    fewer = {count: tokenizer.decode(codes.truncate(count))[0].cpu() for count in _counts(codes.spec)}
    return _Clip(name, wav, decoded, fewer, codes, *seconds)


def _counts(spec: Spec) -> list[int]:
    """Codebooks that make half, a quarter and an eighth of the bit rate, where the first ones decode alone."""
    counts = {spec.codebooks_for(spec.bitrate_bps / 1000 / part) for part in (2, 4, 8)} if spec.nested else set()
    return sorted(counts - {spec.num_codebooks}, reverse=True)


def _mel_distance(wav: Tensor, decoded: Tensor, sample_rate: int) -> float | None:
    """Of [C, T], mixed to mono; None when they are too short."""
    try:
        return mel_distance(Example(wav.mean(0), decoded.mean(0), sample_rate))
    except MetricError:
        return None


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
    names = _judged(facts)
    header = ["clip", "seconds", "tokens [B, K, F]", "kbit/s", *names.values(), "encode", "decode"]
    rows = [
        [
            fact["clip"],
            f"{fact['seconds']:.2f}",
            str(fact["tokens"]),
            f"{fact['kbps']:.4g}",
            *(_number(fact[name]) for name in names),
            f"{fact['encode']:.0f}x",
            f"{fact['decode']:.1f}x",
        ]
        for fact in facts
    ]
    return table(header, rows)


def _fewer(facts: list[dict[str, Any]]) -> str:
    """Means over the clips, by number of codebooks."""
    names = _judged(facts)
    rows = []
    for line in zip(*([fact, *fact["fewer"]] for fact in facts), strict=True):
        means = [_number(_mean([one[name] for one in line])) for name in names]
        rows.append([str(line[0]["codebooks"]), f"{line[0]['kbps']:.4g}", *means])
    return table(["codebooks", "kbit/s", *names.values()], rows)


def _judged(facts: list[dict[str, Any]]) -> dict[str, str]:
    """Measures that any clip has, and their names in the tables."""
    names = {"mel_distance": "mel distance", "stoi": "STOI"}
    return {name: label for name, label in names.items() if any(fact[name] is not None for fact in facts)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
