import numpy as np
import pytest

from audiotok.errors import AudioFileError, InputError
from audiotok.sources import open_source
from audiotok.sources.files import FileSource
from audiotok.sources.kaldi import KaldiSource
from audiotok.sources.manifests import ManifestSource
from audiotok.sources.parquet import ParquetSource
from audiotok.sources.tars import TarSource


def test_folders_are_known_by_what_lies_in_them(make, rows, tmp_path):
    make("tars"), make("parquet")
    assert type(open_source(tmp_path / "data")) is FileSource
    assert type(open_source(str(tmp_path / "tars"))) is TarSource
    assert type(open_source(tmp_path / "parquet")) is ParquetSource
    assert type(open_source(make("kaldi"))) is KaldiSource
    (tmp_path / "tars" / "a.parquet").touch()
    with pytest.raises(InputError, match="tars holds more than one of audio files, tars and Parquet"):
        open_source(tmp_path / "tars")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no audio in"):
        open_source(tmp_path / "nothing")


def test_files_are_known_by_their_endings_or_by_being_audio(make, rows, tmp_path, expected):
    (tmp_path / "odd.name").write_bytes((tmp_path / "data" / "clip 0.flac").read_bytes())
    (item,) = open_source(tmp_path / "odd.name").items()
    assert item.id == "odd.name"
    assert type(open_source(make("csv"))) is ManifestSource
    (tmp_path / "notes.txt").write_text("not audio")
    with pytest.raises(InputError, match=r"notes.txt is nothing that is understood: give a folder of audio, an audio"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(AudioFileError, match="no such file or folder: gone.flac"):
        open_source("gone.flac")


def test_numbered_names(make, tmp_path):
    assert len(open_source(str(tmp_path / make("tars"))).paths) == 3
    with pytest.raises(AudioFileError, match="no such tar: .*shard-003.tar"):
        open_source(str(tmp_path / "tars" / "shard-{000..003}.tar"))
    with pytest.raises(InputError, match=r"\{3\.\.1\} must go from a number to a greater one"):
        open_source("shard-{3..1}.tar")
    (tmp_path / "n").mkdir()
    for a in (1, 2):
        for b in (9, 10):
            (tmp_path / "n" / f"{a}-{b}.tar").write_bytes((tmp_path / "tars" / "shard-000.tar").read_bytes())
    names = [path.name for path in open_source(f"{tmp_path}/n/{{1..2}}-{{9..10}}.tar").paths]
    assert names == ["1-9.tar", "1-10.tar", "2-9.tar", "2-10.tar"]


@pytest.mark.parametrize(
    "given", [[], (), None, 7, b"a.wav", bytearray(3), np.zeros(3), [1, 2], {"path": "a.wav"}, [None]]
)
def test_what_is_no_source_is_told_what_is(given):
    with pytest.raises(
        InputError, match="there is no audio in .*: give a folder of audio, .*, Parquet files, a Hugging"
    ):
        open_source(given)


def test_lists_are_of_one_kind(make, rows):
    with pytest.raises(
        InputError, match="train.csv is not an audio file: give one manifest, only tars, or only Parquet"
    ):
        open_source([rows[0]["path"], str(make("csv"))])
    with pytest.raises(InputError, match="a.tar is not an audio file"):
        open_source([rows[0]["path"], "a.tar"])


def test_a_column_is_for_tables_only(make):
    with pytest.raises(
        InputError, match=r"column= is for Parquet and Hugging Face datasets, and .*train.csv is neither"
    ):
        open_source(make("csv"), column="audio")
    assert open_source(make("parquet"), column="audio").column == "audio"
