"""The unit vocoder gives upstream's audio, exact lengths, and the same audio in batches and in pieces."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.spec import Spec
from audiotok.ssl.vocoder import UnitVocoder
from audiotok.ssl.vocoder_config import VocoderConfig
from audiotok.ssl.vocoder_files import load_vocoder
from audiotok.tokenizer import Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
HIFIGAN = FIXTURES / "speechbrain-unit-hifigan"
DISCRETE = FIXTURES / "speechbrain-discrete-ssl"
TOLERANCE = 1e-4  # that of the fixtures


def array(path):
    return torch.from_numpy(np.load(path))


def unit_case(name):
    """The vocoder of a unit-hifigan fixture, its tokens [B, K, F] counted from 0 per layer, and its speakers."""
    folder = HIFIGAN / name
    meta = json.loads((folder / "meta.json").read_text())
    count = meta["codebooks"]
    starts = torch.arange(count)[:, None] * meta["clusters_per_layer"]
    tokens = array(folder / "codes.npy").transpose(1, 2) - starts
    speaker = array(folder / "speaker.npy") if meta["multi_speaker"] else None
    return load_vocoder(folder, layers=range(count)), tokens, speaker


def small_vocoder(**options):
    torch.manual_seed(3)
    sizes = {"embedding_dim": 8, "attention_dim": 6, "initial_channels": 64, **options}
    vocoder = UnitVocoder(VocoderConfig((1, 3, 7), (10, 12, 14), **sizes)).eval()
    for module in vocoder.modules():  # loud and lively, as a trained one
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            fan_in = module.in_channels * module.kernel_size[0] / module.stride[0]
            torch.nn.init.normal_(module.weight, std=fan_in**-0.5)
            torch.nn.init.zeros_(module.bias)
    return vocoder


def random_tokens(frames, rows=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 10, (rows, 3, frames), generator=generator)


# ---- upstream's audio ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["multi-layer-attention", "multi-speaker", "duration-predictor"])
def test_audio_is_upstreams(name):
    vocoder, tokens, speaker = unit_case(name)
    expected = array(HIFIGAN / name / "recon.npy")
    wav = vocoder.decode(tokens, speaker=speaker)
    assert wav.shape == expected.shape
    torch.testing.assert_close(wav, expected, rtol=0, atol=TOLERANCE)
    alone = vocoder.decode(tokens[:1], speaker=None if speaker is None else speaker[:1])
    torch.testing.assert_close(alone[0], array(HIFIGAN / name / "recon_unit_0.npy"), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["multi-layer-attention", "multi-speaker"])
def test_audio_without_a_layer_is_upstreams(name):
    vocoder, tokens, speaker = unit_case(name)
    kept = [layer for layer in vocoder.layers if layer != 1]
    wav = vocoder.decode(tokens[:, kept], layers=kept, speaker=speaker)
    expected = array(HIFIGAN / name / "recon_padded_layer.npy")
    torch.testing.assert_close(wav, expected, rtol=0, atol=TOLERANCE)


def test_decode_of_discrete_ssl_is_upstreams():
    folder = DISCRETE / "wavlm-large-like"
    vocoder = load_vocoder(folder / "vocoder")  # its layers read off the names of the k-means files
    assert (vocoder.layers, vocoder.config.codebook_sizes) == ((1, 3, 4, 5), (32,) * 4)
    tokens = array(folder / "codes.npy").transpose(1, 2)
    torch.testing.assert_close(vocoder.decode(tokens), array(folder / "recon.npy"), rtol=0, atol=TOLERANCE)
    subset = array(folder / "recon_subset_layers.npy").tolist()
    places = [vocoder.layers.index(layer) for layer in subset]
    wav = vocoder.decode(tokens[:1, places], layers=subset)
    torch.testing.assert_close(wav, array(folder / "recon_subset.npy"), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["hubert-large-like", "wav2vec2-pretraining-like", "wavlm-base-like"])
def test_decode_of_discrete_ssl_is_upstreams_with_fewer_layers_and_clusters(name):
    """The audio of these fixtures was made with the weights in wavlm-large-like's folder (upstream keeps the first
    vocoder it fetched), with this case's own layers and cluster counts as offsets into its embedding."""
    folder = DISCRETE / name
    meta = json.loads((folder / "meta.json").read_text())
    sizes = tuple(meta["num_clusters"])
    weights = load_vocoder(DISCRETE / "wavlm-large-like" / "vocoder")
    vocoder = UnitVocoder(replace(weights.config, layers=tuple(meta["layers"]), codebook_sizes=sizes)).eval()
    state = weights.state_dict()
    vocoder.load_state_dict({**state, "embedding.weight": state["embedding.weight"][: 1 + sum(sizes)]})
    tokens = array(folder / "codes.npy").transpose(1, 2)
    torch.testing.assert_close(vocoder.decode(tokens), array(folder / "recon.npy"), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "layers", "size", "kind"),
    [
        ("hubert-large-like", (1, 3, 5), 24, 1),
        ("wav2vec2-pretraining-like", (1, 6), 40, 2),
        ("wavlm-base-like", (1, 4), 28, 2),
    ],
)
def test_every_published_layout_loads(name, layers, size, kind):
    vocoder = load_vocoder(DISCRETE / name / "vocoder")
    assert vocoder.layers == layers
    assert vocoder.config.codebook_sizes == (size,) * len(layers)
    assert vocoder.config.resblock_type == kind
    assert vocoder.hop_length == 320
    assert not any(parameter.requires_grad for parameter in vocoder.parameters())


