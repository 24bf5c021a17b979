#!/usr/bin/env python3
"""Tokenizing a dataset end to end: against the bare model, against itself, against the loops that peers document.

    python benchmarks/tokenize_dataset.py rate MANIFEST        # against encoding the same rows, already in memory
    python benchmarks/tokenize_dataset.py growth MANIFEST      # time and memory at 1, 4 and 16 times the items
    python benchmarks/tokenize_dataset.py workers MANIFEST     # two reading processes against one
    python benchmarks/tokenize_dataset.py peers MANIFEST       # transformers' models in a padded DataLoader

MANIFEST is JSONL with path and duration. Networks have published sizes and random weights, which cost what trained
ones do. Times are by the clock: run it on a quiet machine.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import audiotok
from audiotok import audio


def clips(manifest: Path, limit: int, seconds: tuple[float, float] = (0.0, 60.0)) -> list[Path]:
    """Files of a manifest, spread over it."""
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines = [line for line in lines if seconds[0] <= line["duration"] <= seconds[1]]
    step = max(1, len(lines) // limit)
    return [manifest.parent / line["path"] for line in lines[::step]][:limit]


def hours(files: list[Path]) -> float:
    return sum(audio.info(path).seconds for path in files) / 3600


def encodec(folder: Path) -> tuple[audiotok.Tokenizer, Any]:
    """transformers' EnCodec 24 kHz, and the same in audiotok."""
    from transformers import EncodecConfig, EncodecModel

    model = EncodecModel(EncodecConfig())
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("codebook.embed"):
            value.normal_(generator=generator)
    model.eval().requires_grad_(False)
    model.save_pretrained(folder)
    return audiotok.convert("encodec", folder).use_bandwidth(6.0), model


def hubert(folder: Path) -> tuple[audiotok.Tokenizer, Any]:
    """transformers' HuBERT base, and k-means over its layer 6 fitted in audiotok."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    model = HubertModel(HubertConfig()).eval().requires_grad_(False)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    speech = sorted((Path(__file__).parents[1] / "tests" / "data" / "audio").glob("speech_*.flac"))
    return audiotok.fit_kmeans(speech, features=folder, layers=[6], k=200, engine="torch", progress=False), model


MODELS = {
    "logmel-16khz": lambda _: (audiotok.load("logmel-16khz"), None),
    "encodec-24khz": encodec,
    "hubert-base-layer6": hubert,
}


def tokenized(tokenizer: audiotok.Tokenizer, files: list[Path], workers: int) -> tuple[float, Any, dict[str, Tensor]]:
    """Seconds of tokenize_dataset, its report, and the tokens by id."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        report = audiotok.tokenize_dataset(tokenizer, files, out, num_workers=workers, progress=False)
        seconds = time.perf_counter() - started
        rows = pyarrow.parquet.read_table(Path(out, "data")).to_pylist()
    return seconds, report, {row["id"]: torch.tensor(row["tokens"]).view(*row["shape"]) for row in rows}


