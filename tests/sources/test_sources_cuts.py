import json
import subprocess
import sys
from pathlib import Path

import lhotse
import pytest
import torch

from audiotok import audio
from audiotok.errors import AudioFileError, InputError, MissingDependencyError
from audiotok.sources import open_source, read_ahead, with_lengths


@pytest.fixture
def recording(clips):
    path = next(path for path in clips if path.stem == "speech_en_1")
    return lhotse.Recording.from_file(path)


def opened(cuts, tmp_path):
    """The source of cuts, and of their manifest, which must say the same."""
    manifest = tmp_path / "cuts.jsonl.gz"
    lhotse.CutSet.from_cuts(cuts).to_file(manifest)
    source, again = open_source(lhotse.CutSet.from_cuts(cuts)), open_source(manifest)
    assert [item.id for item in source.items()] == [item.id for item in again.items()]
    assert list(source.items()) == list(again.items())
    return again


def test_a_plain_cut_is_a_segment_and_carries_what_was_said(recording, tmp_path):
    cut = recording.to_cut().truncate(offset=0.5, duration=1.25)
    cut.supervisions = [
        lhotse.SupervisionSegment("s1", recording.id, 0, 0.5, text="one", speaker="Ann", language="en"),
        lhotse.SupervisionSegment("s2", recording.id, 0.5, 0.5, text="two", speaker="Bob", language="en"),
    ]
    cut.custom = {"snr": 3.5, "tags": [1]}
    source = opened([cut], tmp_path)
    (item,) = source.items()
    assert (item.start, item.end, item.seconds, item.stated) == (0.5, 1.75, 1.25, None)
    assert item.columns == {"snr": 3.5, "text": "one two", "speaker": "Ann Bob", "language": "en"}
    wav = source.read(item, 16000, 1)
    assert torch.equal(wav, torch.from_numpy(cut.load_audio()))


def test_a_whole_recording_must_be_as_long_as_stated(recording, tmp_path):
    (item,) = opened([recording.to_cut()], tmp_path).items()
    assert (item.start, item.end, item.stated, item.seconds) == (None, None, 2.681, 2.681)
    cut = recording.to_cut().to_dict()
    cut["duration"] = cut["recording"]["duration"] = 5.0
    (tmp_path / "m.jsonl").write_text(json.dumps(cut))
    source = open_source(tmp_path / "m.jsonl")
    with pytest.raises(InputError, match="has 2.681 s, but .* says 5 s"):
        source.read(next(source.items()), 16000, 1)


def test_channels_of_a_recording(rows, tmp_path):
    row = next(row for row in rows if audio.info(row["path"]).channels == 2)
    stereo = lhotse.Recording.from_file(row["path"])
    left, right = stereo.to_cut().to_mono()
    source = opened([left.with_id("l"), right.with_id("r"), stereo.to_cut().with_id("both")], tmp_path)
    expected, rate = audio.load(row["path"])
    items = list(source.items())
    assert [item.channel for item in items] == [0, 1, None]
    for item, wanted in zip(items, (expected[:1], expected[1:], expected.mean(0, keepdim=True)), strict=True):
        assert torch.allclose(source.read(item, rate, 1), wanted, atol=1e-7)
    assert torch.equal(source.read(items[2], rate, 2), expected)


def test_other_cuts_are_made_by_lhotse_in_any_process(recording, tmp_path):
    cut = recording.to_cut()
    cuts = [cut.pad(duration=4), cut.mix(cut, offset_other_by=1.0, snr=10), cut.perturb_volume(0.5), cut.resample(8000)]
    cuts = [one.with_id(f"c{number}") for number, one in enumerate(cuts)]
    source = opened(cuts, tmp_path)
    items = list(with_lengths(source, source.items()))
    assert [item.seconds for item in items] == [one.duration for one in cuts]
    (batch,) = read_ahead(source, [items], sample_rate=16000, channels=1, num_workers=1)
    assert batch.failures == []
    for row, one in zip(batch.rows, cuts, strict=True):
        wanted = audio.resample(torch.from_numpy(one.load_audio()), one.sampling_rate, 16000)
        assert torch.equal(row, wanted)


def test_what_lhotse_cannot_make_is_a_failure(recording):
    cut = recording.to_cut().pad(duration=4)
    recording.sources[0].source = "gone.wav"
    source = open_source(lhotse.CutSet.from_cuts([cut]))
    with pytest.raises(AudioFileError, match=r"Lhotse cannot make .*gone\.wav"):
        source.read(next(source.items()), 16000, 1)


def test_cuts_in_memory_name_the_way_out(rows):
    with Path(rows[0]["path"]).open("rb") as file:
        recording = lhotse.Recording.from_bytes(file.read(), "r")
    source = open_source(lhotse.CutSet.from_cuts([recording.to_cut()]))
    with pytest.raises(InputError, match=r"cut 0 of a CutSet cannot be used: it holds its audio in memory.*recording"):
        list(source.items())


def test_no_command_of_a_cut_is_ever_run(recording, tmp_path):
    evil = json.loads(json.dumps(recording.to_dict()))
    evil["sources"] = [{"type": "command", "channels": [0], "source": f"touch {tmp_path}/ran"}]
    plain = recording.to_cut().to_dict()
    reverberated = {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": evil}}
    cuts = [
        {**plain, "recording": evil},
        recording.to_cut().pad(duration=4).to_dict(),
        {**plain, "recording": {**plain["recording"], "transforms": [reverberated]}},
    ]
    cuts[1]["tracks"][0]["cut"]["recording"] = evil
    for cut in cuts:
        (tmp_path / "m.jsonl").write_text(json.dumps(cut))
        with pytest.raises(
            InputError, match="line 1 cannot be used: its audio is what a command prints, and none is run"
        ):
            list(open_source(tmp_path / "m.jsonl").items())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": "x"}, "line 1 is no cut of Lhotse with a recording .ValueError"),
        ({"duration": -1}, "line 1 cannot be used: its start 0.0, duration -1.0 or path"),
        ({"start": float("nan")}, "its start nan"),
        ({"recording": None}, "no cut of Lhotse with a recording .TypeError"),
        ({"channel": 3}, "no cut of Lhotse with a recording .ValueError: 3 is not in list"),
        ({"id": 3}, "no cut of Lhotse"),
    ],
)
def test_broken_cuts_are_named_with_their_line(recording, tmp_path, change, message):
    (tmp_path / "m.jsonl").write_text(json.dumps({**recording.to_cut().to_dict(), **change}))
    with pytest.raises(InputError, match=message):
        list(open_source(tmp_path / "m.jsonl").items())


def test_lhotse_is_asked_for_only_where_it_is_needed(recording, tmp_path, monkeypatch):
    cut = recording.to_cut()
    source = opened([cut.with_id("plain"), cut.pad(duration=4).with_id("padded")], tmp_path)
    plain, padded = source.items()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lhotse"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert source.read(plain, 16000, 1).shape == (1, 42896)
    with pytest.raises(MissingDependencyError, match=r"padded needs lhotse: pip install 'audiotok\[lhotse\]'"):
        source.read(padded, 16000, 1)


def test_importing_audiotok_imports_no_optional_package():
    code = (
        "import sys, audiotok.sources; audiotok.sources.open_source([{'path': 'a.wav'}]);"
        "print(*[name for name in ('datasets', 'lhotse', 'pyarrow', 'webdataset', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
