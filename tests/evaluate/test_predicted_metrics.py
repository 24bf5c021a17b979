from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from speechmos import dnsmos, plcmos
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from audiotok.errors import CheckpointError
from audiotok.evaluate import metric_base, predicted_metrics
from audiotok.evaluate.metrics import METRICS, Example, measure
from audiotok.evaluate.opinion_networks import SingMos, Utmos, read_weights
from tests.evaluate.tiny_ssl import TINY, TINY_SSL
from tests.stand_in_hub import StandInHub, point_client_at

DNSMOS = ("dnsmos_p808", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")


@pytest.fixture
def example(speech):
    return Example(speech[0][0], speech[0][0].clone(), 16000)


def test_dnsmos_is_that_of_its_package(example):
    theirs = dnsmos.run(example.estimate.numpy(), 16000)
    expected = {name: float(theirs[f"{name.removeprefix('dnsmos_')}_mos"]) for name in DNSMOS}
    assert measure(DNSMOS, example) == pytest.approx(expected, abs=1e-4)


def test_plcmos_is_that_of_its_package(example):
    np.random.seed(0)  # noqa: NPY002 - it draws raters
    assert METRICS["plcmos"].measure(example) == plcmos.run(example.estimate.numpy(), 16000)["plcmos"]


def test_clean_speech_is_liked_and_noise_is_not(example):
    noise = 0.1 * torch.randn(example.estimate.shape, generator=torch.Generator().manual_seed(0))
    clean = measure([*DNSMOS, "plcmos"], example)
    noisy = measure([*DNSMOS, "plcmos"], Example(example.reference, noise, 16000))
    assert clean["dnsmos_p808"] > 3.5 > 2.5 > noisy["dnsmos_p808"]
    assert clean["dnsmos_ovrl"] > 2.9 > 1.5 > noisy["dnsmos_ovrl"]
    assert clean["plcmos"] > 4 > noisy["plcmos"]


def test_samples_beyond_full_scale_are_clipped_as_a_file_would_be(example):
    loud = Example(example.reference, example.estimate * 4, 16000)
    clipped = Example(example.reference, (example.estimate * 4).clamp(-1, 1), 16000)
    assert float(loud.estimate.abs().max()) > 1
    assert measure(["dnsmos_p808", "plcmos"], loud) == measure(["dnsmos_p808", "plcmos"], clipped)


def test_the_reference_does_not_matter(example):
    silent = Example(torch.zeros_like(example.estimate), example.estimate, 16000)
    assert measure(["plcmos"], silent) == measure(["plcmos"], example)


# ---- UTMOS -----------------------------------------------------------------------------------------------------------


def small_encoder() -> Wav2Vec2Model:
    """A random network of transformers."""
    torch.manual_seed(0)
    return Wav2Vec2Model(Wav2Vec2Config(**TINY)).eval()


@pytest.fixture(scope="module")
def upstream() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small random network of transformers and torch, and its weights in UTMOS's names."""
    encoder = small_encoder()
    parts = nn.ModuleDict(
        {
            "domain_embedding": nn.Embedding(3, 5),
            "judge_embedding": nn.Embedding(300, 5),
            "decoder": nn.LSTM(42, 7, batch_first=True, bidirectional=True),
            "classifier": nn.Sequential(nn.Linear(14, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 1)),
        }
    ).eval()
    weights = {f"ssl_encoder.model.{name}": value for name, value in encoder.state_dict().items()}
    parts["encoder"] = encoder
    return parts, weights | {k: v for k, v in parts.state_dict().items() if not k.startswith("encoder.")}


def test_utmos_equals_a_second_implementation(upstream, speech):
    parts, weights = upstream
    wav = speech[0]
    with torch.no_grad():
        frames = parts["encoder"](wav).last_hidden_state
        both = [parts["domain_embedding"](torch.tensor([0])), parts["judge_embedding"](torch.tensor([288]))]
        context = torch.cat(both, dim=1)[:, None].expand(1, frames.shape[1], -1)
        scores = parts["classifier"](parts["decoder"](torch.cat([frames, context], dim=2))[0])
    assert Utmos(weights, TINY_SSL).score(wav[0]) == pytest.approx(float(scores.mean()) * 2 + 3, abs=1e-5)


@pytest.mark.parametrize("name", ["decoder.weight_ih_l0", "classifier.3.bias", "judge_embedding.weight"])
def test_weights_that_are_not_utmos_are_refused(name, upstream):
    weights = dict(upstream[1])
    value = weights.pop(name)
    with pytest.raises(CheckpointError, match="not the weights of UTMOS"):
        Utmos(weights, TINY_SSL)
    with pytest.raises(CheckpointError, match="not the weights of UTMOS"):
        Utmos(weights | {name: value[:1, ..., None]}, TINY_SSL)


def test_utmos_comes_from_the_hub(upstream, example, tmp_path, monkeypatch):
    torch.save(upstream[1], tmp_path / "utmos.ckpt")
    monkeypatch.setattr(predicted_metrics, "Utmos", partial(Utmos, config=TINY_SSL))
    metric_base._attempt.cache_clear()
    with StandInHub() as hub:
        hub.add("chaanks/UTMOS", {"utmos.ckpt": (tmp_path / "utmos.ckpt").read_bytes()})
        point_client_at(hub, monkeypatch, tmp_path / "home")
        found = METRICS["utmos"].measure(example)
    metric_base._attempt.cache_clear()
    assert found == Utmos(upstream[1], TINY_SSL).score(example.estimate)


def test_utmos_without_a_network_is_a_reason(example, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(predicted_metrics, "UTMOS_REPOSITORY", "nobody/no-utmos")
    reason = measure(["utmos"], example)["utmos"]
    assert reason.startswith("nobody/no-utmos cannot be used: ")
    assert "HF_HUB_OFFLINE" in reason


def test_a_checkpoint_that_asks_for_code_is_refused(tmp_path: Path):
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (ran,)

    torch.save({"decoder": Hostile()}, tmp_path / "utmos.ckpt")
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "utmos.ckpt")
    assert not ran.exists()


@pytest.mark.parametrize("held", [{"step": 3}, [torch.zeros(2)]])
def test_a_checkpoint_of_something_else_is_refused(held, tmp_path: Path):
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="wanted tensors by name"):
        read_weights(tmp_path / "x.pt")