def test_layers_of_different_sizes_cannot_share_upstreams_embedding():
    with pytest.raises(CheckpointError, match=r"\[20, 24, 32\] clusters, its embedding has room for \[20, 20, 20\]"):
        load_vocoder(DISCRETE / "hubert-base-like" / "vocoder")


# ---- lengths, batches, pieces --------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 50])
def test_any_number_of_frames_gives_exactly_that_many_hops(frames):
    wav = small_vocoder().decode(random_tokens(frames))
    assert wav.shape == (1, 1, frames * 320)
    assert bool(wav.isfinite().all())


def test_short_input_is_its_last_frame_repeated():
    vocoder, tokens = small_vocoder(), random_tokens(2)
    assert vocoder.generator.min_frames == 6
    longer = torch.cat([tokens, tokens[..., -1:].expand(-1, -1, 4)], dim=-1)
    expected = vocoder.decode(longer)[..., : 2 * 320]
    torch.testing.assert_close(vocoder.decode(tokens), expected, rtol=0, atol=1e-6)


def test_the_layers_may_come_in_any_order():
    vocoder, tokens = small_vocoder(), random_tokens(9)
    turned = vocoder.decode(tokens[:, [2, 0, 1]], layers=[7, 1, 3])
    assert torch.equal(turned, vocoder.decode(tokens))


def test_every_layer_and_its_absence_change_the_audio():
    vocoder, tokens = small_vocoder(), random_tokens(9)
    subsets = [[1], [3], [7], [1, 3], [1, 7], [3, 7], [1, 3, 7]]
    heard = [vocoder.decode(tokens[:, [(1, 3, 7).index(i) for i in some]], layers=some) for some in subsets]
    differences = [(a - b).abs().max() for i, a in enumerate(heard) for b in heard[:i]]
    assert min(differences) > 1e-3


def test_rows_of_a_padded_batch_are_what_they_are_alone():
    vocoder, tokens = small_vocoder(), random_tokens(40, rows=4)
    lengths = torch.tensor([40, 3, 40, 21])
    tokens[1, :, 3:] = -1  # whatever is there is not looked at
    wav = vocoder.decode(tokens, lengths=lengths)
    assert wav.shape == (4, 1, 40 * 320)
    for i, count in enumerate(lengths.tolist()):
        alone = vocoder.decode(tokens[i : i + 1, :, :count])
        assert torch.equal(wav[i : i + 1, :, : count * 320], alone)
        assert int(wav[i, :, count * 320 :].count_nonzero()) == 0


@pytest.mark.parametrize("chunk", [1, 7, 50])
@pytest.mark.parametrize("options", [{}, {"resblock_type": 2, "resblock_kernels": (3, 9, 5)}])
def test_pieces_give_what_the_whole_gives(chunk, options):
    vocoder, tokens = small_vocoder(**options), random_tokens(173)
    whole = vocoder.decode(tokens, chunk_frames=10_000)
    assert float(whole.std()) > 0.05
    pieces = vocoder.decode(tokens, chunk_frames=chunk)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)


def test_pieces_of_upstreams_fixture_give_upstreams_audio():
    folder = DISCRETE / "wavlm-large-like"
    vocoder = load_vocoder(folder / "vocoder")
    tokens = array(folder / "codes.npy").transpose(1, 2)
    assert vocoder.context_frames == 14
    wav = vocoder.decode(tokens, chunk_frames=20)
    torch.testing.assert_close(wav, array(folder / "recon.npy"), rtol=0, atol=TOLERANCE)


def test_nothing_beyond_context_frames_is_heard():
    vocoder, tokens = small_vocoder(), random_tokens(100).clone()
    wav = vocoder.decode(tokens)
    tokens[:, :, 50 + vocoder.context_frames] = (tokens[:, :, 50 + vocoder.context_frames] + 1) % 10
    changed = (vocoder.decode(tokens) != wav).view(100, 320).any(dim=1).nonzero().flatten()
    assert 50 <= int(changed.min()) <= 55


class Units(Tokenizer):
    """A tokenizer that only decodes, as the SSL tokenizers do it."""

    family = "test-units"

    def __init__(self, vocoder):
        super().__init__(Spec("units", 16000, vocoder.hop_length, vocoder.config.codebook_sizes))
        self.vocoder = vocoder
        self.decode_context = vocoder.context_frames

    def _config(self):
        return {"vocoder": self.vocoder.to_config()}

    def _decode(self, tokens, extras):
        return self.vocoder(tokens)


