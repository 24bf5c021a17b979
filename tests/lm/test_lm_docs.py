"""What the page promises: every example of docs/language_models.md runs, in the order in which it stands there."""

import re
from pathlib import Path

import torch
from transformers import DiaProcessor

from audiotok import Codes, Spec, lm

ROOT = Path(__file__).parents[2]


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "language_models.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/language_models.md", "exec"), names)
    printed = capsys.readouterr().out.strip()
    assert f"# {printed}\n" in page


def test_the_delays_of_dia_are_those_of_transformers():
    """A second implementation: bos before, pad after, delays 0, 8, 9 ... 15."""
    delays = (0, *range(8, 16))
    tokens = torch.randint(0, 1024, (1, 9, 30), generator=torch.Generator().manual_seed(0))
    spec = Spec("dac-44khz", 44100, 512, (1024,) * 9)
    codes = Codes(tokens, torch.tensor([30]), torch.tensor([30 * 512]), spec)
    vocabulary = lm.Vocabulary.build(spec.codebook_sizes, special=("eos", "pad", "bos"), shared=True)
    assert vocabulary.special == {"eos": 1024, "pad": 1025, "bos": 1026}
    ours = lm.Layout("delay", spec, vocabulary, delays=delays, fill=("bos", "pad")).to_ids(codes)[0]

    padded = torch.nn.functional.pad(tokens, (0, 15), value=1025).transpose(1, 2)  # [B, L, K]
    places = DiaProcessor.build_indices(1, 45, 9, list(delays))
    theirs = DiaProcessor.apply_audio_delay(padded, 1025, 1026, places)
    assert torch.equal(ours, theirs[0].T)
