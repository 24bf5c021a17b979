"""Predictions of what listeners would say of an estimate alone, by networks that learned from listeners."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..hub import download
from .metric_base import Example, Metric, from_network, optional, repeatable_numpy, require_seconds, require_sound
from .opinion_networks import SingMos, Utmos, read_weights

RATE = 16000
LEAST_SECONDS = 0.25
UTMOS_REPOSITORY, UTMOS_FILE = "chaanks/UTMOS", "utmos.ckpt"
SINGMOS_URL = "https://github.com/South-Twilight/SingMOS/releases/download/ckpt_s3prl/ft_wav2vec2_base_960_23steps.pt"


def dnsmos_p808(example: Example) -> float:
    """DNSMOS P.808 (Reddy et al. 2021, arXiv 2010.15258): overall quality, 1 to 5.

    Raises:
        MetricError: the estimate is silent, or shorter than 0.25 s.
    """
    return _dnsmos(example)["p808_mos"]


def dnsmos_sig(example: Example) -> float:
    """DNSMOS P.835 (Reddy et al. 2022, arXiv 2110.01763): quality of the speech itself, 1 to 5. Raises: as P.808."""
    return _dnsmos(example)["sig_mos"]


def dnsmos_bak(example: Example) -> float:
    """DNSMOS P.835: how little the background intrudes, 1 to 5. Raises: as P.808."""
    return _dnsmos(example)["bak_mos"]


def dnsmos_ovrl(example: Example) -> float:
    """DNSMOS P.835: overall quality, 1 to 5. Raises: as P.808."""
    return _dnsmos(example)["ovrl_mos"]


def _dnsmos(example: Example) -> dict[str, float]:
    samples = _samples(example)
    model = _dnsmos_model()
    with repeatable_numpy():
        return example.once("dnsmos", lambda: {name: float(value) for name, value in model(samples).items()})


def plcmos(example: Example) -> float:
    """PLCMOS 2 (Diener et al. 2023, arXiv 2305.15127): quality of speech with concealed gaps, 1 to 5; the mean over
    15 raters drawn at random, always the same ones.

    Raises:
        MetricError: the estimate is silent, or shorter than 0.25 s.
    """
    samples = _samples(example)
    model = _plcmos_model()
    with repeatable_numpy():
        return float(model(samples))


def utmos(example: Example) -> float:
    """UTMOS, strong learner (Saeki et al. 2022, arXiv 2204.02152): naturalness of speech, 1 to 5.

    Raises:
        MetricError: the estimate is silent or shorter than 0.25 s, or the weights cannot be had.
    """
    samples = _samples(example)
    return from_network(_load_utmos, UTMOS_REPOSITORY).score(torch.from_numpy(samples))


def singmos(example: Example) -> float:
    """SingMOS, first version (Tang et al. 2024, arXiv 2406.10911): naturalness of singing, 1 to 5.

    Raises:
        MetricError: the estimate is silent or shorter than 0.25 s, or the weights cannot be had.
    """
    samples = _samples(example)
    return from_network(_load_singmos, SINGMOS_URL).score(torch.from_numpy(samples))


def _load_singmos(url: str) -> SingMos:
    """From torch's cache, where the file is put first if need be."""
    from huggingface_hub import constants

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        if constants.HF_HUB_OFFLINE:
            raise FileNotFoundError(f"{path} does not exist, and HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    return SingMos(read_weights(path))


def _load_utmos(repository: str) -> Utmos:
    return Utmos(read_weights(download(repository, UTMOS_FILE)))


def _samples(example: Example) -> npt.NDArray[np.float32]:
    """The estimate [T] at 16 kHz, clipped as a file of it would be."""
    require_seconds(example, LEAST_SECONDS)
    require_sound(estimate=example.estimate)
    _, estimate = example.at(RATE)
    samples: npt.NDArray[np.float32] = estimate.clamp(-1, 1).numpy()
    return samples


@lru_cache(maxsize=1)
def _dnsmos_model() -> Callable[[npt.NDArray[np.float32]], dict[str, Any]]:
    with optional("DNSMOS", "speechmos, onnxruntime and librosa"):
        from speechmos import dnsmos
    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    overall, p808 = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
    model = dnsmos.DNSMOS(overall, p808)
    model.onnx_sess, model.p808_onnx_sess = _session(overall), _session(p808)
    return lambda samples: dict(model(samples, RATE, False))


@lru_cache(maxsize=1)
def _plcmos_model() -> Callable[[npt.NDArray[np.float32]], float]:
    with optional("PLCMOS", "speechmos and onnxruntime"):
        from speechmos import plcmos
    model = plcmos.PLCMOS()
    model.session = _session(model.model_path)
    return lambda samples: float(model(samples)["plcmos"])


def _session(path: str) -> Any:
    """On one thread: the package's own sessions take every core, in each of the processes that share the work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


PREDICTED_METRICS = (
    Metric("dnsmos_p808", "DNSMOS P.808", "MOS", "higher", "speechmos", dnsmos_p808),
    Metric("dnsmos_ovrl", "DNSMOS OVRL", "MOS", "higher", "speechmos", dnsmos_ovrl),
    Metric("dnsmos_sig", "DNSMOS SIG", "MOS", "higher", "speechmos", dnsmos_sig),
    Metric("dnsmos_bak", "DNSMOS BAK", "MOS", "higher", "speechmos", dnsmos_bak),
    Metric("plcmos", "PLCMOS", "MOS", "higher", "speechmos", plcmos),
    Metric("utmos", "UTMOS", "MOS", "higher", "", utmos, needs="network"),
    Metric("singmos", "SingMOS", "MOS", "higher", "", singmos, needs="network"),
)
