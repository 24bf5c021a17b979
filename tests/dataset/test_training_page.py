"""The code of docs/training.md, block after block."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # forks, from Python 3.12 on
def test_the_page_runs_and_prints_what_it_says(clips, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").symlink_to(clips[0].parent)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    exec("\n".join(blocks), {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\(.*\)  # ([^:\n]*)", PAGE.read_text())
    assert len(promised) == 3
    assert set(promised) <= set(printed)
