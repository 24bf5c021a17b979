import io
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

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

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
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


def test_info_reads_the_header_alone(flac, tmp_path):
    found = audio.info(flac)
    assert (found.num_samples, found.sample_rate, found.channels) == (soundfile.info(flac).frames, 16000, 1)
    assert found.seconds == found.num_samples / 16000
    audio.save(tmp_path / "a.wav", audio.load(flac)[0], 16000)
    assert audio.info(tmp_path / "a.wav") == found
    assert audio.info(io.BytesIO(flac.read_bytes())) == found
    for name, reason in (("none.wav", "no such file"), ("text.wav", "Format not recognised"), (".", "cannot read")):
        (tmp_path / "text.wav").write_text("not audio")
        with pytest.raises(AudioFileError, match=reason):
            audio.info(tmp_path / name)


@given(
    st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]),
    st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000]),
    st.lists(st.floats(0.001, 2.6), min_size=1, max_size=4, unique=True),
)
def test_segments_that_follow_one_another_are_the_whole_resampled(noise, rate, target, cuts):
    path = noise(rate)
    points = [0.0, *sorted(cuts), None]
    pairs = [(a, b) for a, b in pairwise(points) if b is None or round(a * target) < round(b * target)]
    joined = torch.cat([audio.load(path, sample_rate=target, start=a, end=b)[0] for a, b in pairs], 1)
    whole = audio.load(path, sample_rate=target)[0]
    assert joined.shape == whole.shape
    if rate == target:
        assert torch.equal(joined, whole)
    else:
        assert float((joined - whole).abs().max()) < 1e-6


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """noise(rate) -> path of 2.7 s of noise in two channels."""
    folder = tmp_path_factory.mktemp("noise")

    def at(rate):
        path = folder / f"{rate}.wav"
        if not path.exists():
            samples = np.random.default_rng(0).uniform(-0.5, 0.5, (int(2.7 * rate) + 1, 2)).astype(np.float32)
            soundfile.write(path, samples, rate, subtype="FLOAT")
        return path

    return at


def test_a_segment_mixes_channels_as_the_whole_does(noise):
    path = noise(44100)
    whole = audio.load(path, sample_rate=16000, channels=1)[0]
    part = audio.load(path, sample_rate=16000, channels=1, start=0.5, end=1.25)[0]
    assert part.shape == (1, 12000)
    assert float((part - whole[:, 8000:20000]).abs().max()) < 1e-6
    assert part.untyped_storage().nbytes() == part.nbytes  # the whole is not kept behind it


def test_a_segment_may_end_10_ms_behind_the_file(flac):
    whole, rate = audio.load(flac)
    seconds = whole.shape[1] / rate
    for end in (seconds, seconds + 0.009, None):
        assert torch.equal(audio.load(flac, start=seconds - 1, end=end)[0], whole[:, -rate:])
    with pytest.raises(InputError, match=r"has .* s: there is no segment from 18 s to"):
        audio.load(flac, start=18, end=seconds + 0.011)


@pytest.mark.parametrize(
    ("start", "end"),
    [(-0.1, None), (-1, 1), (2, 1), (1, 1), (99, None), (99, 100), (0, 99), (float("nan"), 1), (0, -1)],
)
def test_a_segment_must_lie_in_the_file(flac, start, end):
    with pytest.raises(InputError, match=r"flac has \d+\.\d+ s: there is no segment from"):
        audio.load(flac, start=start, end=end)


@pytest.mark.parametrize(
    ("ending", "rate", "tolerance"),
    [
        ("flac", 44100, 0),
        ("wav", 44100, 0),
        ("mp3", 44100, 3e-7),
        ("mp3", 16000, 3e-7),
        ("ogg", 44100, 0),
        ("ogg", 8000, 0),
        ("opus", 48000, 0),
        ("opus", 16000, 2e-3),  # what Opus decodes depends a little on all that it decoded before
    ],
)
def test_compressed_files_are_entered_at_the_right_sample(tmp_path, flac, ending, rate, tolerance):
    wav = audio.load(flac, sample_rate=rate)[0]
    audio.save(tmp_path / f"a.{ending}", wav, rate)
    whole = audio.load(tmp_path / f"a.{ending}")[0]
    for start in (0.0, 0.3, 1.7, 6.0, 9.123456, 12.5):
        part = audio.load(tmp_path / f"a.{ending}", start=start, end=start + 0.5)[0]
        first = round(start * rate)
        assert part.shape[1] == round((start + 0.5) * rate) - first
        assert float((part - whole[:, first : first + part.shape[1]]).abs().max()) <= tolerance


def test_a_truncated_file_gives_the_segments_before_its_end(tmp_path, flac):
    whole, rate = audio.load(flac)
    (tmp_path / "cut.flac").write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    assert torch.equal(audio.load(tmp_path / "cut.flac", start=1, end=2)[0], whole[:, rate : 2 * rate])
    with pytest.raises(AudioFileError, match=r"cut\.flac"):
        audio.load(tmp_path / "cut.flac", start=17, end=18)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_the_last_page_of_a_vorbis_file_is_entered_at_the_right_sample(tmp_path, flac, rate):
    audio.save(tmp_path / "a.ogg", audio.load(flac, sample_rate=rate, end=4.0017)[0], rate)
    whole = audio.load(tmp_path / "a.ogg")[0]
    for start in (1.0, 2.8, 3.5, 3.9):
        part = audio.load(tmp_path / "a.ogg", start=start)[0]
        assert torch.equal(part, whole[:, round(start * rate) :])


@pytest.mark.parametrize("ending", ["mp3", "ogg", "opus", "flac"])
def test_long_compressed_files_are_read_in_blocks_as_in_one(tmp_path, flac, ending):
    rate, opus = (48000, True) if ending == "opus" else (44100, False)
    wav = audio.load(flac, sample_rate=rate)[0].repeat(1, 4)[0, : int(60.9 * rate)]  # a block ends in the last page
    path, kind = tmp_path / f"a.{ending}", {"format": "OGG", "subtype": "OPUS"} if opus else {}
    with soundfile.SoundFile(path, "w", rate, 1, **kind) as file:
        for block in wav.split(rate):
            file.write(block.numpy())
    samples, _ = soundfile.read(path, dtype="float32")
    loaded = audio.load(path)[0][0].numpy()
    assert loaded.shape == samples.shape
    assert float(np.abs(loaded - samples).max()) < 3e-7


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_three_minutes_can_be_written_in_a_lossy_format(ending, speech, tmp_path):
    """libsndfile's Vorbis encoder crashes the process when it is given a minute or more at once."""
    wav = torch.cat(speech * 30, 1)[:, : 180 * 16000]
    audio.save(tmp_path / f"long.{ending}", wav, 16000)
    read, rate = audio.load(tmp_path / f"long.{ending}", sample_rate=16000)
    assert rate == 16000
    assert abs(read.shape[1] - wav.shape[1]) <= 2304
    count = min(read.shape[1], wav.shape[1])
    assert torch.corrcoef(torch.stack([read[0, :count], wav[0, :count]]))[0, 1] > 0.9


def test_an_mp3_without_audio_is_not_called_missing(tmp_path):
    (tmp_path / "a.mp3").write_text("hello")
    with pytest.raises(AudioFileError, match=r"a\.mp3: no audio in it"):
        audio.load(tmp_path / "a.mp3")
