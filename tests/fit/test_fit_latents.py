"""k-means over a codec's latents: the codec's own frames, and back to sound through its decoder."""

import json
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.backends.latent_kmeans import LatentKMeans
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.fit import features
from audiotok.testing import check_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
OPTIONS = {"engine": "torch", "iterations": 2, "progress": False, "num_workers": 0}
CODECS = {
    "mimi": ("mimi", "mimi/tiny-8cb"),
    "encodec": ("encodec", "encodec-native/24k-mono-causal"),
    "snac": ("snac", "snac/noattn_3levels"),
    "s3tokenizer": ("s3tokenizer", "s3tokenizer/v1-25hz"),
}


def codec(name):
    family, folder = CODECS[name]
    found = FIXTURES / folder
    for path in [found, *sorted(found.iterdir())]:
        try:
            return audiotok.convert(family, path)
        except CheckpointError:
            continue
    raise AssertionError(name)


@pytest.mark.parametrize(("name", "decodes"), [("mimi", True), ("snac", True), ("s3tokenizer", False)])
def test_a_tokenizer_over_latents_conforms(name, decodes, clips, tmp_path):
    base = codec(name)
    tok = audiotok.fit_kmeans(clips[4:8], features=base, k=5, num_codebooks=2, **OPTIONS)
    wav = audiotok.audio.load(clips[5], sample_rate=base.spec.sample_rate, channels=1)[0]
    check_tokenizer(tok, [wav[:, : int(seconds * base.spec.sample_rate)] for seconds in (0.9, 0.53, 0.31)])
    assert (tok.family, tok.spec.decodable, tok.spec.name) == ("latent-kmeans", decodes, f"{base.spec.name}-k5x2")
    assert (tok.spec.frame_rate, tok.spec.codebook_sizes) == (base.spec.frame_rate, (5, 5))
    report = audiotok.FitReport(**tok.provenance["fit"])
    assert (report.features, report.frame_rate) == (base.spec.name, base.spec.frame_rate)
    wavs = [audiotok.audio.load(path, sample_rate=base.spec.sample_rate, channels=1)[0] for path in clips[4:8]]
    frames = [base.features([wav])[0] for wav in wavs]
    kept = [[tok.embed(codes.truncate(count)) for codes in (tok.encode([wav]) for wav in wavs)] for count in (1, 2)]
    left = [sum(float((a - b).square().sum()) for a, b in zip(frames, one, strict=True)) for one in kept]
    spread = torch.cat(frames, 2)[0]
    assert left[1] < left[0] < float((spread - spread.mean(1, keepdim=True)).square().sum())
    assert tok.provenance["codec_fingerprint"] == base.fingerprint


def test_tokens_are_the_nearest_centres_of_the_codecs_features(clips):
    base = codec("mimi")
    tok = audiotok.fit_kmeans(clips[4:6], features=base, k=4, **OPTIONS)
    wav = audiotok.audio.load(clips[5], sample_rate=tok.spec.sample_rate, channels=1)[0]
    features, lengths = base.features([wav])
    codes = tok.encode([wav])
    nearest = torch.cdist(features[0].T.double(), tok.codebooks[0].double()).argmin(1)
    assert torch.equal(codes.tokens[0, 0], nearest)
    assert int(codes.lengths[0]) == int(lengths[0])
    decoded = base._synthesize(tok.embed(codes))[0, :, : wav.shape[1]]
    assert torch.allclose(tok.decode(codes)[0], decoded, atol=1e-6)