def test_the_tokenizers_own_pieces_give_what_the_whole_gives():
    tokenizer, tokens = Units(small_vocoder()), random_tokens(120)
    whole = tokenizer.decode(tokens)
    tokenizer.chunk_seconds = 0.3
    torch.testing.assert_close(tokenizer.decode(tokens), whole, rtol=0, atol=1e-5)
    assert whole.shape == (1, 1, 120 * 320)


# ---- speakers and durations ----------------------------------------------------------------------


def test_normalised_speakers_have_no_loudness():
    vocoder = small_vocoder(speaker_dim=4, normalize_speaker=True)
    speaker, tokens = torch.randn(1, 4), random_tokens(8)
    loud = vocoder.decode(tokens, speaker=10 * speaker)
    torch.testing.assert_close(loud, vocoder.decode(tokens, speaker=speaker), rtol=0, atol=1e-5)
    plain = small_vocoder(speaker_dim=4)
    assert (
        float((plain.decode(tokens, speaker=10 * speaker) - plain.decode(tokens, speaker=speaker)).abs().max()) > 0.01
    )


def test_durations_are_at_least_one_frame_and_make_the_length():
    vocoder, tokens, _ = unit_case("duration-predictor")
    features = vocoder.pooling(vocoder.embedding(1 + tokens))
    repeats = vocoder.duration(features)
    assert (int(repeats.min()), int(repeats.sum())) == (1, 50)
    assert vocoder.context_frames is None
    wav = vocoder.decode(torch.cat([tokens, tokens]), lengths=torch.tensor([40, 1]))
    assert torch.equal(wav[0], vocoder.decode(tokens)[0])
    assert int(wav[1].count_nonzero()) % 320 == 0
    assert vocoder.decode(tokens[..., :1]).shape[2] % 320 == 0


def test_errors_say_what_was_wanted():
    vocoder, tokens = small_vocoder(), random_tokens(8)
    with pytest.raises(InputError, match="2 rows of tokens for the 3 layers"):
        vocoder.decode(tokens[:, :2])
    with pytest.raises(InputError, match=r"different ones of \[1, 3, 7\], not \[1, 2\]"):
        vocoder.decode(tokens[:, :2], layers=[1, 2])
    with pytest.raises(InputError, match="tokens must lie in"):
        vocoder.decode(tokens + 10)
    with pytest.raises(InputError, match="at least one frame"):
        vocoder(tokens[..., :0])
    with pytest.raises(InputError, match=r"lengths must be 1 numbers in 1..8, not \[9\]"):
        vocoder.decode(tokens, lengths=torch.tensor([9]))
    with pytest.raises(InputError, match=r"wanted tokens \[B, K, F\]"):
        vocoder.decode(tokens[0])
    with pytest.raises(InputError, match="takes no speaker vector"):
        vocoder.decode(tokens, speaker=torch.ones(1, 4))
    speaking = small_vocoder(speaker_dim=4)
    with pytest.raises(InputError, match="wants a speaker vector of 4 numbers"):
        speaking.decode(tokens)
    with pytest.raises(InputError, match=r"speaker must be \[1, 4\], not \[1, 3\]"):
        speaking.decode(tokens, speaker=torch.ones(1, 3))
    lasting = small_vocoder(duration_dim=4)
    with pytest.raises(UnsupportedError, match="one row at a time"):
        lasting(random_tokens(8, rows=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": (1, 1)}, "1 to 256 different layers"),
        ({"layers": ()}, "1 to 256 different layers"),
        ({"codebook_sizes": (10,)}, "a codebook size each"),
        ({"codebook_sizes": (10, 0)}, "a codebook size each"),
        ({"sample_rate": 0}, "sample_rate must be at least 1"),
        ({"sample_rate": 16000.0}, "sample_rate of a vocoder cannot be 16000.0"),
        ({"embedding_dim": 2**40}, "embedding_dim of a vocoder cannot be"),
        ({"last_bias": 1}, "last_bias of a vocoder cannot be 1"),
        ({"upsample_factors": "5"}, "upsample_factors of a vocoder cannot be 5"),
        ({"duration_dim": 4, "duration_kernel": 2}, "duration_kernel must be odd"),
        ({"colour": 1}, "a vocoder has no colour"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        VocoderConfig.from_dict({"layers": (1, 2), "codebook_sizes": (10, 10), **values})


def test_a_configuration_goes_through_json():
    vocoder = small_vocoder()
    values = json.loads(json.dumps(vocoder.to_config()))
    again = UnitVocoder.from_config(values)
    assert again.config == vocoder.config
    again.load_state_dict(vocoder.state_dict())
    assert torch.equal(again.decode(random_tokens(9)), vocoder.decode(random_tokens(9)))
    with pytest.raises(InputError, match="incomplete"):
        VocoderConfig.from_dict({"layers": [1]})
