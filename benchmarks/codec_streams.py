#!/usr/bin/env python3
"""What a stream takes per chunk: EnCodec 24 kHz and Mimi of the published sizes (random weights), both ways.

    OMP_WAIT_POLICY=passive python benchmarks/codec_streams.py --chunk 80

Wall-clock milliseconds per push of so many milliseconds of audio, over 20 s of real speech; the codes are compared with
those of the whole file, the audio with that of all codes at once.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import tempfile
from pathlib import Path

import torch
from codec_memory import encodec_24khz

import audiotok
from audiotok import Codes, Tokenizer, audio

CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"


def mimi() -> Tokenizer:
    """The published sizes, from a folder of transformers."""
    from transformers import MimiConfig, MimiModel

    with tempfile.TemporaryDirectory() as folder:
        model = MimiModel(MimiConfig())
        for name, value in model.state_dict().items():
            if name.endswith("embed_sum"):  # zeros: every entry would be as near as every other
                value.normal_()
        model.save_pretrained(folder)
        return audiotok.convert("mimi", folder).use_codebooks(8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk", type=float, default=80.0, help="milliseconds of audio per push")
    args = parser.parse_args()
    print(f"{args.chunk:g} ms per push, {torch.get_num_threads()} threads\n")
    print("| | encode, mean ms | slowest | codes that differ | decode, mean ms | slowest | audio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, make in {"encodec-24khz": encodec_24khz, "mimi": mimi}.items():
        torch.manual_seed(0)
        tok = make().requires_grad_(False)
        rate, hop = tok.spec.sample_rate, tok.spec.hop_length
        wav = torch.cat([audio.load(path, sample_rate=rate)[0] for path in sorted(CLIPS.glob("speech_*"))], 1)
        wav = wav[None, :, : 20 * rate]
        whole = tok.encode(wav)
        size = int(args.chunk * rate / 1000)
        with tok.stream() as stream:
            pieces = [stream.push(wav[..., at : at + size]) for at in range(0, wav.shape[2], size)]
            codes = Codes.join([*pieces, stream.flush()])
        frames = max(1, size // hop)
        with tok.decode_stream() as out:
            parts = []
            for at in range(0, whole.tokens.shape[2], frames):
                parts.append(out.push(whole.slice((at + 0.25) * hop / rate, (at + frames - 0.25) * hop / rate)))
            found = torch.cat([*parts, out.flush()], 2)
        differ = int((codes.tokens != whole.tokens).sum())
        error = float((found - tok.decode(whole)).abs().max())
        times = [
            1000 * value
            for report in (stream.report, out.report)
            for value in (report.latency_seconds, report.slowest_seconds)
        ]
        print(
            f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {differ} of {whole.tokens.numel()} | {times[2]:.1f} | "
            f"{times[3]:.1f} | {error:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
