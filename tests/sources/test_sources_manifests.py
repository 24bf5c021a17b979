import gzip
import itertools
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiotok import audio
from audiotok.errors import AudioFileError, InputError
from audiotok.sources import Failure, open_source, read_ahead
from audiotok.sources.manifests import ManifestSource
from audiotok.sources.rows import item_of
from tests.sources.conftest import read_all


@pytest.fixture
def manifest(tmp_path):
    """manifest(text, name) -> the source of a file with that text."""

    def write(content, name="m.jsonl"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return open_source(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["path", "audio_filepath", "file_name", "audio", "wav", "PATH"])
@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".jsonl.gz"])
def test_names_of_the_path(manifest, name, ending):
    (item,) = manifest(json.dumps({name: "a b/c.flac"}) + "\n\n", f"m{ending}").items()
    assert (item.id, item.place, item.seconds, item.start, item.columns) == ("a b/c.flac", "a b/c.flac", 0, None, {})


def test_lines_of_nemo_wenet_and_speechbrain(manifest):
    (nemo,) = manifest('{"audio_filepath": "a.wav", "offset": 1, "duration": 0.5, "text": "x"}').items()
    assert (nemo.id, nemo.start, nemo.end, nemo.seconds, nemo.columns) == ("a.wav:1-1.5", 1, 1.5, 0.5, {"text": "x"})
    (wenet,) = manifest('{"key": "k1", "wav": "a.wav", "txt": "x"}').items()
    assert (wenet.id, wenet.columns) == ("k1", {"txt": "x"})
    (speechbrain,) = manifest("ID,duration,wav,spk_id\nu1,2.5,a.wav,7\n", "m.csv").items()
    assert (speechbrain.id, speechbrain.stated, speechbrain.seconds, speechbrain.start) == ("u1", 2.5, 2.5, None)
    assert speechbrain.columns == {"spk_id": 7}


def test_segments_by_end_or_duration_or_neither():
    def part(**row):
        item = item_of({"path": "a.wav", **row}, "here")
        return item.id, item.start, item.end, item.stated, item.seconds

    assert part(start=1.5, end=3) == ("a.wav:1.5-3", 1.5, 3, None, 1.5)
    assert part(start="1.5", duration="1.5", end="3.0004") == ("a.wav:1.5-3.0004", 1.5, 3.0004, None, 1.5004)
    assert part(start=1.5) == ("a.wav:1.5-", 1.5, None, None, 0)
    assert part(end=3) == ("a.wav:0-3", 0, 3, None, 3)
    assert part(duration=3) == ("a.wav", None, None, 3, 3)
    assert part(start=0, duration=3) == ("a.wav:0-3", 0, 3, None, 3)
    assert part(start=None, duration="", channel="1.0") == ("a.wav:channel1", None, None, None, 0)
    assert part(start=12345.678, end=12345.679)[0] == "a.wav:12345.678-12345.679"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"duration": "abc"}, "duration must be seconds from 0, not 'abc'"),
        ({"start": -1}, "start must be seconds from 0, not -1"),
        ({"start": float("nan")}, "start must be seconds from 0, not nan"),
        ({"offset": float("inf")}, "offset must be seconds from 0, not inf"),
        ({"end": 10**400}, "end must be seconds from 0"),
        ({"duration": True}, "duration must be seconds from 0, not True"),
        ({"duration": [1]}, "duration must be seconds"),
        ({"start": 3, "end": 2}, "segment from 3 s to 2 s is empty"),
        ({"duration": 0}, "is empty"),
        ({"start": 1, "end": 2, "duration": 2}, "end 2 s is not the start plus the duration 2 s"),
        ({"channel": "left"}, "channel must be a channel's number from 0, not 'left'"),
        ({"channel": 0.5}, "channel must be a channel's number"),
        ({"id": 1.5}, "an id is text or a whole number, not 1.5"),
        ({"path": 7}, "path is no path: 7"),
        ({"path": {"bytes": "x"}}, "path is no path"),
        ({"path": "a\0.wav"}, "path is no path"),
        ({"path": ""}, "has no path: wanted one of path, audio_filepath"),
        ({"mel": {1, 2}}, "a set cannot be carried along"),
    ],
)
def test_what_a_row_cannot_say(row, message):
    with pytest.raises(InputError, match=message):
        list(open_source([{"path": "a.wav", **row}]).items())


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b'{"path": "a.wav"}\n\xff\xfe\x00rubbish', "m.jsonl", "m.jsonl, line 2 is no UTF-8 text"),
        (bytes(range(11, 256)) * 4, "m.csv", "m.csv, line 1 is no UTF-8 text"),
        ("[" * 100_000, "m.jsonl", "line 1 is no JSON"),
        ('{"path": "a.wav", "n": ' + "1" * 5000 + "}", "m.jsonl", "line 1 is no JSON"),
        ('{\n "path": "a.wav"\n}', "m.json", "line 1 is no JSON .*: each line must be an object of its own"),
        ('["a.wav"]', "m.json", "line 1 is no JSON object"),
        ('{"path": "a.wav"}\n{"path": "b.wav", "duration": "abc"}', "m.jsonl", "m.jsonl, line 2: duration must be"),
        ('{"text": "no path"}', "m.jsonl", "line 1 has no path: wanted .*, found text"),
        ("", "m.jsonl", "m.jsonl is empty"),
        ("path,text\n", "m.csv", "m.csv is empty"),
        ("a.wav,1.5\nb.wav,2\n", "m.csv", "first line must name the columns, one of them path .*it is 'a.wav,1.5'"),
        ("a.wav\t1.5\n", "m.tsv", "first line must name the columns"),
        ("path,path\na,b\n", "m.csv", "two columns have the same name"),
        ("path,text\na.wav,x\nb.wav\n", "m.csv", "line 3 has 1 values, not 2"),
        ('path,text\na.wav,"x\n', "m.csv", "m.csv, line 2: unexpected end of data"),
        ("path\n" + "a" * 200_000, "m.csv", "field larger than field limit"),
    ],
)
def test_a_broken_manifest_is_named_with_its_line(manifest, content, name, message):
    with pytest.raises(InputError, match=message):
        list(manifest(content, name).items())


