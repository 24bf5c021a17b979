"""Spherical, mini-batch and several starts: what the tokenizers that they make do."""

import pytest
import torch

import audiotok
from audiotok.errors import InputError, UnsupportedError
from audiotok.fit.clusters import with_lengths
from audiotok.fit.job import Job
from audiotok.fit.stream import Streams
from audiotok.testing import check_tokenizer
from tests.fit.test_fit_resume import SSL

OPTIONS = {"engine": "torch", "iterations": 3, "progress": False, "num_workers": 0}


def frames_of(tok, paths):
    wavs = [audiotok.audio.load(path, sample_rate=16000, channels=1)[0] for path in paths]
    return torch.cat([tok.features([wav])[0][0].T for wav in wavs])


# ---- spherical -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_a_spherical_tokenizer_looks_up_by_direction(engine, clips, speech):
    tok = audiotok.fit_kmeans(clips, k=24, spherical=True, **{**OPTIONS, "engine": engine})
    check_tokenizer(tok, speech)
    frames = frames_of(tok, clips[:3])
    cosine = (
        torch.nn.functional.normalize(frames.double(), dim=1)
        @ torch.nn.functional.normalize(tok.codebooks[0].double(), dim=1).t()
    )
    found = tok._quantize(frames.T[None])[0, 0]
    assert torch.equal(found, cosine.argmax(1))
    assert not torch.equal(found, torch.cdist(frames.double(), tok.codebooks[0].double()).argmin(1))
    report = audiotok.FitReport(**tok.provenance["fit"])
    assert report.spherical
    assert report.distortion[0] < 0.6 * report.variance[0]  # centroids have the length of their frames


def test_lengths_are_those_that_decode_best():
    rows = torch.tensor([[2.0, 0.1], [4.0, -0.1], [0.0, 5.0]])
    found = with_lengths(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), rows)
    assert torch.allclose(found, torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]))  # nothing is near the last


def test_spherical_layers_of_an_ssl_model(clips, speech, tmp_path):
    tok = audiotok.fit_kmeans(clips, features=SSL, layers=[2, 5], k=10, spherical=True, **OPTIONS)
    check_tokenizer(tok, speech)
    states = tok.features([speech[0]])[0][0].T.double()
    for row, part in enumerate(states.split(states.shape[1] // 2, dim=1)):
        tables = torch.nn.functional.normalize(tok.codebooks[row].double(), dim=1)
        wanted = (torch.nn.functional.normalize(part, dim=1) @ tables.t()).argmax(1)
        assert torch.equal(tok.encode([speech[0]]).tokens[0, row], wanted)
    with pytest.raises(UnsupportedError, match="its lookup is cosine"):
        tok.near_ties([speech[0]])
    with pytest.raises(InputError, match="lookup must be"):
        type(tok)(tok.spec, tok.encoder.config, tok.layers, lookup="hamming")


def test_the_usual_lookup_is_not_written_down_so_that_fingerprints_stay(small):
    assert "lookup" not in small._config()
    logmel = audiotok.load("logmel-16khz")
    assert logmel.fingerprint == logmel._hash()


# ---- several starts --------------------------------------------------------------------------------


def test_the_best_of_several_starts_is_kept(clips):
    one, five = (audiotok.fit_kmeans(clips, k=40, restarts=n, max_frames=900, **OPTIONS) for n in (1, 5))
    frames = frames_of(one, clips)
    left = [float(torch.cdist(frames, tok.codebooks[0]).min(1).values.square().mean()) for tok in (one, five)]
    assert left[1] <= left[0] * 1.005
    assert five.provenance["fit"]["restarts"] == 5


# ---- mini-batches ----------------------------------------------------------------------------------


def test_mini_batches_of_every_frame_come_near_a_fit_on_all_of_them(clips, speech):
    stream, whole = (audiotok.fit_kmeans(clips, k=32, minibatch=on, **OPTIONS) for on in (True, False))
    check_tokenizer(stream, speech)
    report = audiotok.FitReport(**stream.provenance["fit"])
    assert report.minibatch
    assert report.frames_used + report.frames_held_out == report.frames_seen
    frames = frames_of(whole, clips)
    assert report.frames_seen == len(frames)
    left = [float(torch.cdist(frames, tok.codebooks[0]).min(1).values.square().mean()) for tok in (stream, whole)]
    assert left[0] < 1.1 * left[1]


def test_mini_batches_hold_out_every_twentieth_frame_of_few_items(clips):
    report = audiotok.fit_kmeans(clips[:2], k=4, minibatch=True, **OPTIONS).provenance["fit"]
    tok = audiotok.load("logmel-16khz")
    frames = [frames_of(tok, [path]) for path in clips[:2]]
    held = torch.cat([one[19::20] for one in frames]).double()
    assert report["frames_held_out"] == len(held)
    assert report["variance"][0] == pytest.approx(float((held - held.mean(0)).square().sum(1).mean()), rel=1e-6)


def test_mini_batches_of_layers_go_on_after_an_interruption(clips, tmp_path, monkeypatch):
    options = {"features": SSL, "layers": [2, 5], "minibatch": True, "spherical": True, **OPTIONS}
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audiotok.fit_several(clips, [6, 9], out_dir=tmp_path, **options)
    again = audiotok.fit_several(clips, [6, 9], out_dir=tmp_path, **options)
    whole = audiotok.fit_several(clips, [6, 9], **options)
    assert {k: tok.fingerprint for k, tok in again.items()} == {k: tok.fingerprint for k, tok in whole.items()}


def test_streams_go_on_where_they_were_and_keep_to_their_bytes():
    def streams():
        return Streams([4, 7], 2, 3, seed=1, spherical=False, max_bytes=4 * 3 * 2 * 11 * 50, device="cpu")

    rows = torch.randn(30, 700, 6, generator=torch.Generator().manual_seed(0))
    whole, first, second = streams(), streams(), streams()
    for part in rows:
        whole.add(part)
    for part in rows[:13]:
        first.add(part)
    second.load_state_dict(first.state_dict())
    for part in rows[13:]:
        second.add(part)
    for k in (4, 7):
        for group in (0, 1):
            assert torch.equal(whole.centroids(k, group, 3), second.centroids(k, group, 3))
    kept = [value for name, value in whole.state_dict().items() if name.endswith(".sample")]
    assert sum(value.nbytes for value in kept) == 4 * 3 * 2 * 11 * 50


def test_mini_batches_do_not_start_over(clips):
    with pytest.raises(InputError, match="minibatch sees every frame once"):
        audiotok.fit_kmeans(clips, minibatch=True, restarts=2, **OPTIONS)
