import io
import os
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import torch

from audiotok import audio
from audiotok.errors import AudioFileError, InputError


@pytest.fixture
def flac(clips):
    return next(path for path in clips if path.stem == "speech_en_3")  # 19 s, longer than no block, 608 KB


def test_load_gives_the_samples_soundfile_reads(flac):
    wav, rate = audio.load(flac)
    samples, expected_rate = soundfile.read(flac, dtype="float32")
    assert rate == expected_rate == 16000
    assert np.array_equal(wav[0].numpy(), samples)


def test_reading_in_blocks_resamples_as_the_whole(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (44100 * 65 + 7, 2)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 44100, subtype="FLOAT")
    wav, rate = audio.load(tmp_path / "long.wav", sample_rate=16000)
    assert rate == 16000
    assert np.array_equal(wav.numpy(), soxr.resample(samples, 44100, 16000).T)


def test_mono_is_the_mean_of_the_channels(tmp_path):
    samples = np.array([[0.5, 0.25], [-0.5, 0.0]], np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    assert audio.load(tmp_path / "a.wav", channels=1)[0].tolist() == [[0.375, -0.25]]
    assert audio.load(tmp_path / "a.wav")[0].shape == (2, 2)
    with pytest.raises(InputError, match="2 channels, which cannot be mixed to 3"):
        audio.load(tmp_path / "a.wav", channels=3)


def test_mono_is_copied_to_every_channel(flac):
    wav, _ = audio.load(flac, channels=2)
    assert wav.shape[0] == 2
    assert torch.equal(wav[0], wav[1])


def test_a_file_object_is_read_like_a_file(flac):
    assert torch.equal(audio.load(io.BytesIO(flac.read_bytes()))[0], audio.load(flac)[0])


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.99])
def test_a_truncated_flac_is_an_error(flac, tmp_path, share):
    data = flac.read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AudioFileError, match=r"cut\.flac"):
        audio.load(tmp_path / "cut.flac")


def test_a_truncated_mp3_is_an_error(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100, format="MP3")
    (tmp_path / "cut.mp3").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(AudioFileError, match="truncated"):
        audio.load(tmp_path / "cut.mp3")


def test_missing_empty_and_foreign_files_are_errors(tmp_path):
    with pytest.raises(AudioFileError, match="no such file"):
        audio.load(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(AudioFileError, match=r"cannot read .*text\.wav"):
        audio.load(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioFileError, match="no samples"):
        audio.load(tmp_path / "empty.wav")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aif"])
def test_saved_audio_loads_with_the_same_length(tmp_path, ending):
    wav = torch.sin(torch.arange(8001) / 20) * 0.5
    audio.save(tmp_path / f"a.{ending}", wav, 16000)
    loaded, rate = audio.load(tmp_path / f"a.{ending}")
    assert (rate, loaded.shape) == (16000, (1, 8001))
    if ending != "ogg":
        assert float((loaded[0] - wav).abs().max()) <= 1 / 32768


def test_saving_clips_and_keeps_channels(tmp_path):
    audio.save(tmp_path / "a.wav", torch.tensor([[2.0, 0.0], [-2.0, 0.5]]), 16000)
    loaded, _ = audio.load(tmp_path / "a.wav")
    assert loaded.tolist() == [[32767 / 32768, 0.0], [-1.0, 0.5]]


def test_saving_where_it_cannot_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(AudioFileError, match="use an ending"):
        audio.save(tmp_path / "a.xyz", torch.zeros(10), 16000)
    with pytest.raises(InputError, match=r"\[T\] or \[C, T\]"):
        audio.save(tmp_path / "a.wav", torch.zeros(1, 1, 10), 16000)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(AudioFileError, match="No space left"):
        audio.save(tmp_path / "a.wav", torch.zeros(10), 16000)
    assert list(tmp_path.iterdir()) == []


def test_resample_keeps_shape_and_scales_length():
    wav = torch.randn(2, 3, 4410)
    out = audio.resample(wav, 44100, 16000)
    assert out.shape == (2, 3, 1600)
    assert np.array_equal(out[1, 2].numpy(), soxr.resample(wav[1, 2].numpy(), 44100, 16000))
    assert audio.resample(wav, 16000, 16000) is wav


def test_pad_batch_puts_zeros_after_each_end():
    wav, lengths = audio.pad_batch([torch.ones(1, 2), torch.ones(1, 3)])
    assert wav.tolist() == [[[1, 1, 0]], [[1, 1, 1]]]
    assert lengths.tolist() == [2, 3]


def test_find_audio_walks_folders_in_order(flac, tmp_path):
    for name in ("b.flac", "a/c.FLAC", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(flac, tmp_path / name)
    assert audio.find_audio(tmp_path) == [tmp_path / "a/c.FLAC", tmp_path / "b.flac"]
    assert audio.find_audio([tmp_path / "b.flac", tmp_path / "a"]) == [tmp_path / "b.flac", tmp_path / "a/c.FLAC"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio in"):
        audio.find_audio(tmp_path / "empty")
    with pytest.raises(AudioFileError, match="no such file or folder"):
        audio.find_audio(tmp_path / "gone")


def test_int16_is_scaled_and_other_integers_are_refused():
    assert audio.as_samples(np.array([-32768, 16384], np.int16)).tolist() == [-1.0, 0.5]
    assert audio.as_samples(torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32
    with pytest.raises(InputError, match="int16 or float, not torch.int32"):
        audio.as_samples(np.array([1], np.int32))
    with pytest.raises(InputError, match="must be a tensor, an array or a list"):
        audio.as_samples(["a"])


def test_raw_samples_and_names_that_are_not_utf8(flac, tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioFileError, match="raw samples have no header"):
        audio.load(tmp_path / "a.raw")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.flac")
    shutil.copy(flac, odd)
    assert torch.equal(audio.load(odd)[0], audio.load(flac)[0])