def test_a_broken_gz_is_named_with_its_line(tmp_path, manifest):
    manifest('{"path": "a.wav"}\n' * 100_000, "m.jsonl.gz")
    whole = (tmp_path / "m.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "none.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"cut.jsonl.gz is broken after line \d+: Compressed file ended"):
        list(open_source(tmp_path / "cut.jsonl.gz").items())
    with pytest.raises(InputError, match="none.jsonl.gz is broken after line 0: Not a gzipped file"):
        list(ManifestSource(tmp_path / "none.jsonl.gz").items())


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz", "m.csv"])
def test_a_huge_line_does_not_fill_the_memory(tmp_path, name):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(InputError, match="line 1 is longer than 16 MiB"):
        list(ManifestSource(tmp_path / name).items())
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_a_manifest_is_never_whole_in_memory(manifest):
    source = manifest("path,duration\n" + "".join(f"some/folder/{i:06d}.flac,1.5\n" for i in range(20_000)), "m.csv")
    tracemalloc.start()
    assert sum(item.seconds for item in source.items()) == 30_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_columns_of_numbers_only_are_numbers(manifest):
    text = "path,a,b,c,d,e\nx.wav,1,1,01,,7e3\ny.wav,-2,0.5,02,3,x\n"
    first, second = manifest(text, "m.csv").items()
    assert first.columns == {"a": 1, "b": 1.0, "c": "01", "d": None, "e": "7e3"}
    assert second.columns == {"a": -2, "b": 0.5, "c": "02", "d": 3, "e": "x"}
    assert [type(value) for value in first.columns.values()] == [int, float, str, type(None), str]


def test_long_numbers_stay_text_so_that_no_digit_is_lost(manifest):
    (item,) = manifest(f"path,id,phone,part\nx.wav,1.10,{'9' * 19},{'1' * 18}\n", "m.csv").items()
    assert (item.id, item.columns) == ("1.10", {"phone": "9" * 19, "part": int("1" * 18)})


def test_json_values_keep_their_types_and_nested_ones_become_text(manifest):
    values = {"a": 1, "b": 1.0, "c": True, "d": None, "e": "é", "f": [1, {"g": "é"}], "h": 2**70}
    (item,) = manifest(json.dumps({"path": "x.wav", **values})).items()
    assert item.columns == {**values, "f": '[1, {"g": "é"}]', "h": str(2**70)}
    (half,) = manifest('{"path": "\\ud800.wav", "t\\ud800": "\\ud800"}').items()
    assert (half.id, half.columns) == ("\\ud800.wav", {"t\\ud800": "\\ud800"})
    (numpy,) = open_source([{"path": Path("x.wav"), "n": np.int64(3), "f": np.float32(0.5)}]).items()
    assert numpy.columns == {"n": 3, "f": 0.5}


