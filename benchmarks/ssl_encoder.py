#!/usr/bin/env python3
"""Discrete WavLM: the encoder of audiotok against SpeechBrain's way and transformers, in one process.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/ssl_encoder.py            # about 6 minutes on one core
    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/ssl_encoder.py --quick    # three short utterances

WavLM-large with random weights (the cost is that of real ones), eight utterances of real speech of 2.3 to 15.6 s,
codes of layer 7 and of the layers 3, 7, 12, 18, 23 ("l5"), 1000 centroids per layer drawn from frames of other speech.
The ways take turns and each keeps its best turn. Cost is process CPU time, user and system, which other jobs on the
machine disturb less than the clock does; GF/s counts what the utterances need, padding and unused layers not; "of
sgemm" is its share of what torch's float32 matrix product reaches here (audiotok calls oneDNN's instead, which is
faster where MKL keeps to AVX2). Shares of changed codes rank the ways; they depend on the weights.

"SpeechBrain's way" is what its DiscreteSSL does: the batch padded, the waveform normalised over the padding, a mask,
all 24 layers, all hidden states stacked, scikit-learn's predict for each layer. (This file cannot be named ssl.py: it
would hide Python's own module.)
"""

import os

for name, value in {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)  # spinning threads would count as work

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional

from audiotok import audio
from audiotok.quantize.nearest import SearchTable, nearest
from audiotok.ssl.encoder import SSLEncoder
from audiotok.ssl.encoder_config import SSLConfig
from audiotok.ssl.encoder_weights import encoder_state

SECONDS = (2.3, 3.7, 5.1, 6.6, 8.2, 9.9, 12.7, 15.6)
SETS = {"layer 7": (7,), "l5": (3, 7, 12, 18, 23)}
CENTROIDS = 1000
CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"
Codes = dict[int, Tensor]  # layer -> codes of all utterances, one after the other


def wavlm_large() -> torch.nn.Module:
    """Weights drawn so that attention and its gates matter, as they do in a trained network."""
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    model = transformers.WavLMModel(config).eval().requires_grad_(False)
    model.encoder.layers[0].attention.rel_attn_embed.weight.normal_(0, 0.5)
    for layer in model.encoder.layers:
        layer.attention.gru_rel_pos_linear.weight.normal_(0, 0.1)
        layer.attention.q_proj.weight.mul_(2)
        layer.attention.k_proj.weight.mul_(2)
    return model


def speech(seconds: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
    """Utterances of these lengths, cut from the clips laid end to end, and 24 s that are in none of them."""
    clips = [audio.load(path, sample_rate=16000, channels=1)[0][0] for path in sorted(CLIPS.glob("speech_*.flac"))]
    track = torch.cat(clips)
    utterances, at = [], 24 * 16000
    for size in (int(16000 * length) for length in seconds):
        at = at if at + size <= len(track) else 24 * 16000  # the clips are 70 s: the last ones overlap the first
        utterances.append(track[at : at + size])
        at += size
    return utterances, track[: 24 * 16000]


def flops(config: SSLConfig, samples: int, layers: int) -> float:
    """Two per multiplication of one utterance, up to a layer."""
    size, channels, total = samples, 1, 0
    for kernel, stride, width in zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True):
        size = (size - kernel) // stride + 1
        total += size * width * channels * kernel
        channels = width
    hidden = config.hidden_size
    position = hidden * hidden // config.position_groups * config.position_kernel
    block = 4 * hidden * hidden + 2 * hidden * config.intermediate_size + 2 * size * hidden
    return 2.0 * (total + size * (channels * hidden + position) + layers * size * block)


def sgemm_rate() -> float:
    """GF/s of this machine in a float32 product of 2048 x 2048 x 2048, the best of five."""
    a, best = torch.randn(2048, 2048), 0.0
    for _ in range(5):
        started = time.process_time()
        a @ a
        best = max(best, 2 * 2048**3 / (time.process_time() - started) / 1e9)
    return best


