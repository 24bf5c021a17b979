"""Folders of tokens, as `tokenize_dataset` writes them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from audiotok import Spec
from audiotok.dataset.shards import Row, shard_name, token_dtype, write_shard

SPEC = Spec("demo", sample_rate=16000, hop_length=320, codebook_sizes=(1000, 1000, 1000))
FINGERPRINT = "f" * 64
COLUMNS = {"text": "text", "speaker": "int"}


def some_rows(count: int, *, first: int = 0, spec: Spec = SPEC, frames: tuple[int, int] = (1, 40)) -> list[Row]:
    """Random tokens; item i is called utt_i, says "line i", and every third has no speaker."""
    random = np.random.default_rng(first)
    rows = []
    for i in range(first, first + count):
        length = int(random.integers(*frames))
        tokens = [random.integers(0, size, length) for size in spec.codebook_sizes]
        rows.append(
            Row(
                id=f"utt_{i}",
                tokens=np.stack(tokens).astype(token_dtype(spec)),
                num_samples=length * spec.hop_length - i % 7,
                start=0.25 * i,
                duration=length / spec.frame_rate,
                columns={"text": f"line {i}", "speaker": i if i % 3 else None},
            )
        )
    return rows


def write_folder(
    folder: Path,
    shards: Sequence[Sequence[Row]],
    *,
    spec: Spec = SPEC,
    fingerprint: str = FINGERPRINT,
    columns: dict[str, str] = COLUMNS,
    finished: bool = True,
) -> Path:
    """A folder with those shards, and all that lies beside them."""
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(shards):
        write_shard(folder / shard_name(number), rows, spec, fingerprint, columns)
    card = {
        "tokenizer": {"name": spec.name, "fingerprint": fingerprint, "spec": spec.to_dict()},
        "columns": columns,
        "finished": finished,
        "counts": {"shards": len(shards)},
    }
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "errors.jsonl").write_text('{"id": "bad", "error": "AudioFileError", "reason": "no audio"}\n')
    (folder / "progress.sqlite").write_bytes(b"SQLite format 3\0")
    return folder
