"""What is left of the words and of the voice, as networks from the Hugging Face Hub hear it."""

from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .metric_base import Example, Metric, MetricError, from_network, optional, require_seconds, require_sound

RATE = 16000
RECOGNIZER = "openai/whisper-small"
SPEAKER_MODEL = "microsoft/wavlm-base-plus-sv"
WHISPER_SECONDS = 0.1, 30.0  # what it takes at once
SPEAKER_SECONDS = 0.5  # its layers reach over 15 frames of 20 ms


def wer(example: Example) -> float:
    """Word error rate of what Whisper small hears in the estimate against the label `text` (Radford et al. 2022, arXiv
    2212.04356): errors over words, both in lower case without punctuation. 0 is best, and it may exceed 1.

    Raises:
        MetricError: no label `text`, no words in it, the estimate is silent or longer than 30 s, or the network cannot
            be had.
    """
    text = example.labels.get("text")
    if not isinstance(text, str):
        raise MetricError("the item has no label `text`")
    _, heard = _transcripts(example, reference=False)
    return _errors(text, heard, "the label `text` holds no words")


def dwer(example: Example) -> float:
    """Word error rate of what Whisper small hears in the estimate against what it hears in the reference: needs no
    label, and tells what the system has cost.

    Raises:
        MetricError: no word is heard in the reference; one of them is silent or longer than 30 s; or the network cannot
            be had.
    """
    said, heard = _transcripts(example, reference=True)
    return _errors(said, heard, "no word is heard in the reference")


def _errors(said: str, heard: str, no_words: str) -> float:
    with optional("WER", "jiwer"):
        import jiwer
    said, heard = _plain(said), _plain(heard)
    if not said:
        raise MetricError(no_words)
    return float(jiwer.wer(said, heard))


def _plain(text: str) -> str:
    """Lower case, no punctuation or symbols, one space between words: Whisper's normaliser for all languages."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return str(BasicTextNormalizer()(text)).strip()


def _transcripts(example: Example, *, reference: bool) -> tuple[str, str]:
    """Of the reference (where it is wanted) and of the estimate."""
    require_seconds(example, *WHISPER_SECONDS)
    require_sound(estimate=example.estimate)
    source, estimate = example.at(RATE)
    language = str(example.labels.get("language", ""))
    said = ""
    if reference:
        require_sound(reference=example.reference)
        said = example.once("said", lambda: _transcribe(source, language))
    return said, example.once("heard", lambda: _transcribe(estimate, language))


def _transcribe(wav: Tensor, language: str) -> str:
    recognize = from_network(_load_recognizer, RECOGNIZER)
    known = getattr(recognize.model.generation_config, "lang_to_id", None) or {}
    options = {"language": language, "task": "transcribe"} if f"<|{language}|>" in known else {}
    found = recognize({"raw": wav.numpy(), "sampling_rate": RATE}, generate_kwargs=options)
    return str(found["text"])


def _load_recognizer(repository: str) -> Any:
    from transformers import pipeline

    return pipeline("automatic-speech-recognition", model=repository, device="cpu")


def speaker_similarity(example: Example) -> float:
    """Cosine of the speaker vectors of reference and estimate, -1 to 1, from WavLM base plus with an x-vector head
    (Chen et al. 2022, arXiv 2110.13900).

    Raises:
        MetricError: one of them is silent or shorter than 0.5 s, or the network cannot be had.
    """
    require_seconds(example, SPEAKER_SECONDS)
    require_sound(reference=example.reference, estimate=example.estimate)
    reference, estimate = example.at(RATE)
    extract, model = from_network(_load_speaker_model, SPEAKER_MODEL)
    with torch.no_grad():
        one, other = (
            model(**extract(wav.numpy(), sampling_rate=RATE, return_tensors="pt")).embeddings[0]
            for wav in (reference, estimate)
        )
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def _load_speaker_model(repository: str) -> tuple[Any, Any]:
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    model, found = AutoModelForAudioXVector.from_pretrained(repository, output_loading_info=True)
    if found["missing_keys"]:  # which transformers fills with random numbers
        raise CheckpointError(f"it lacks {', '.join(sorted(found['missing_keys'])[:3])}")
    return AutoFeatureExtractor.from_pretrained(repository), model.eval()


MEANING_METRICS = (
    Metric("wer", "WER", "", "lower", "jiwer", wer, needs="network, labels"),
    Metric("dwer", "dWER", "", "lower", "jiwer", dwer, needs="network"),
    Metric(
        "speaker_similarity", "speaker similarity", "", "higher", "transformers", speaker_similarity, needs="network"
    ),
)