# ---- SingMOS ---------------------------------------------------------------------------------------------------------

FAIRSEQ = (
    ("feature_extractor.conv_layers.0.layer_norm.", "feature_extractor.conv_layers.0.2."),
    ("feature_projection.layer_norm.", "layer_norm."),
    ("feature_projection.projection.", "post_extract_proj."),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
    ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."),
    (".conv.weight", ".0.weight"),
    (".layer_norm.", ".self_attn_layer_norm."),
    (".attention.", ".self_attn."),
    (".feed_forward.intermediate_dense.", ".fc1."),
    (".feed_forward.output_dense.", ".fc2."),
)


def fairseq_name(name: str) -> str:
    if name.startswith("encoder.layer_norm."):
        return name
    for ours, theirs in FAIRSEQ:
        if ours in name:
            return name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def singing() -> tuple[Wav2Vec2Model, nn.Linear, dict[str, torch.Tensor]]:
    """A small random network, and its weights in SingMOS's names."""
    encoder, head = small_encoder(), nn.Linear(32, 1)
    stem = "ssl_model.ssl_model.upstream.model."
    weights = {stem + fairseq_name(name): value for name, value in encoder.state_dict().items()}
    return encoder, head, weights | {f"linear.{name}": value for name, value in head.state_dict().items()}


@pytest.mark.parametrize("samples", [16000, 16079, 16080, 16320, 4321])
def test_singmos_equals_a_second_implementation(singing, speech, samples):
    encoder, head, weights = singing
    wav = speech[0][:, :samples]
    with torch.no_grad():
        scores = head(encoder(wav).last_hidden_state)[0, :, 0]
    whole = [*scores.tolist(), *[float(scores[-1])] * (len(range(0, samples, 320)) - len(scores))]
    assert SingMos(weights, TINY_SSL).score(wav[0]) == pytest.approx(sum(whole) / len(whole), abs=1e-5)


def test_weights_that_are_not_singmos_are_refused(singing):
    with pytest.raises(CheckpointError, match="not the weights of SingMOS"):
        SingMos({name: value for name, value in singing[2].items() if name != "linear.bias"}, TINY_SSL)
    with pytest.raises(CheckpointError, match="one wav2vec 2.0"):
        SingMos({"linear.weight": torch.zeros(1, 32), "linear.bias": torch.zeros(1)}, TINY_SSL)


def test_singmos_is_downloaded_once_and_kept(singing, example, tmp_path, monkeypatch):
    published = tmp_path / "published.pt"
    torch.save(singing[2], published)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(predicted_metrics, "SingMos", partial(SingMos, config=TINY_SSL))
    monkeypatch.setattr(predicted_metrics, "SINGMOS_URL", published.as_uri())
    expected = SingMos(singing[2], TINY_SSL).score(example.estimate)
    assert METRICS["singmos"].measure(example) == expected
    published.unlink()
    metric_base._attempt.cache_clear()
    assert METRICS["singmos"].measure(example) == expected
    assert [path.name for path in (tmp_path / "cache" / "checkpoints").iterdir()] == ["published.pt"]


def test_singmos_without_a_network_is_a_reason(example, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(predicted_metrics, "SINGMOS_URL", (tmp_path / "missing.pt").as_uri())
    assert "missing.pt cannot be used: " in measure(["singmos"], example)["singmos"]
    metric_base._attempt.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert measure(["singmos"], example)["singmos"].endswith("missing.pt does not exist, and HF_HUB_OFFLINE is set")
