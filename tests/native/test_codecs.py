"""The original codec packages beside ours: freshly drawn weights, real clips. `make check-slow` builds the environment
that they need."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiotok import convert
from tests.parity_table import same_length

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-native" / "bin" / "python"
CLIPS = ("effect_bell_stereo", "speech_en_1", "speech_fr_2", "speech_it_2")  # of four different lengths
FRAMES = {  # samples per column of codes, and rows of codes, of each network that the script draws
    "dac": {"16khz": (320, 12), "24khz": (320, 32), "44khz": (512, 9)},
    "encodec": {"24khz": (320, 8), "48khz": (320, 8)},
    "snac": {"24khz": (2048, 7), "32khz": (3072, 15)},
    "speechtokenizer": {"deeper": (240, 8), "hubert_avg": (320, 8)},
}


@dataclass(frozen=True)
class Item:
    """One input of the original, and what it made of it: codes [B, K, F], audio as long as it came out."""

    what: str
    books: int | None
    whole: bool
    wav: torch.Tensor
    codes: torch.Tensor
    recon: torch.Tensor

    def check(self, tokens, wav):
        assert tokens.shape == self.codes.shape, f"{self.what}: {list(tokens.shape)}, not {list(self.codes.shape)}"
        different = int((tokens != self.codes).sum())
        assert different == 0, f"{self.what}: {different} of {tokens.numel()} codes differ"
        assert wav.shape == self.wav.shape, f"{self.what}: audio is {list(wav.shape)}, not {list(self.wav.shape)}"
        error = float((wav - same_length(self.recon, wav)).abs().max())
        assert error < 1e-4, f"{self.what}: audio is {error:.2g} off"


@dataclass(frozen=True)
class Original:
    """What one package wrote."""

    family: str
    folder: Path
    cases: dict[str, dict[str, Any]]

    def ours(self, case):
        return convert(self.family, self.folder / self.cases[case]["checkpoint"])

    def items(self, case):
        for item in self.cases[case]["items"]:
            arrays = {kind: torch.from_numpy(np.load(self.folder / item[kind])) for kind in ("wav", "codes", "recon")}
            yield Item(item["what"], item["books"], item["whole"], **arrays)


@pytest.fixture(scope="module", params=sorted(FRAMES))
def original(request, clips, tmp_path_factory):
    assert PYTHON.exists(), "make .venv-native/done builds the second environment"
    script = ROOT / "scripts" / "native" / "run_codecs.py"
    folder = tmp_path_factory.mktemp(request.param)
    chosen = [path for path in clips if path.stem in CLIPS]
    command = [PYTHON, script, request.param, folder, *chosen, "--seed", "1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    meta = json.loads((folder / "meta.json").read_text())
    return Original(request.param, folder, {case["name"]: case for case in meta["cases"]})


def test_codes_and_audio_equal_those_of_the_original(original):
    assert original.cases.keys() == FRAMES[original.family].keys()
    for case, (hop, rows) in FRAMES[original.family].items():
        tok = original.ours(case)
        assert (tok.spec.hop_length, tok.spec.num_codebooks) == (hop, rows)
        lengths = set()
        for item in original.items(case):
            codes = tok.use_codebooks(item.books or rows).encode(item.wav)
            item.check(codes.tokens, tok.decode(codes))
            lengths.add(item.wav.shape[2])
        assert lengths > {1, hop - 1, hop + 1}


def test_a_batch_of_mixed_lengths_equals_the_original_run_one_by_one(original):
    for case, (_, rows) in FRAMES[original.family].items():
        tok = original.ours(case)
        items = [item for item in original.items(case) if item.whole and item.books is None]
        assert len({item.wav.shape[2] for item in items}) == len(items) == len(CLIPS)
        for tok.row_by_row in (True, False):
            codes = tok.encode([item.wav[0] for item in items])
            assert codes.tokens.shape[:2] == (len(CLIPS), rows)
            wav = tok.decode(codes)
            for i, item in enumerate(items):
                item.check(codes[i].tokens, wav[i : i + 1, :, : item.wav.shape[2]])


def test_the_clips_move_every_codebook(original):
    for case, (_, rows) in FRAMES[original.family].items():
        batch = next(item for item in original.items(case) if item.what == "batch")
        distinct = [len(row.unique()) for row in batch.codes.transpose(0, 1)]
        assert len(distinct) == rows
        assert min(distinct) > 20