NAMES = ["a b.flac", "a,b.flac", "a'b.flac", 'a"b".flac', "größe 音.flac", "{1..2}.flac", "#x;y.flac", "a\\b.flac"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_odd_names_are_read_relative_to_the_manifest(tmp_path, clips, kind, name):
    (tmp_path / "sub").mkdir()
    shutil.copy(clips[-1], tmp_path / "sub" / name)
    quoted = '"' + name.replace('"', '""') + '"'
    lines = {
        "jsonl": json.dumps({"path": f"sub/{name}"}),
        "csv": f"path,n\r\nsub/{name},1" if '"' not in name and "," not in name else f'path,n\r\n"sub/{quoted[1:]},1',
        "tsv": f"path\tn\nsub/{name}\t1",
    }
    (tmp_path / f"m.{kind}").write_text("\ufeff" + lines[kind] + "\n", encoding="utf-8", newline="")
    ((found, wav),) = read_all(open_source(tmp_path / f"m.{kind}")).items()
    assert found == f"sub/{name}"
    assert torch.equal(wav, audio.load(clips[-1], sample_rate=16000, channels=1)[0])


@given(st.lists(st.floats(0.01, 2.67), min_size=1, max_size=6, unique=True), st.sampled_from([8000, 16000, 22050]))
def test_segments_that_follow_one_another_are_the_whole(speech_file, cuts, rate):
    points = [0.0, *sorted(cuts), None]
    pairs = [(a, b) for a, b in itertools.pairwise(points) if b is None or round(b * rate) > round(a * rate)]
    source = open_source([{"path": speech_file, "start": a, "end": b} for a, b in pairs])
    parts = [source.read(item, rate, 1) for item in source.items()]
    whole = audio.load(speech_file, sample_rate=rate)[0]
    joined = torch.cat(parts, 1)
    assert joined.shape == whole.shape
    assert torch.equal(joined, whole) if rate == 16000 else float((joined - whole).abs().max()) < 1e-6


@pytest.fixture(scope="module")
def speech_file():
    return Path(__file__).parents[1] / "data" / "audio" / "speech_en_1.flac"  # 2.681 s at 16 kHz


def test_failures_say_what_a_manifest_had_wrong(manifest, speech_file, tmp_path):
    (tmp_path / "folder.wav").mkdir()
    lines = [
        {"path": str(speech_file), "duration": 2.681},
        {"path": str(speech_file), "duration": 1.0, "id": "short"},
        {"path": str(speech_file), "start": 2, "duration": 1.0, "id": "behind"},
        {"path": str(speech_file), "start": 2, "end": 2.69, "id": "rounded"},
        {"path": "gone.wav", "id": "gone"},
        {"path": "folder.wav", "id": "folder"},
    ]
    source = manifest("\n".join(json.dumps(line) for line in lines))
    (batch,) = read_ahead(source, [list(source.items())], sample_rate=16000, channels=1)
    assert [row.shape[1] for row in batch.rows] == [42896, 10896]
    reasons = {failure.item.id: failure for failure in batch.failures}
    assert all(isinstance(failure, Failure) for failure in reasons.values())
    assert "short has 2.681 s, but" in reasons["short"].reason
    assert "says 1 s: a segment needs a start, too" in reasons["short"].reason
    assert "has 2.681 s: there is no segment from 2 s to 3 s" in reasons["behind"].reason
    assert "gone.wav: no such file" in reasons["gone"].reason
    assert reasons["folder"].kind == "AudioFileError"
    assert len(reasons) == 4


def test_kaldi_segments_speakers_and_texts(tmp_path, speech_file):
    (tmp_path / "wav.scp").write_text(f"rec1\t{speech_file}\n")
    (tmp_path / "segments").write_text("u1 rec1 0.5 1.25\nu2 rec1 2 -1\n")
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 bob\n")
    (tmp_path / "text").write_text("u1 two words\nu2\n")
    source = open_source(tmp_path)
    first, second = source.items()
    assert (first.id, first.seconds, first.columns) == ("u1", 0.75, {"speaker": "ann", "text": "two words"})
    assert (second.id, second.start, second.end) == ("u2", 2, None)
    whole = audio.load(speech_file)[0]
    assert torch.equal(source.read(first, 16000, 1), whole[:, 8000:20000])
    assert torch.equal(source.read(second, 16000, 1), whole[:, 32000:])


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("wav.scp", "rec1 sph2pipe a.sph |", "wav.scp: rec1 is a command, and none is run"),
        ("wav.scp", "rec1", 'wav.scp, line 1 must be "name value"'),
        ("wav.scp", "rec1 a.wav\nrec1 b.wav", "wav.scp, line 2 must be"),
        ("segments", "u1 rec1 0.5", "segments, line 1 must be"),
        ("segments", "u1 rec2 0.5 1", "of a recording in wav.scp"),
        ("segments", "u1 rec1 x 1", "segments, line 1: start must be seconds from 0, not 'x'"),
    ],
)
def test_a_broken_kaldi_folder(tmp_path, name, line, message):
    (tmp_path / "wav.scp").write_text("rec1 a.wav\n")
    (tmp_path / name).write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        list(open_source(tmp_path).items())


def test_a_list_of_rows_and_other_things(speech_file):
    with pytest.raises(InputError, match="row 1 of the list is a str, not a dict"):
        list(open_source([{"path": str(speech_file)}, "b.wav"]).items())
    with pytest.raises(AudioFileError, match="no such file or folder: gone.jsonl"):
        open_source("gone.jsonl")
