#!/usr/bin/env python3
"""Peak memory and CPU time of an hour of audio through the architectures of published codecs (random weights).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/codec_memory.py encodec-24khz --minutes 60
    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/codec_memory.py dac-44khz --minutes 60 --half encode

Prints what the process held before the audio came, and at its peak: weights are in the first, audio in the second.
Decoding takes the codes of the first minute over and over, so that it can be measured without encoding.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import resource
import time
from pathlib import Path

import torch

import audiotok
from audiotok import Spec, Tokenizer, audio
from audiotok.backends.dac import DAC
from audiotok.backends.encodec import EnCodec
from audiotok.nn.seanet import SeanetConfig

CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"


def encodec_24khz() -> Tokenizer:
    spec = Spec("encodec-24khz", 24000, 320, (1024,) * 32, streamable=True, nested=True, batching="mask")
    return EnCodec(spec, SeanetConfig()).use_bandwidth(6.0)


def dac_44khz() -> Tokenizer:
    spec = Spec("dac-44khz", 44100, 512, (1024,) * 9, nested=True, batching="mask")
    return DAC(
        spec,
        encoder_width=64,
        rates=(2, 4, 8, 8),
        latent=1024,
        decoder_width=1536,
        decoder_rates=(8, 8, 4, 2),
        codebook_dim=8,
    )


MODELS = {"encodec-24khz": encodec_24khz, "dac-44khz": dac_44khz}


def peak() -> float:
    """GiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--half", choices=("encode", "decode"), help="only this half")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = MODELS[args.model]()
    tokenizer.requires_grad_(False)
    rate = tokenizer.spec.sample_rate
    clips = [audio.load(path, sample_rate=rate, channels=1)[0] for path in sorted(CLIPS.glob("speech_*.flac"))]
    minute = torch.cat(clips, dim=1)[:, : 60 * rate]
    first = tokenizer.encode(minute[None])
    before, count = peak(), int(args.minutes * 60 * rate)
    print(f"{args.model}, {args.minutes:g} min, {torch.get_num_threads()} threads; {before:.2f} GiB before", flush=True)
    if args.half != "decode":
        wav = minute.repeat(1, count // minute.shape[1] + 1)[:, :count]
        started = time.process_time()
        codes = tokenizer.encode(wav[None])
        seconds = time.process_time() - started
        print(f"encode: tokens {list(codes.tokens.shape)}, {seconds:.0f} CPU s, peak {peak():.2f} GiB", flush=True)
        del wav
    if args.half != "encode":
        repeats = -(-count // minute.shape[1])
        codes = audiotok.Codes.join([first] * repeats)
        started = time.process_time()
        decoded = tokenizer.decode(codes)
        seconds = time.process_time() - started
        print(f"decode: wav {list(decoded.shape)}, {seconds:.0f} CPU s, peak {peak():.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
