#!/usr/bin/env python3
"""Codecs: audiotok against transformers and against the original packages, in one process, with the same weights.

    OMP_WAIT_POLICY=passive python benchmarks/codecs.py                              # against transformers
    OMP_WAIT_POLICY=passive python benchmarks/codecs.py --seconds 60 --only encodec-24khz mimi
    # against encodec, dac, snac and speechtokenizer, in the environment that `make check-slow` builds:
    .venv-native/bin/python -m pip install --no-deps -e .
    OMP_WAIT_POLICY=passive .venv-native/bin/python benchmarks/codecs.py --peers native

Networks of the published sizes with random weights (they cost what real ones cost), saved by the peer and read by
`audiotok.convert`; real speech. The two sides take turns, one file at a time, each keeps its best turn. Cost is process
CPU time of all threads, which other jobs on the machine disturb less than the clock does. `differ`: codes that are not
the peer's; `audio`: largest difference of what both decode from the same codes.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as work

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import torch
from torch import Tensor

import audiotok
from audiotok import audio

CLIPS = Path(__file__).parents[1] / "tests" / "data" / "audio"


@dataclass(frozen=True)
class Peer:
    """One network of a peer, and the same in audiotok.

    encode gives what decode takes; codes turns it into tokens [B, K, F].
    """

    tokenizer: audiotok.Tokenizer
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    codes: Callable[[Any], Tensor]


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Frozen, with codebooks that are not all zeros."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith(("codebook.embed", "embed_sum", "_codebook.embed")):
            value.normal_(generator=generator)
        if name.endswith("cluster_usage"):
            value.fill_(1.0)
    return model.eval().requires_grad_(False)


# ---- transformers ----------------------------------------------------------------------------------


def transformers_encodec(**sizes: Any) -> Callable[[Path], Peer]:
    def make(folder: Path) -> Peer:
        from transformers import EncodecConfig, EncodecModel

        model = drawn(EncodecModel(EncodecConfig(**sizes)))
        model.save_pretrained(folder)
        tokenizer = audiotok.convert("encodec", folder).use_bandwidth(6.0 if not sizes else 2.2)
        return Peer(
            tokenizer,
            lambda wav: model.encode(wav, bandwidth=6.0 if not sizes else 2.2),
            lambda found: model.decode(found.audio_codes, found.audio_scales).audio_values,
            lambda found: found.audio_codes[0],
        )

    return make


def transformers_dac(rate: int, ratios: list[int], codebooks: int) -> Callable[[Path], Peer]:
    def make(folder: Path) -> Peer:
        from transformers import DacConfig, DacModel

        config = DacConfig(
            sampling_rate=rate, downsampling_ratios=ratios, upsampling_ratios=ratios[::-1], n_codebooks=codebooks
        )
        model = drawn(DacModel(config))
        model.save_pretrained(folder)
        return Peer(
            audiotok.convert("dac", folder),
            model.encode,
            lambda found: model.decode(audio_codes=found.audio_codes).audio_values[:, None],
            lambda found: found.audio_codes,
        )

    return make


def transformers_mimi(folder: Path) -> Peer:
    from transformers import MimiConfig, MimiModel

    model = drawn(MimiModel(MimiConfig()))
    model.save_pretrained(folder)
    return Peer(
        audiotok.convert("mimi", folder).use_codebooks(8),
        lambda wav: model.encode(wav, num_quantizers=8),
        lambda found: model.decode(found.audio_codes).audio_values,
        lambda found: found.audio_codes,
    )


TRANSFORMERS: dict[str, Callable[[Path], Peer]] = {
    "encodec-24khz": transformers_encodec(),
    "encodec-32khz": transformers_encodec(
        sampling_rate=32000,
        upsampling_ratios=[8, 5, 4, 4],
        num_filters=64,
        codebook_size=2048,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
    ),
    "dac-16khz": transformers_dac(16000, [2, 4, 5, 8], 12),
    "dac-24khz": transformers_dac(24000, [2, 4, 5, 8], 32),
    "dac-44khz": transformers_dac(44100, [2, 4, 8, 8], 9),
    "mimi": transformers_mimi,
}

# ---- the original packages -------------------------------------------------------------------------


def native_encodec(name: str, bandwidth: float) -> Callable[[Path], Peer]:
    def make(folder: Path) -> Peer:
        import encodec

        model = drawn(getattr(encodec.EncodecModel, f"encodec_model_{name}")(pretrained=False))
        model.set_target_bandwidth(bandwidth)
        torch.save(model.state_dict(), folder / f"encodec_{name}-00000000.th")
        return Peer(
            audiotok.convert("encodec", folder).use_bandwidth(bandwidth),
            model.encode,
            model.decode,
            lambda found: torch.cat([codes for codes, _ in found], 2),
        )

    return make


def native_dac(**sizes: Any) -> Callable[[Path], Peer]:
    def make(folder: Path) -> Peer:
        import dac

        model = drawn(dac.DAC(**sizes))
        torch.save({"state_dict": model.state_dict(), "metadata": {"kwargs": sizes}}, folder / "weights.pth")
        return Peer(
            audiotok.convert("dac", folder),
            lambda wav: model.encode(model.preprocess(wav, sizes["sample_rate"])),
            lambda found: model.decode(model.quantizer.from_codes(found[1])[0]),
            lambda found: found[1],
        )

    return make


def native_snac(sizes: dict[str, Any]) -> Callable[[Path], Peer]:
    def make(folder: Path) -> Peer:
        import snac

        model = drawn(snac.SNAC(**sizes))
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(sizes))
        tokenizer = audiotok.convert("snac", folder)
        strides = sizes["vq_strides"]

        def packed(found: list[Tensor]) -> Tensor:
            rows = []
            for codes, stride in zip(found, strides, strict=True):
                share = strides[0] // stride
                rows += [codes[:, i::share] for i in range(share)]
            return torch.stack(rows, 1)

        return Peer(tokenizer, model.encode, model.decode, packed)

    return make


def native_speechtokenizer(folder: Path) -> Peer:
    from speechtokenizer import SpeechTokenizer

    config = {
        "sample_rate": 16000,
        "n_filters": 64,
        "strides": [8, 5, 4, 2],
        "dimension": 1024,
        "semantic_dimension": 768,
        "bidirectional": True,
        "dilation_base": 2,
        "residual_kernel_size": 3,
        "n_residual_layers": 1,
        "lstm_layers": 2,
        "activation": "ELU",
        "codebook_size": 1024,
        "n_q": 8,
    }
    model = drawn(SpeechTokenizer(config))
    torch.save(model.state_dict(), folder / "SpeechTokenizer.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return Peer(
        audiotok.convert("speechtokenizer", folder),
        model.encode,
        model.decode,
        lambda found: found.transpose(0, 1),
    )


_DAC = {"encoder_dim": 64, "decoder_dim": 1536, "codebook_size": 1024, "codebook_dim": 8}
NATIVE: dict[str, Callable[[Path], Peer]] = {
    "encodec-24khz": native_encodec("24khz", 6.0),
    "encodec-48khz": native_encodec("48khz", 6.0),
    "dac-16khz": native_dac(
        sample_rate=16000, encoder_rates=[2, 4, 5, 8], decoder_rates=[8, 5, 4, 2], n_codebooks=12, **_DAC
    ),
    "dac-44khz": native_dac(
        sample_rate=44100, encoder_rates=[2, 4, 8, 8], decoder_rates=[8, 8, 4, 2], n_codebooks=9, **_DAC
    ),
    "snac-24khz": native_snac(
        {
            "sampling_rate": 24000,
            "encoder_dim": 48,
            "encoder_rates": [2, 4, 8, 8],
            "decoder_dim": 1024,
            "decoder_rates": [8, 8, 4, 2],
            "attn_window_size": None,
            "codebook_size": 4096,
            "codebook_dim": 8,
            "vq_strides": [4, 2, 1],
            "noise": False,
            "depthwise": True,
        }
    ),
    "snac-32khz": native_snac(
        {
            "sampling_rate": 32000,
            "encoder_dim": 64,
            "encoder_rates": [2, 3, 8, 8],
            "decoder_dim": 1536,
            "decoder_rates": [8, 8, 3, 2],
            "attn_window_size": 32,
            "codebook_size": 4096,
            "codebook_dim": 8,
            "vq_strides": [8, 4, 2, 1],
            "noise": False,
            "depthwise": True,
        }
    ),
    "speechtokenizer": native_speechtokenizer,
}


def speech(spec: audiotok.Spec, seconds: float) -> Tensor:
    """wav [1, C, T] of real speech, a whole number of frames."""
    clips = sorted(CLIPS.glob("speech_*.flac"))
    track = torch.cat([audio.load(path, sample_rate=spec.sample_rate, channels=1)[0] for path in clips], 1)
    size = int(seconds * spec.sample_rate) // spec.hop_length * spec.hop_length
    return track.repeat(spec.channels, size // track.shape[1] + 1)[None, :, :size]


@torch.no_grad()
def compare(name: str, peer: Peer, seconds: float, turns: int) -> str:
    """One row of the table."""
    wav = speech(peer.tokenizer.spec, seconds)
    theirs, ours = peer.encode(wav), peer.tokenizer.encode(wav)
    differ = int((peer.codes(theirs) != ours.tokens).sum())
    audio_theirs, audio_ours = peer.decode(theirs), peer.tokenizer.decode(ours)
    size = min(audio_theirs.shape[-1], audio_ours.shape[-1])
    error = float((audio_theirs[..., :size] - audio_ours[..., :size]).abs().max())
    ways: tuple[Callable[[], object], ...] = (
        lambda: peer.encode(wav),
        lambda: peer.tokenizer.encode(wav),
        lambda: peer.decode(theirs),
        lambda: peer.tokenizer.decode(ours),
    )
    best = [float("inf")] * len(ways)
    for _ in range(turns):
        for i, way in enumerate(ways):
            started = time.process_time()
            way()
            best[i] = min(best[i], time.process_time() - started)
    cells = [f"{best[0]:.2f}", f"{best[1]:.2f}", f"**{best[0] / best[1]:.2f}**"]
    cells += [f"{best[2]:.2f}", f"{best[3]:.2f}", f"**{best[2] / best[3]:.2f}**"]
    return f"| {name} | {' | '.join(cells)} | {differ} of {ours.tokens.numel()} | {error:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", choices=("transformers", "native"), default="transformers")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    args = parser.parse_args()
    peers = TRANSFORMERS if args.peers == "transformers" else NATIVE
    print(f"{args.seconds:g} s of speech, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.peers}\n")
    print("| | encode, peer CPU s | audiotok | ratio | decode, peer CPU s | audiotok | ratio | differ | audio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    for name in args.only or peers:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            peer = peers[name](Path(folder))
            print(compare(name, peer, args.seconds, args.turns), flush=True)


if __name__ == "__main__":
    main()
