import numpy as np
import pesq
import pystoi
import pytest
import soxr
import torch

from audiotok.evaluate.metrics import METRICS, Example, MetricError, measure


@pytest.fixture
def example(speech):
    wav = speech[0][0]
    return Example(wav, wav + 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0)), 16000)


def test_pesq_is_that_of_its_package(example):
    reference, estimate = example.reference.numpy(), example.estimate.numpy()
    assert METRICS["pesq_wb"].measure(example) == pesq.pesq(16000, reference, estimate, "wb")
    narrow = [soxr.resample(wav, 16000, 8000) for wav in (reference, estimate)]
    assert METRICS["pesq_nb"].measure(example) == pesq.pesq(8000, *narrow, "nb")


def test_stoi_is_that_of_its_package(example):
    signals = example.reference.double().numpy(), example.estimate.double().numpy()
    assert METRICS["stoi"].measure(example) == pystoi.stoi(*signals, 16000)
    assert METRICS["estoi"].measure(example) == pytest.approx(pystoi.stoi(*signals, 16000, extended=True), abs=1e-12)


def test_a_copy_has_the_best_score_there_is(speech):
    copy = Example(speech[0][0], speech[0][0].clone(), 16000)
    found = measure(["pesq_wb", "pesq_nb", "stoi", "estoi", "visqol"], copy)
    assert found == pytest.approx(
        {"pesq_wb": 4.644, "pesq_nb": 4.549, "stoi": 1, "estoi": 1, "visqol": 4.732}, abs=1e-3
    )


@pytest.mark.parametrize("name", ["pesq_wb", "pesq_nb", "stoi", "estoi", "visqol"])
def test_the_level_hardly_matters(name, example):
    softer = Example(example.reference, example.estimate / 3, 16000)
    assert METRICS[name].measure(softer) == pytest.approx(METRICS[name].measure(example), abs=0.02)


def test_pesq_finds_no_speech_where_there_is_little(example):
    beginning = Example(example.reference[:5000], example.estimate[:5000], 16000)  # room noise
    assert measure(["pesq_wb"], beginning) == {"pesq_wb": "PESQ cannot score it: no utterances detected"}


def test_pesq_takes_fifty_utterances_and_refuses_what_could_hold_more():
    """60 utterances in 25 s end the process; 47 in 20 s do not."""
    word = np.pad(np.random.default_rng(0).standard_normal(3360) * 0.1, (0, 3360)).astype(np.float32)
    crowded = torch.from_numpy(np.tile(word, 47))
    noisy = crowded + 0.003 * torch.randn(crowded.shape, generator=torch.Generator().manual_seed(1))
    assert 1 < METRICS["pesq_wb"].measure(Example(crowded, noisy, 16000)) < 4.6
    longer = torch.from_numpy(np.tile(word, 48))
    assert measure(["pesq_wb"], Example(longer, longer, 16000)) == {
        "pesq_wb": "20.160 s is more than 20 s, which this metric cannot take"
    }


@pytest.mark.parametrize("name", ["stoi", "estoi"])
def test_stoi_of_too_little_speech_is_a_reason_and_not_its_packages_constant(name, example):
    sparse = torch.zeros(32000)
    sparse[:5000] = example.reference[9000:14000]
    with pytest.raises(MetricError, match=r"less than 0.4 s are left without the silent frames"):
        METRICS[name].measure(Example(sparse, sparse + 1e-4 * example.estimate[:32000], 16000))
    just = Example(example.reference[9000:16000], example.estimate[9000:16000], 16000)
    assert 0.5 < METRICS[name].measure(just) < 1


def test_visqol_of_too_little_is_a_reason(example):
    short = Example(example.reference[9000:14000], example.estimate[9000:14000], 16000)
    assert "ViSQOL cannot score it: Reference spectrum size" in measure(["visqol"], short)["visqol"]
