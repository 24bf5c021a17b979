import builtins
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import audiotok
from audiotok.errors import AudioFileError, FitError, FitWarning, InputError, MissingDependencyError
from audiotok.fit import engines
from audiotok.fit.engines import choose_engine, fit_centroids
from audiotok.fit.sample import FrameSample
from audiotok.ssl.logmel import LogMel
from audiotok.testing import check_tokenizer

QUIET = {"progress": False, "iterations": 3}


# ---- the sample ------------------------------------------------------------------------------------


def fill(order: list[int], size: int = 50) -> FrameSample:
    sample = FrameSample(size, dim=2, seed=7)
    for file in order:
        frames = torch.stack([torch.full((400 + 31 * file,), float(file)), torch.arange(400.0 + 31 * file)], dim=1)
        sample.add(frames, file=file)
    return sample


def test_the_sample_does_not_depend_on_the_order_of_the_files():
    one, other = fill(list(range(20))), fill(list(range(19, -1, -1)))
    assert torch.equal(one.frames(), other.frames())
    assert one.seen == other.seen == sum(400 + 31 * file for file in range(20))


def test_the_sample_has_no_frame_twice_and_is_uniform():
    counts = np.zeros(10)
    for seed in range(200):
        sample = FrameSample(50, dim=1, seed=seed)
        for file in range(10):
            sample.add(torch.arange(100.0)[:, None] + 100 * file, file=file)
        frames = sample.frames()[:, 0]
        assert len(frames.unique()) == 50
        counts += np.bincount((frames // 100).long(), minlength=10)
    # 10000 draws over 10 files: 1000 each, deviation 30 (less, without replacement); five deviations are allowed
    assert np.abs(counts - 1000).max() < 150


def test_a_sample_of_few_frames_holds_them_all_and_one_of_many_stays_small():
    sample = FrameSample(1000, dim=1, seed=0)
    sample.add(torch.arange(10.0)[:, None], file=0)
    assert sorted(sample.frames()[:, 0].tolist()) == list(range(10))
    for file in range(1, 60):
        sample.add(torch.randn(5000, 1), file=file)
    assert sample.frames().shape == (1000, 1)
    assert sample._frames.nbytes <= (1000 + 4096) * 4
    with pytest.raises(InputError, match="holds nothing"):
        FrameSample(0, 1, 0)


# ---- engines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_engines_find_separate_blobs(engine):
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [90.0, 90.0]])
    rows = (centres[:, None] + torch.randn(4, 100, 2, generator=torch.Generator().manual_seed(0))).reshape(-1, 2)
    found = fit_centroids(rows, 4, engine=engine, iterations=5, seed=0)
    wanted = rows.reshape(4, 100, 2).mean(1)
    order = torch.cdist(wanted, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert float((found[order] - wanted).abs().max()) < 1e-4
    assert torch.equal(found, fit_centroids(rows, 4, engine=engine, iterations=5, seed=0))


def test_both_engines_reach_about_the_same_distortion(clips):
    found = {
        engine: audiotok.fit_kmeans(clips, k=50, engine=engine, **QUIET).provenance["fit"]
        for engine in ("faiss", "torch")
    }
    assert found["faiss"]["engine"] == "faiss"
    assert found["faiss"]["distortion"][0] == pytest.approx(found["torch"]["distortion"][0], rel=0.03)


def test_faiss_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch):
    inner = builtins.__import__

    def without_faiss(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError("no faiss")
        return inner(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(MissingDependencyError, match=r"pip install 'audiotok\[faiss\]'"):
        choose_engine("faiss", torch.device("cpu"))
    with pytest.raises(InputError, match="engine must be"):
        choose_engine("sklearn", torch.device("cpu"))
    assert choose_engine("auto", torch.device("cuda")) == "torch"


@pytest.mark.parametrize(("fast", "engine"), [(True, "torch"), (False, "faiss")])
def test_auto_is_the_cheaper_engine_of_this_cpu(monkeypatch, fast, engine):
    monkeypatch.setattr(engines, "fast_bfloat16", lambda: fast)
    assert choose_engine("auto", torch.device("cpu")) == engine


# ---- the whole way ---------------------------------------------------------------------------------


def test_a_fitted_tokenizer_conforms_and_survives_save_and_load(clips, speech, tmp_path):
    tok = audiotok.fit_kmeans(clips, k=40, num_codebooks=2, **QUIET)
    check_tokenizer(tok, speech)
    tok.save(tmp_path / "my-tok")
    loaded = audiotok.load(tmp_path / "my-tok")
    assert torch.equal(loaded.encode(speech).tokens, tok.encode(speech).tokens)
    assert loaded.provenance == tok.provenance
    assert (loaded.spec.name, loaded.spec.codebook_sizes) == ("logmel-k40x2", (40, 40))


def test_the_report_says_what_the_frames_say(clips, speech):
    tok = audiotok.fit_kmeans(clips, k=30, num_codebooks=3, engine="torch", **QUIET)
    report = audiotok.FitReport(**tok.provenance["fit"])
    assert (report.files, report.files_failed, report.k, report.num_codebooks) == (14, 0, 30, 3)
    seconds = sum(soundfile.info(path).duration for path in clips)
    assert report.hours == pytest.approx(seconds / 3600, rel=1e-4)
    assert report.frames_seen == report.frames_used + report.frames_held_out
    assert report.frames_held_out == round(0.05 * report.frames_seen)
    assert report.variance[0] > report.distortion[0] > report.distortion[1] > report.distortion[2] > 0
    assert all(
        0 < usage <= 1 and 1 < perplexity <= 30
        for usage, perplexity in zip(report.usage, report.perplexity, strict=True)
    )
    assert report.table().count("\n") == 4


def test_the_same_seed_gives_the_same_tokenizer_and_another_one_another(clips):
    fits = [audiotok.fit_kmeans(clips, k=20, engine="torch", seed=seed, **QUIET) for seed in (3, 3, 4)]
    assert fits[0].fingerprint == fits[1].fingerprint != fits[2].fingerprint


def test_more_codebooks_leave_less(clips, speech):
    tok = audiotok.fit_kmeans(clips, k=64, num_codebooks=4, **QUIET)
    frames, _ = tok.features(speech[0])
    codes = tok.encode(speech[0])
    left = [float((frames - tok.embed(codes.truncate(k))).square().sum(1).mean()) for k in (1, 2, 3, 4)]
    assert left == sorted(left, reverse=True)
    assert left[3] < 0.5 * left[0]


def test_files_held_out_are_never_fitted_on(tmp_path):
    """With many files whole files are held out: here every file is a tone of its own."""
    for i in range(40):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * i) * np.arange(16000) / 16000)
        soundfile.write(tmp_path / f"{i:02d}.wav", tone, 16000)
    tok = audiotok.fit_kmeans(tmp_path, k=38, engine="torch", iterations=20, progress=False)
    report = audiotok.FitReport(**tok.provenance["fit"])
    assert report.frames_held_out == 2 * 50
    assert report.frames_used == 38 * 50
    fitted = tok.encode([audiotok.audio.load(path)[0] for path in sorted(tmp_path.glob("*.wav"))])
    error = tok.features([audiotok.audio.load(p)[0] for p in sorted(tmp_path.glob("*.wav"))])[0] - tok.embed(fitted)
    far = (error.square().sum(1).mean(1) > 50).nonzero()[:, 0]
    assert len(far) == 2  # exactly the two whose tone no centre knows


