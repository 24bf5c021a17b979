#!/usr/bin/env python3
"""Peak memory and CPU time of tokenizing long speech with the architecture of WavLM-large (random weights).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/ssl_memory.py --minutes 60 --layers 3 7 12 18 23

Prints what the process held before the audio came, and at its peak: weights are in the first, the waveform in
the second.
"""

import argparse
import resource
import time
from pathlib import Path

import torch

from audiotok import Spec, audio
from audiotok.ssl.encoder import SSLEncoder
from audiotok.ssl.encoder_config import SSLConfig
from audiotok.ssl.tokenizer import SSLKMeans

CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"
WAVLM_LARGE = SSLConfig(
    "wavlm", 24, 1024, 16, 4096, conv_bias=True, group_norm=False, pre_norm=True, normalize=True, num_buckets=320
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 7, 12, 18, 23])
    args = parser.parse_args()
    torch.manual_seed(0)
    encoder = SSLEncoder(WAVLM_LARGE, args.layers)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_uniform_(parameter)
    spec = Spec("wavlm-large", 16000, 320, (1000,) * len(args.layers), decodable=False, batching="mask")
    tables = [torch.randn(1000, WAVLM_LARGE.hidden_size) for _ in args.layers]
    tokenizer = SSLKMeans.of(spec, encoder, tables)
    del encoder, tables
    wav = torch.cat([audio.load(path)[0] for path in sorted(CLIPS.glob("speech_*.flac"))], dim=1)
    tokenizer.encode(wav[:, :160000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = int(args.minutes * 60 * 16000)
    wav = wav.repeat(1, count // wav.shape[1] + 1)[:, :count]
    started = time.process_time()
    codes = tokenizer.encode(wav)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.minutes:g} min, layers {args.layers}: tokens {list(codes.tokens.shape)}, {seconds:.0f} CPU s")
    print(f"{before:.2f} GiB before, {peak:.2f} GiB at the peak, of which the waveform {count * 4 / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
