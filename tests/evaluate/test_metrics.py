import subprocess
import sys

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from audiotok import audio
from audiotok.errors import InputError, MissingDependencyError
from audiotok.evaluate.metric_base import Metric, from_network, optional, repeatable_numpy, require_seconds
from audiotok.evaluate.metrics import METRICS, Example, MetricError, measure

LOCAL = [name for name, metric in METRICS.items() if "network" not in metric.needs]
DISTINCT = [name for name in LOCAL if name not in ("ci_sdr", "dnsmos_sig", "dnsmos_bak")]  # each with work of its own
QUICK = [name for name in LOCAL if METRICS[name].package not in ("speechmos", "visqol-python")]


@pytest.fixture
def example(speech):
    """Speech, and the same with white noise."""
    wav = speech[2][0]
    return Example(wav, wav + 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0)), 16000)


def test_the_defaults_are_quick_and_need_neither_network_nor_labels():
    default = [metric for metric in METRICS.values() if metric.default]
    assert [metric.name for metric in default] == [
        "sdr",
        "si_snr",
        "mel_distance",
        "stft_distance",
        "pesq_wb",
        "stoi",
        "estoi",
    ]
    assert all(metric.needs == "" for metric in default)


def test_names_are_keys_and_labels_differ():
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert {metric.better for metric in METRICS.values()} == {"higher", "lower"}


@pytest.mark.parametrize("name", DISTINCT)
def test_more_noise_is_worse_in_every_metric(name, example):
    louder = Example(example.reference, 10 * example.estimate - 9 * example.reference, 16000)
    better, worse = METRICS[name].measure(example), METRICS[name].measure(louder)
    assert better > worse if METRICS[name].better == "higher" else better < worse


@pytest.mark.parametrize("name", DISTINCT)
def test_a_metric_repeats_itself_to_the_last_bit(name, example):
    again = Example(example.reference, example.estimate, 16000)
    torch.randn(3)
    assert METRICS[name].measure(again) == METRICS[name].measure(example)


@pytest.mark.parametrize("clip", ["speech_en_2", "speech_fr_2", "music_16k_2"])
def test_a_metric_does_not_depend_on_the_threads_of_numpy(clip, clips):
    wav = audio.load(next(path for path in clips if path.stem == clip), sample_rate=16000)[0][0]
    noisy = wav + 0.02 * torch.randn(len(wav), generator=torch.Generator().manual_seed(0))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(measure(["stoi", "estoi", "dnsmos_p808"], Example(wav, noisy, 16000)))
            assert all(pool["num_threads"] == threads for pool in threadpool_info() if pool["user_api"] == "blas")
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["pesq_wb", "pesq_nb", "stoi", "estoi"])
def test_the_rate_of_the_signals_hardly_matters(name, example):
    reference, estimate = (audio.resample(wav, 16000, 24000) for wav in (example.reference, example.estimate))
    found = METRICS[name].measure(Example(reference, estimate, 24000))
    assert found == pytest.approx(METRICS[name].measure(example), rel=0.02)


@pytest.mark.parametrize("side", ["reference", "estimate"])
@pytest.mark.parametrize("name", LOCAL)
def test_nan_is_a_reason_in_every_metric(name, side, example):
    signals = {"reference": example.reference, "estimate": example.estimate}
    signals[side] = signals[side].clone()
    signals[side][100] = float("nan")
    found = measure([name], Example(**signals, sample_rate=16000))
    assert found == {name: f"the {side} holds NaN or infinite samples"}


@pytest.mark.parametrize("name", sorted(set(LOCAL) - {"snr", "mel_distance", "stft_distance"}))
def test_a_silent_estimate_is_a_reason_and_no_number(name, example):
    silent = torch.full_like(example.estimate, 0.25)  # a constant cannot be heard, either
    assert measure([name], Example(example.reference, silent, 16000)) == {name: "the estimate is silent"}


@pytest.mark.parametrize("name", sorted(set(QUICK) - {"mel_distance"}))
def test_a_silent_reference_is_a_reason_and_no_number(name, example):
    silent = torch.zeros_like(example.reference)
    assert measure([name], Example(silent, example.estimate, 16000)) == {name: "the reference is silent"}


