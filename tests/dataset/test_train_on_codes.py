"""examples/train_on_codes.py learns from real tokens."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import audiotok
from audiotok.dataset.shards import Row

from .folders import write_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_on_codes.py"


def test_two_epochs_over_tokens_of_real_clips_lower_the_loss(clips, tmp_path):
    tok = audiotok.load()
    rows = []
    for path in clips:
        codes = tok.encode_file(path)
        tokens = codes.tokens[0].numpy().astype(np.uint16)
        rows.append(Row(path.stem, tokens, int(codes.num_samples), 0.0, tokens.shape[1] / tok.spec.frame_rate))
    write_folder(tmp_path, [rows[:8], rows[8:]], spec=tok.spec, fingerprint=tok.fingerprint, columns={})
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), "--max-frames", "500"], capture_output=True, text=True, check=True
    )
    frames = sum(row.tokens.shape[1] for row in rows)
    assert run.stdout.startswith(f"14 items of {tok.spec.name}, {frames} frames")
    first, second = (float(loss) for loss in re.findall(r"epoch \d  loss ([\d.]+)", run.stdout))
    assert second < first - 0.1
    assert second < np.log(1024)  # better than a guess
