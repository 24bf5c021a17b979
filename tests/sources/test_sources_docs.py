import re
import shutil
import zipfile
from pathlib import Path

import torch

from audiotok import audio
from tests.sources.conftest import read_all

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, clips, capsys):
    monkeypatch.chdir(tmp_path)
    clip = next(path for path in clips if path.stem == "speech_en_1")
    shutil.copy(clip, "talk.flac")
    Path("train.jsonl").write_text('{"path": "talk.flac", "duration": 2.681, "text": "hello"}\n')
    with zipfile.ZipFile("talks.zip", "w") as file:
        file.write("talk.flac")
    names = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(example, names)  # one page, one program
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "talk.flac 2.681 {'text': 'hello'}"
    assert printed[1] == "talk.flac:0-1.25 {'speaker': 'Ada'}"
    assert printed[2] == "talk.flac:1.25- {'speaker': 'Grace'}"
    whole = audio.load(clip)[0]
    assert torch.equal(read_all(names["source"])["talk"], whole)
    zipped = names["open_source"](names["ZipSource"]("talks.zip"))
    assert torch.equal(read_all(zipped)["talk.flac"], whole)