@pytest.mark.parametrize("name", sorted(set(LOCAL) - {"snr", "si_snr"}))
@pytest.mark.parametrize("samples", [0, 1, 1000])
def test_what_is_too_short_is_a_reason_and_no_number(name, samples, example):
    short = Example(example.reference[9000 : 9000 + samples], example.estimate[9000 : 9000 + samples], 16000)
    assert isinstance(measure([name], short)[name], str)


def test_signals_of_other_shapes_are_the_callers_fault():
    for reference, estimate in ((torch.zeros(10), torch.zeros(11)), (torch.zeros(1, 10), torch.zeros(1, 10))):
        with pytest.raises(InputError, match="of one length"):
            measure(["mel_distance"], Example(reference, estimate, 16000))


def test_an_unknown_name_is_refused_with_those_that_exist(example):
    with pytest.raises(InputError, match="no metric pesq: choose of sdr, .*pesq_wb"):
        measure(["stoi", "pesq"], example)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("snr", "torchmetrics.functional.audio", "eval"),
        ("si_snr", "torchmetrics.functional.audio", "eval"),
        ("pesq_wb", "pesq", "eval"),
        ("estoi", "pystoi", "eval"),
        ("visqol", "visqol", "visqol"),
        ("plcmos", "speechmos", "eval"),
        ("dnsmos_sig", "speechmos", "eval"),
    ],
)
def test_a_missing_package_is_a_reason_with_the_way_out(name, module, extra, example, monkeypatch):
    from audiotok.evaluate import perceptual_metrics, predicted_metrics

    for load in (perceptual_metrics._visqol, predicted_metrics._dnsmos_model, predicted_metrics._plcmos_model):
        load.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    reason = measure([name], example)[name]
    assert reason.endswith(f"pip install 'audiotok[{extra}]'")
    with pytest.raises(MissingDependencyError):
        METRICS[name].measure(example)


def test_a_formula_that_gives_nan_is_a_failure(example):
    metric = Metric("x", "X", "", "higher", "", lambda _: float("nan"))
    with pytest.raises(MetricError, match="X came out as not a number"):
        metric.measure(example)


@pytest.mark.parametrize("error", [IndexError("3"), ValueError("3"), ZeroDivisionError("3"), OSError("3")])
def test_a_package_that_fails_is_a_failure_of_the_metric(error, example):
    def formula(_: Example) -> float:
        raise error

    with pytest.raises(MetricError, match=f"X failed with {type(error).__name__}: 3"):
        Metric("x", "X", "", "higher", "", formula).measure(example)


def test_shared_work_is_done_once(example):
    calls = []
    for _ in range(3):
        assert example.once("x", lambda: calls.append(1) or 7) == 7
    assert calls == [1]
    assert example.at(8000)[0] is example.at(8000)[0]
    assert [len(wav) for wav in example.at(8000)] == [round(len(example.reference) / 2)] * 2
    assert example.seconds == len(example.reference) / 16000


def test_lengths_out_of_range_say_which_bound(example):
    with pytest.raises(MetricError, match="less than 60 s"):
        require_seconds(example, 60)
    with pytest.raises(MetricError, match="more than 1 s"):
        require_seconds(example, 0, 1)


def test_numpys_generator_goes_on_as_before():
    import numpy as np

    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first = np.random.rand()  # noqa: NPY002
    with repeatable_numpy():
        inside = np.random.rand()  # noqa: NPY002
    with repeatable_numpy():
        assert np.random.rand() == inside  # noqa: NPY002
    assert [first, np.random.rand()] == expected.tolist()  # noqa: NPY002


def test_an_import_that_works_is_left_alone():
    with optional("X", "y"):
        import json
    assert json.loads("1") == 1


def test_what_cannot_be_loaded_is_tried_once():
    tried = []

    def load(repository: str) -> str:
        tried.append(repository)
        raise OSError("no\nroute")

    for _ in range(2):
        with pytest.raises(MetricError, match="user/x cannot be used: no route"):
            from_network(load, "user/x")
    assert tried == ["user/x"]


def test_importing_the_metrics_imports_no_package_that_computes_them():
    code = (
        "import sys, audiotok.evaluate, audiotok.evaluate.metrics;"
        "heavy = ('torchmetrics', 'transformers', 'onnxruntime', 'speechmos', 'librosa', 'pesq', 'pystoi', 'jiwer',"
        "'visqol', 'huggingface_hub', 'scipy');"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