class Bench:
    """The ways, each giving codes of a set of layers."""

    def __init__(self, utterances: list[Tensor], other: Tensor) -> None:
        self.utterances = utterances
        self.model = wavlm_large()
        self.config = SSLConfig.from_transformers(self.model.config.to_dict(), normalize=True)
        self.encoders = {layers: self.encoder(layers) for layers in SETS.values()}
        every = self.encoders[SETS["l5"]](other[None])
        draw = torch.randperm(len(every[7][0]), generator=torch.Generator().manual_seed(0))[:CENTROIDS]
        centroids = {layer: states[0][draw] for layer, states in every.items()}
        self.tables = {layer: SearchTable.of(rows) for layer, rows in centroids.items()}
        self.sklearn = {}
        for layer, rows in centroids.items():
            start = rows.numpy()
            fitted = MiniBatchKMeans(len(start), init=start, n_init=1, max_iter=1, batch_size=1024).fit(start)
            fitted.cluster_centers_ = start.copy()
            self.sklearn[layer] = fitted

    def encoder(self, layers: tuple[int, ...]) -> SSLEncoder:
        encoder = SSLEncoder(self.config, layers)
        encoder.load_state_dict(encoder_state(self.model.state_dict(), self.config, layers))
        return encoder

    def frames(self) -> list[int]:
        return [self.config.num_frames(len(wav)) for wav in self.utterances]

    def padded(self) -> tuple[Tensor, Tensor]:
        wav = torch.nn.utils.rnn.pad_sequence(self.utterances, batch_first=True)
        return wav, torch.tensor([len(row) for row in self.utterances])

    @torch.no_grad()
    def speechbrain(self, layers: tuple[int, ...]) -> Codes:
        wav, lengths = self.padded()
        mask = torch.arange(wav.shape[1]) < lengths[:, None]
        wav = functional.layer_norm(wav, wav.shape[1:])
        states = self.model(wav, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        stacked = torch.stack(states)
        found = {}
        for layer in layers:
            codes = torch.from_numpy(self.sklearn[layer].predict(stacked[layer].flatten(0, 1).numpy())).long()
            rows = codes.view(len(wav), -1)
            found[layer] = torch.cat([row[:count] for row, count in zip(rows, self.frames(), strict=True)])
        return found

    @torch.no_grad()
    def transformers(self, layers: tuple[int, ...]) -> Codes:
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for wav in self.utterances:
            row = functional.layer_norm(wav, wav.shape)[None]
            states = self.model(row, output_hidden_states=True).hidden_states
            for layer in layers:
                found[layer].append(nearest(states[layer][0], self.tables[layer]))
        return {layer: torch.cat(codes) for layer, codes in found.items()}

    def cut_transformers(self, layers: tuple[int, ...]) -> Codes:
        blocks, norm = self.model.encoder.layers, self.model.encoder.layer_norm
        self.model.encoder.layers = blocks[: max(layers)]
        try:
            return self.transformers(layers)
        finally:
            self.model.encoder.layers, self.model.encoder.layer_norm = blocks, norm

    def ours(self, layers: tuple[int, ...], encoder: SSLEncoder | None = None) -> Codes:
        encoder = encoder or self.encoders[layers]
        found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for wav in self.utterances:
            for layer, states in encoder(wav[None]).items():
                found[layer].append(nearest(states[0], self.tables[layer]))
        return {layer: torch.cat(codes) for layer, codes in found.items()}

    def ours_padded(self, layers: tuple[int, ...]) -> Codes:
        encoder = self.encoders[layers]
        encoder.row_by_row = False
        states = encoder(*self.padded())
        encoder.row_by_row = None
        return {
            layer: torch.cat(
                [nearest(row[:count], self.tables[layer]) for row, count in zip(rows, self.frames(), strict=True)]
            )
            for layer, rows in states.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short utterances")
    parser.add_argument("--turns", type=int, default=1)
    args = parser.parse_args()
    utterances, other = speech(SECONDS[:3] if args.quick else SECONDS)
    bench = Bench(utterances, other)
    half = bench.encoder(SETS["layer 7"]).to(torch.bfloat16)
    ways: dict[str, Callable[[tuple[int, ...]], Codes]] = {
        "SpeechBrain's way": bench.speechbrain,
        "transformers, one by one, 24 layers": bench.transformers,
        "transformers, one by one, cut at the top layer": bench.cut_transformers,
        "**audiotok, float32**": bench.ours,
        "audiotok, float32, padded batch": bench.ours_padded,
        "audiotok, bfloat16": lambda layers: bench.ours(layers, half),
    }
    skipped = {("l5", "transformers, one by one, cut at the top layer"), ("l5", "audiotok, float32, padded batch")}
    skipped |= {("l5", "audiotok, bfloat16")}
    jobs = [(name, way) for name in SETS for way in ways if (name, way) not in skipped]
    best = dict.fromkeys(jobs, float("inf"))
    codes: dict[tuple[str, str], Codes] = {}
    rate = sgemm_rate()
    bench.ours((7,))  # warm-up
    for _ in range(args.turns):
        for name, way in jobs:
            started = time.process_time()
            codes[name, way] = ways[way](SETS[name])
            best[name, way] = min(best[name, way], time.process_time() - started)
        rate = max(rate, sgemm_rate())
    total, threads = sum(len(wav) for wav in utterances) / 16000, torch.get_num_threads()
    print(f"{len(utterances)} utterances, {total:.1f} s, {sum(bench.frames())} frames, {threads} thread(s)")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; sgemm {rate:.1f} GF/s\n")
    print("| layers | way | CPU s | times SpeechBrain's way | GF/s | of sgemm | codes changed |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, way in jobs:
        layers, seconds = SETS[name], best[name, way]
        want = codes[name, "transformers, one by one, 24 layers"]
        changed = sum(int((codes[name, way][layer] != want[layer]).sum()) for layer in layers)
        share = changed / sum(len(rows) for rows in want.values())
        speed = sum(flops(bench.config, len(wav), max(layers)) for wav in utterances) / seconds / 1e9
        ratio = best[name, "SpeechBrain's way"] / seconds
        print(f"| {name} | {way} | {seconds:.2f} | {ratio:.2f} | {speed:.1f} | {speed / rate:.0%} | {share:.3%} |")


if __name__ == "__main__":
    main()
