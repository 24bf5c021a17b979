"""The parts of training: draws, losses, sizes, segments."""

from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.errors import FitError, InputError
from audiotok.spec import Spec
from audiotok.ssl.vocoder import UnitVocoder
from audiotok.train.losses import discriminator_loss, feature_loss, generator_loss, mel_loss, mel_of
from audiotok.train.segments import Segments
from audiotok.train.sizes import factors_of, vocoder_config
from audiotok.train.vocoder_parts import draw_layers, embed_centroids, with_weight_norm
from audiotok.train.vocoder_training import VocoderTraining

AUDIO = Path(__file__).parents[1] / "data" / "audio"


def test_layers_are_drawn_uniformly_in_number_and_kind():
    draws = [draw_layers(4, seed=1, step=step) for step in range(4000)]
    numbers = torch.tensor([len(draw) for draw in draws]).bincount(minlength=5)
    assert numbers[0] == 0
    assert (numbers[1:] - 1000).abs().max() < 120  # four standard deviations
    kinds = torch.tensor([layer for draw in draws for layer in draw]).bincount()
    assert (kinds - 2500).abs().max() < 130
    assert all(draw == sorted(set(draw)) for draw in draws)
    assert min(len(draw_layers(4, seed=1, step=step, fewest=3)) for step in range(200)) == 3


def test_losses_are_those_of_the_papers():
    real = [(torch.tensor([[2.0, 0.5]]), [torch.tensor([1.0, 2.0])])]
    fake = [(torch.tensor([[-2.0, 0.5]]), [torch.tensor([0.0, 4.0])])]
    assert discriminator_loss(real, fake, "lsgan").item() == pytest.approx((1 + 0.25) / 2 + (4 + 0.25) / 2)
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert generator_loss(fake, "lsgan").item() == pytest.approx((9 + 0.25) / 2)
    assert generator_loss(fake, "hinge").item() == pytest.approx(0.75)
    assert feature_loss(real, fake).item() == pytest.approx(1.5)


def test_the_mel_loss_has_a_gradient_and_is_zero_for_the_same_audio():
    mel = mel_of(16000)
    assert (mel.n_fft, mel.hop_length, mel_of(24000).n_fft, mel_of(44100).n_fft) == (1024, 256, 2048, 2048)
    target = torch.randn(2, 1, 4000)
    wav = (target * 0.5).requires_grad_()
    loss = mel_loss(wav, target, mel)
    loss.backward()
    assert loss.item() == pytest.approx(0.6931, abs=1e-3)  # log 2 in every band
    assert float(wav.grad.abs().sum()) > 0
    assert mel_loss(target, target, mel).item() == 0


@pytest.mark.parametrize(
    ("hop", "factors"), [(320, (5, 4, 4, 2, 2)), (600, (5, 5, 4, 3, 2)), (1920, (5, 4, 4, 4, 3, 2))]
)
def test_any_hop_of_small_factors_gets_a_vocoder(hop, factors):
    assert factors_of(hop) == factors
    spec = Spec("x", sample_rate=24000, hop_length=hop, codebook_sizes=(5, 7))
    vocoder = UnitVocoder(vocoder_config(spec, "tiny", layers=(3, 9)))
    assert vocoder.decode(torch.zeros(1, 1, 3, dtype=torch.int64), layers=[9]).shape[2] == 3 * hop


def test_the_published_size_is_the_published_network():
    config = vocoder_config(Spec("x", 16000, 320, (1000,) * 6), layers=(1, 3, 7, 12, 18, 23))
    with torch.device("meta"):
        vocoder = UnitVocoder(config)
    assert vocoder.embedding.weight.shape == (6001, 1024)
    assert config.upsample_kernels == (11, 8, 8, 4, 4)


def test_a_hop_with_a_large_prime_and_an_unknown_size_are_refused():
    with pytest.raises(InputError, match="a hop of 34 samples has a factor above 16"):
        factors_of(34)
    with pytest.raises(InputError, match="size must be one of published, small, tiny"):
        vocoder_config(Spec("x", 16000, 320, (5,)), "huge")


def test_segments_are_pieces_of_the_audio_with_their_tokens(small):
    files = [AUDIO / f"speech_{name}.flac" for name in ("en_1", "fr_2", "it_2")]
    segments = Segments(small, files, frames=20, seed=0)
    tokens, wav = segments.draw(3, 8)
    assert (tokens.shape, wav.shape) == ((8, 3, 20), (8, 1, 6400))
    whole = [small.encode_file(path).tokens[0] for path in files]
    loaded = [audiotok.audio.load(path)[0] for path in files]
    for row, samples in zip(tokens, wav, strict=True):
        places = [
            (number, first)
            for number, one in enumerate(whole)
            for first in range(one.shape[1] - 19)
            if torch.equal(one[:, first : first + 20], row)
        ]
        audio = [loaded[number][:, first * 320 : (first + 20) * 320] for number, first in places]
        assert any(torch.equal(samples[:, : one.shape[1]], one) for one in audio)