def test_long_audio_goes_through_the_codec_in_pieces(clips):
    tok = audiotok.fit_kmeans(clips[4:6], features=codec("encodec"), k=4, **OPTIONS)
    assert isinstance(tok, LatentKMeans)
    wav = audiotok.audio.load(clips[0], sample_rate=tok.spec.sample_rate, channels=1)[0]
    whole, decoded = tok.encode([wav]), tok.decode(tok.encode([wav]))
    tok.chunk_seconds = 0.4
    pieces = list(tok.latents(wav))
    assert len(pieces) == -(-wav.shape[1] // round(0.4 * tok.spec.sample_rate))
    assert torch.equal(tok.encode([wav]).tokens, whole.tokens)
    assert torch.allclose(tok.decode(whole), decoded, atol=1e-5)


def test_latents_may_come_from_a_saved_folder_or_a_name(clips, tmp_path):
    base = codec("mimi")
    base.save(tmp_path / "codec")
    fits = [audiotok.fit_kmeans(clips[4:6], features=one, k=4, **OPTIONS) for one in (base, tmp_path / "codec")]
    assert fits[0].fingerprint == fits[1].fingerprint
    named = audiotok.fit_kmeans(clips[4:6], features="logmel-16khz", k=4, **OPTIONS)
    plain = audiotok.fit_kmeans(clips[4:6], k=4, **OPTIONS)
    assert torch.equal(named.codebooks[0], plain.codebooks[0])  # the same frames
    wav = audiotok.audio.load(clips[4], channels=1)[0]
    assert torch.equal(named.decode(named.encode(wav)), plain.decode(plain.encode(wav)))


def test_what_has_no_latents_or_layers_is_refused(clips, tmp_path):
    base = codec("mimi")
    with pytest.raises(InputError, match="layers= is for an SSL model given as features; .* has none"):
        audiotok.fit_kmeans(clips, features=base, layers=[1])
    tok = audiotok.fit_kmeans(clips[4:6], features=base, k=4, **OPTIONS)
    with pytest.raises(InputError, match="is k-means over latents already"):
        audiotok.fit_kmeans(clips, features=tok)
    with pytest.raises(UnsupportedError, match="mode='encode'"):
        audiotok.fit_kmeans(clips, features=codec("mimi").use_mode("encode"))
    with pytest.raises(InputError, match=r"latents of .* have \d+ values, not \[3\]"):
        LatentKMeans.of(base, [torch.zeros(2, 3)], name="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": {"family": "latent-kmeans", "spec": {}, "config": {}}}, "that has latents of its own"),
        ({"codec": {"family": "mimi", "spec": {}}}, "that has latents of its own"),
        ({"lookup": "hamming"}, 'lookup must be "euclidean" or "cosine"'),
        ({"dim": 7}, r"entries is \[4, 32\], its config says \[4, 7\]"),
    ],
)
def test_a_config_that_lies_is_a_checkpoint_error(clips, tmp_path, change, message):
    audiotok.fit_kmeans(clips[4:6], features=codec("mimi"), k=4, **OPTIONS).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        audiotok.load(tmp_path)


def test_a_hub_repository_is_a_codec_or_an_ssl_model_by_what_its_config_says(clips, tmp_path, monkeypatch):
    base, asked = codec("mimi"), []
    base.save(tmp_path)
    ssl = FIXTURES / "speechbrain-discrete-ssl" / "wavlm-large-like" / "ssl"
    folders = {"user/codec": tmp_path, "user/ssl": ssl}

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return folders[repository] / file

    monkeypatch.setattr(features, "download", download)
    monkeypatch.setattr(features, "download_encoder", lambda name: folders[name.partition("@")[0]])
    monkeypatch.setattr(features, "load", lambda name, device: audiotok.load(folders[name.partition("@")[0]]))
    latents = audiotok.fit_kmeans(clips[4:6], features="user/codec@v2", k=4, **OPTIONS)
    states = audiotok.fit_kmeans(clips[4:6], features="user/ssl", layers=[2], k=4, **OPTIONS)
    assert asked == [("user/codec", "config.json", "v2"), ("user/ssl", "config.json", None)]
    assert latents.provenance["codec_fingerprint"] == base.fingerprint
    assert (states.source, states.provenance["fit"]["features"]) == ("user/ssl@ssl", "user/ssl@ssl")  # @commit
    assert states.provenance["layer_indexing"].startswith("0 enters the first block, L leaves block L")