def test_a_byte_budget_bounds_the_sample(clips):
    tok = audiotok.fit_kmeans(clips, k=8, max_bytes=320 * 1000, **QUIET)
    assert tok.provenance["fit"]["frames_used"] + tok.provenance["fit"]["frames_held_out"] == 1000


def test_other_logmel_values_and_codebooks_work(clips, speech):
    mel = LogMel(sample_rate=8000, n_fft=256, hop_length=100, n_mels=40)
    tok = audiotok.fit_kmeans(clips, features=mel, k=16, name="narrow", **QUIET)
    assert (tok.spec.name, tok.spec.frame_rate) == ("narrow", 80.0)
    check_tokenizer(tok)


def test_unreadable_files_are_left_out_and_named(clips, tmp_path):
    shutil.copy(clips[4], tmp_path / "good.flac")
    (tmp_path / "bad.flac").write_bytes(clips[4].read_bytes()[:1000])
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.warns(FitWarning, match=r"2 of 3 items could not be read: .*bad\.flac.*nan\.wav"):
        tok = audiotok.fit_kmeans(tmp_path, k=4, **QUIET)
    assert tok.provenance["fit"]["files_failed"] == 2
    (tmp_path / "good.flac").unlink()
    with pytest.raises(FitError, match="2 of 2 items could not be read"):
        audiotok.fit_kmeans(tmp_path, k=4, **QUIET)


