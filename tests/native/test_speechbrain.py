"""SpeechBrain's own class beside ours, on real speech. `make check-slow` builds the environment it needs."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotok.ssl.published import read_ssl_kmeans

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-native" / "bin" / "python"
FIXTURES = ROOT / "tests" / "fixtures" / "speechbrain-discrete-ssl"


@pytest.mark.parametrize("case", sorted(path.name for path in FIXTURES.iterdir()))
def test_codes_and_audio_equal_those_of_speechbrain_itself(case, speech, tmp_path):
    assert PYTHON.exists(), "make .venv-native/done builds the second environment"
    folder = FIXTURES / case
    meta = json.loads((folder / "meta.json").read_text())
    found = {int(re.search(r"_L(\d+)\.pt", path.name)[1]): path for path in (folder / "vocoder/kmeans").glob("*.pt")}
    kmeans = {layer: found[layer] for layer in sorted(meta["layers"])}
    sizes = [int(re.search(r"_k(\d+)_", path.name)[1]) for path in kmeans.values()]
    np.savez(tmp_path / "in.npz", **{f"wav_{i}": row[0].numpy() for i, row in enumerate(speech)})
    script = ROOT / "scripts" / "native" / "run_speechbrain.py"
    layers = ",".join(map(str, kmeans))
    command = [
        PYTHON,
        script,
        meta["ssl_kind"],
        meta["kmeans_dataset"],
        folder / "ssl",
        folder / "vocoder",
        layers,
        ",".join(map(str, sizes)),
    ]
    subprocess.run([*command, tmp_path / "in.npz", tmp_path / "out.npz"], check=True, cwd=tmp_path, capture_output=True)

    decodes = len(set(sizes)) == 1
    tok = read_ssl_kmeans(folder / "ssl", kmeans=kmeans, vocoder=folder / "vocoder" if decodes else None)
    with np.load(tmp_path / "out.npz") as theirs:
        ours = tok.encode(speech)
        different = sum(int((ours[i].tokens[0].T.numpy() != theirs[f"codes_{i}"]).sum()) for i in range(len(speech)))
        assert different == 0
        if decodes:
            wav = tok.decode(torch.from_numpy(theirs["codes_0"]).T[None])
            assert np.abs(wav[0, 0].numpy() - theirs["recon_0"]).max() < 1e-4