def test_draws_depend_on_seed_step_and_process_alone(small, tmp_path):
    files = [AUDIO / f"speech_{name}.flac" for name in ("en_1", "fr_2")]
    first = Segments(small, files, frames=20, seed=0, cache=tmp_path / "tokens.safetensors")
    again = Segments(small, files, frames=20, seed=0, cache=tmp_path / "tokens.safetensors")
    first.draw(0, 4)
    assert torch.equal(first.draw(7, 4)[1], again.draw(7, 4)[1])
    others = [again.draw(8, 4), again.draw(7, 4, process=1), Segments(small, files, frames=20, seed=1).draw(7, 4)]
    assert not any(torch.equal(first.draw(7, 4)[1], wav) for _, wav in others)


def test_kept_tokens_are_used_only_for_the_same_tokenizer_and_files(small, tmp_path, monkeypatch):
    files, cache = [AUDIO / "speech_en_1.flac"], tmp_path / "tokens.safetensors"
    expected = Segments(small, files, frames=20, seed=0, cache=cache).draw(0, 2)[0]
    calls = []
    encode = type(small).encode_file
    monkeypatch.setattr(type(small), "encode_file", lambda self, path: calls.append(path) or encode(self, path))
    assert torch.equal(Segments(small, files, frames=20, seed=0, cache=cache).draw(0, 2)[0], expected)
    assert calls == []
    Segments(small, [*files, AUDIO / "speech_fr_2.flac"], frames=20, seed=0, cache=cache)
    assert len(calls) == 2
    cache.write_bytes(b"spoilt")
    Segments(small, files, frames=20, seed=0, cache=cache)
    assert len(calls) == 3


def test_files_that_cannot_be_used_are_left_out_and_listed(small, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    audiotok.audio.save(tmp_path / "short.wav", torch.zeros(1, 800), 16000)
    files = [tmp_path / "broken.wav", tmp_path / "short.wav", AUDIO / "speech_en_1.flac"]
    segments = Segments(small, files, frames=20, seed=0)
    assert [reason.partition(":")[0].rpartition("/")[2] for reason in segments.failed] == ["broken.wav", "short.wav"]
    with pytest.raises(FitError, match="none of 2 files can be used, each must hold 0.40 s: .*broken.wav"):
        Segments(small, files[:2], frames=20, seed=0)


def test_held_out_files_are_never_drawn(small):
    files = sorted(AUDIO.glob("speech_*.flac"))
    segments = Segments(small, files, frames=20, seed=0)
    assert segments.num_held_out == 1
    assert torch.equal(segments.held_out(4)[1], segments.held_out(4)[1])
    kept = {path for path, _ in segments._held_out}
    assert kept.isdisjoint(path for path, _ in segments._training)


def test_weight_norm_changes_no_audio(small):
    torch.manual_seed(0)
    vocoder = UnitVocoder(vocoder_config(small.spec, "tiny"))
    tokens = torch.randint(0, 32, (1, 3, 12))
    before = vocoder.decode(tokens)
    torch.testing.assert_close(with_weight_norm(vocoder).decode(tokens), before, rtol=0, atol=1e-6)
    assert any(name.endswith("weight.original0") for name in vocoder.state_dict())


def test_embeddings_can_begin_as_centroids(small):
    vocoder = UnitVocoder(vocoder_config(small.spec, "tiny"))
    before = vocoder.embedding.weight[0].clone()
    embed_centroids(vocoder, small.codebooks)
    weight = vocoder.embedding.weight.detach()
    assert torch.equal(weight[0], before)
    assert float(weight[1:].std()) == pytest.approx(1, abs=0.01)
    # A random projection keeps distances in the mean: near centroids stay near.
    mine, theirs = (torch.cdist(one, one).flatten() for one in (weight[1:33], small.codebooks[0]))
    assert float(torch.corrcoef(torch.stack([mine, theirs]))[0, 1]) > 0.9
    with pytest.raises(InputError, match=r"codebooks of \[32\] entries for a vocoder of \(32, 32, 32\)"):
        embed_centroids(vocoder, small.codebooks[:1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"decay": 2.0}, "decay must lie in 0..1"),
        ({"adversarial": "wgan"}, "adversarial must be one of"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"embedding": "zero"}, "embedding must be one of"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        VocoderTraining(**values)