def test_data_that_cannot_be_fitted_is_a_fit_error(clips, tmp_path):
    with pytest.raises(FitError, match="100000 clusters were asked for, but the 14 readable items give"):
        audiotok.fit_kmeans(clips, k=100000, **QUIET)
    soundfile.write(tmp_path / "silence.wav", np.zeros(160000), 16000)
    with pytest.raises(FitError, match="all frames are the same: is the audio silent"):
        audiotok.fit_kmeans(tmp_path, k=4, **QUIET)
    tone = np.concatenate([np.zeros(80000), np.full(80000, 0.3)])  # few different frames
    soundfile.write(tmp_path / "silence.wav", tone, 16000)
    with pytest.raises(FitError, match="of the frames differ: lower k"):
        audiotok.fit_kmeans(tmp_path, k=100, **QUIET)


def test_few_frames_for_many_clusters_is_a_warning(clips):
    with pytest.warns(FitWarning, match=r"frames for 1000 clusters is few"):
        audiotok.fit_kmeans(clips, k=1000, progress=False, iterations=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"num_codebooks": 0}, "num_codebooks must be at least 1"),
        ({"max_bytes": 0}, "max_bytes must be at least 1"),
        ({"layers": [3]}, "log-mel has none"),
        ({"features": "mfcc"}, 'features must be "logmel"'),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"engine": "sklearn"}, "engine must be"),
    ],
)
def test_wrong_arguments_are_input_errors(clips, arguments, message):
    with pytest.raises(InputError, match=message):
        audiotok.fit_kmeans(clips, **arguments)


def test_a_folder_that_is_not_there_or_holds_no_audio(tmp_path):
    with pytest.raises(InputError, match="no audio in"):
        audiotok.fit_kmeans(tmp_path)
    with pytest.raises(AudioFileError, match="no such file or folder"):
        audiotok.fit_kmeans(tmp_path / "gone")


# ---- SSL features ----------------------------------------------------------------------------------

SSL = Path(__file__).parent / "fixtures" / "speechbrain-discrete-ssl" / "wavlm-large-like" / "ssl"


def test_layers_of_an_ssl_model_are_fitted_in_one_pass_and_conform(clips, speech, tmp_path):
    fits = audiotok.fit_several(clips, [12, 30], features=SSL, layers=[5, 2], engine="torch", **QUIET)
    assert list(fits) == [12, 30]
    for k, tok in fits.items():
        assert tok.layers == (2, 5)
        assert tok.spec.codebook_sizes == (k, k)
        report = audiotok.FitReport(**tok.provenance["fit"])
        assert (report.features, report.layers) == ("ssl", [2, 5])
        assert all(left < variance for left, variance in zip(report.distortion, report.variance, strict=True))
        assert "| 5 |" in report.table()
        check_tokenizer(tok, speech)
    assert fits[30].provenance["fit"]["distortion"][0] < fits[12].provenance["fit"]["distortion"][0]
    fits[30].save(tmp_path)
    assert torch.equal(audiotok.load(tmp_path).encode(speech).tokens, fits[30].encode(speech).tokens)


def test_ssl_centroids_are_those_of_the_frames_each_file_has_alone(clips):
    tok = audiotok.fit_kmeans(clips[:4], features=SSL, layers=[3], k=5, engine="torch", iterations=60, progress=False)
    frames = torch.cat(
        [tok.features(audiotok.audio.load(path, sample_rate=16000, channels=1)[0])[0][0].T for path in clips[:4]]
    )
    assert tok.provenance["fit"]["frames_seen"] == len(frames)
    nearest = torch.cdist(frames.double(), tok.codebooks[0].double()).argmin(1)
    means = torch.stack([frames[nearest == i].mean(0) for i in range(5)])
    # 5 % of the frames are held out, and the rest converged
    assert float((means - tok.codebooks[0]).norm(dim=1).max()) < 0.1 * float(frames.std(0).norm())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": SSL}, r"say which layers of .* to fit: layers=\[7\]"),
        ({"features": SSL, "layers": [99]}, "layers must lie in 0"),
        ({"features": SSL, "layers": [3], "num_codebooks": 2}, "one codebook for each of its layers"),
        ({"features": "wavlm-large"}, r"SSL model's folder \(\./wavlm-large\) or Hub repository"),
    ],
)
def test_wrong_ssl_arguments_are_input_errors(clips, arguments, message):
    with pytest.raises(InputError, match=message):
        audiotok.fit_kmeans(clips, **arguments)