def rate(args: argparse.Namespace) -> None:
    """The bare model encodes the same rows in the same batches, longest first."""
    print("| tokenizer | audio, h | bare model, h/h | tokenize_dataset, h/h | share | waiting |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, limit in (("logmel-16khz", 4000), ("encodec-24khz", 250), ("hubert-base-layer6", 250)):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer, _ = MODELS[name](Path(folder))
        files = clips(args.manifest, limit, (0.5, 30.0))
        spec = tokenizer.spec
        rows = [audio.load(path, sample_rate=spec.sample_rate, channels=1)[0] for path in files]
        rows.sort(key=lambda row: -row.shape[1])
        tokenizer.encode(rows[-1])
        started = time.perf_counter()
        for start in range(0, len(rows), 8):
            tokenizer.encode_rows(rows[start : start + 8])
        bare = time.perf_counter() - started
        seconds, report, _ = tokenized(tokenizer, files, 1)
        total = hours(files)
        print(
            f"| {name} | {total:.2f} | {total * 3600 / bare:.1f} | {total * 3600 / seconds:.1f} | "
            f"{bare / seconds:.1%} | {report.share_waiting:.1%} |",
            flush=True,
        )


_CHILD = """
import sys, json, resource, time, audiotok
started = time.perf_counter()
tok = audiotok.load("logmel-16khz")
report = audiotok.tokenize_dataset(tok, sys.argv[1], sys.argv[2], num_workers=1, progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
print(json.dumps([report.items, report.hours, time.perf_counter() - started, peak, worker]))
"""


def growth(args: argparse.Namespace) -> None:
    """A manifest that names the same clips again and again, under new ids."""
    files = clips(args.manifest, 1000, (0.5, 3.0))
    print("| items | audio, h | seconds | seconds per 1000 items | peak, MiB | of the reading process |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for times in args.times:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder, "items.jsonl")
            with manifest.open("w") as file:
                for turn in range(times):
                    for i, path in enumerate(files):
                        print(json.dumps({"path": str(path.absolute()), "id": f"{turn}-{i}"}), file=file)
            command = [sys.executable, "-c", _CHILD, str(manifest), str(Path(folder, "out"))]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        items, audio_hours, seconds, peak, worker = found
        per = 1000 * seconds / items
        print(f"| {items} | {audio_hours:.2f} | {seconds:.1f} | {per:.2f} | {peak:.0f} | {worker:.0f} |", flush=True)


class Lengths(audiotok.Tokenizer):
    """A tokenizer that costs nothing, so that reading is all there is: the loudness of every frame, in 256 steps."""

    family = "benchmark-loudness"

    def _features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.nn.functional.avg_pool1d(wav.abs(), 320, ceil_mode=True, count_include_pad=False)
        return frames

    def _quantize(self, features: Tensor) -> Tensor:
        return (features * 255).long().clamp(0, 255)

    def _config(self) -> dict[str, Any]:
        return {}


def workers(args: argparse.Namespace) -> None:
    """Reading dominates: minutes of 44.1 kHz stereo FLAC, resampled for a tokenizer that costs next to nothing."""
    spec = audiotok.Spec("loudness", sample_rate=16000, hop_length=320, codebook_sizes=(256,), decodable=False)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        track = torch.cat([audio.load(p, sample_rate=44100, channels=2)[0] for p in clips(args.manifest, 200)], 1)
        step = 60 * 44100
        for i in range(80):
            start = i * 100_000 % (track.shape[1] - step)
            audio.save(Path(folder, f"{i}.flac"), track[:, start : start + step], 44100)
        files = sorted(Path(folder).glob("*.flac"))
        tokenized(Lengths(spec), files, 1)  # the disk's cache
        print("| reading processes | seconds | speed-up |\n| ---: | ---: | ---: |")
        base = None
        for count in (1, 2):
            seconds = min(tokenized(Lengths(spec), files, count)[0] for _ in range(3))
            base = base or seconds
            print(f"| {count} | {seconds:.2f} | {base / seconds:.2f} |", flush=True)


# ---- peers -------------------------------------------------------------------------------------------


class Files(Dataset[Any]):
    """What a user writes: a Dataset that reads a file."""

    def __init__(self, files: list[Path], rate: int) -> None:
        self.files, self.rate = files, rate

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return audio.load(self.files[index], sample_rate=self.rate, channels=1)[0][0].numpy()


def peer_encodec(model: Any, tokenizer: audiotok.Tokenizer, files: list[Path], batch: int) -> list[Tensor]:
    """As transformers' EnCodec page: its feature extractor pads the batch, encode gets the padding mask."""
    from transformers import EncodecFeatureExtractor

    extract = EncodecFeatureExtractor(feature_size=1, sampling_rate=24000)
    loader = DataLoader(
        Files(files, 24000),
        batch_size=batch,
        num_workers=1,
        collate_fn=lambda rows: (
            [tokenizer.num_frames(len(row)) for row in rows],
            extract(rows, sampling_rate=24000, return_tensors="pt", padding=True),
        ),
    )
    found = []
    with torch.no_grad():
        for frames, inputs in loader:
            codes = model.encode(inputs["input_values"], inputs["padding_mask"], bandwidth=6.0).audio_codes[0]
            found += [row[:, :count] for row, count in zip(codes, frames, strict=True)]
    return found


def peer_hubert(model: Any, tokenizer: audiotok.Tokenizer, files: list[Path], batch: int) -> list[Tensor]:
    """As slamkit: a padded batch, all layers, scikit-learn's predict on the frames of one."""
    from transformers import Wav2Vec2FeatureExtractor

    extract = Wav2Vec2FeatureExtractor(do_normalize=False)
    centroids = tokenizer.codebooks[0].double().numpy()
    kmeans = MiniBatchKMeans(len(centroids), n_init=1)
    kmeans.fit(centroids)
    kmeans.cluster_centers_ = centroids
    loader = DataLoader(
        Files(files, 16000),
        batch_size=batch,
        num_workers=1,
        collate_fn=lambda rows: (
            [tokenizer.num_frames(len(row)) for row in rows],
            extract(rows, sampling_rate=16000, return_tensors="pt", padding=True)["input_values"],
        ),
    )
    found = []
    with torch.no_grad():
        for frames, wav in loader:
            states = model(wav, output_hidden_states=True).hidden_states[6]
            for row, count in zip(states, frames, strict=True):
                found.append(torch.from_numpy(kmeans.predict(row[:count].double().numpy())).long()[None])
    return found


PEERS: dict[str, Callable[..., list[Tensor]]] = {"encodec-24khz": peer_encodec, "hubert-base-layer6": peer_hubert}


def peers(args: argparse.Namespace) -> None:
    print("| model | peer's batch | audio, h | peer, h/h | audiotok, h/h | ratio | codes of the peer that differ |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, peer in PEERS.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer, model = MODELS[name](Path(folder))
        files = clips(args.manifest, 120, (1.0, 20.0))
        total = hours(files)
        for batch in (1, 8):
            started = time.perf_counter()
            theirs = peer(model, tokenizer, files, batch)
            peer_seconds = time.perf_counter() - started
            seconds, _, ours = tokenized(tokenizer, files, 1)
            root = Path(os.path.commonpath([path.parent for path in files]))
            pairs = [(one, ours[str(path.relative_to(root))]) for one, path in zip(theirs, files, strict=True)]
            changed = sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
            print(
                f"| {name} | {batch} | {total:.3f} | {total * 3600 / peer_seconds:.1f} | "
                f"{total * 3600 / seconds:.1f} | {peer_seconds / seconds:.2f} | {changed:.2%} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "growth", "workers", "peers"))
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--times", nargs="+", type=int, default=[1, 4, 16], help="of growth")
    args = parser.parse_args()
    torch.manual_seed(0)
    {"rate": rate, "growth": growth, "workers": workers, "peers": peers}[args.what](args)


if __name__ == "__main__":
    main()
