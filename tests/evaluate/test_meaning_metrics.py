import shutil
import string
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForAudioXVector,
    GenerationConfig,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from audiotok.evaluate import meaning_metrics
from audiotok.evaluate.metrics import METRICS, Example, measure
from tests.evaluate.tiny_ssl import TINY

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|translate|>", "<|transcribe|>")
SPECIAL += ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Whisper as published, but tiny and random: it hears letters and spaces."""
    folder = tmp_path_factory.mktemp("whisper")
    vocab = {text: i for i, text in enumerate((*string.ascii_lowercase, "Ġ", *SPECIAL))}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    ids = {
        "pad_token_id": vocab["<|endoftext|>"],
        "bos_token_id": vocab["<|endoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
        "decoder_start_token_id": vocab["<|startoftranscript|>"],
    }
    torch.manual_seed(5)
    layers = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(vocab), num_mel_bins=8, max_target_positions=24, **layers, **widths, **ids)
    )
    with torch.no_grad():  # so that it listens
        for parameter in model.parameters():
            parameter.mul_(8)
    model.generation_config = GenerationConfig(
        lang_to_id={text: vocab[text] for text in ("<|en|>", "<|fr|>")},
        task_to_id={text: vocab[f"<|{text}|>"] for text in ("translate", "transcribe")},
        no_timestamps_token_id=vocab["<|notimestamps|>"],
        is_multilingual=True,
        max_length=20,
        suppress_tokens=[vocab[text] for text in SPECIAL],
        **ids,
    )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def speaker_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a WavLM for x-vectors as published, but tiny and random."""
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(1)
    config = WavLMConfig(**TINY, tdnn_dim=(16, 16, 16, 16, 48), xvector_output_dim=24)
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def example(speech):
    wav = speech[0][0]
    noisy = wav + 0.3 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    return Example(wav, noisy, 16000, {"text": "Hello, there!", "language": "fr"})


def heard(folder: str, example: Example, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What it hears in the reference and in the estimate."""
    monkeypatch.setattr(meaning_metrics, "RECOGNIZER", folder)
    assert isinstance(measure(["dwer"], example)["dwer"], float)
    return example._kept["said"], example._kept["heard"]


def test_dwer_is_nothing_for_a_copy_and_something_for_noise(recognizer, example, monkeypatch):
    said, noisy = heard(recognizer, example, monkeypatch)
    assert said != noisy
    assert METRICS["dwer"].measure(example) > 0
    assert METRICS["dwer"].measure(Example(example.reference, example.reference.clone(), 16000)) == 0


def test_wer_counts_words_without_case_and_punctuation(recognizer, example, monkeypatch):
    _, noisy = heard(recognizer, example, monkeypatch)
    words = noisy.split()
    for text, expected in (
        (noisy.upper() + " !?", 0),
        (f"{noisy}, extra.", 1 / (len(words) + 1)),
        ("one two three four five six seven eight nine ten " * 9, 1),
    ):
        labelled = Example(example.reference, example.estimate, 16000, {"text": text, "language": "fr"})
        assert METRICS["wer"].measure(labelled) == pytest.approx(expected)


def test_the_label_of_the_language_is_told_to_the_network(recognizer, example, monkeypatch):
    options = []
    real = meaning_metrics.from_network

    def spied(load, repository):
        recognize = real(load, repository)

        class Spy:
            model = recognize.model

            def __call__(self, audio, generate_kwargs):
                options.append(generate_kwargs)
                return recognize(audio, generate_kwargs=generate_kwargs)

        return Spy()

    monkeypatch.setattr(meaning_metrics, "from_network", spied)
    monkeypatch.setattr(meaning_metrics, "RECOGNIZER", recognizer)
    for language in ("fr", "xx", ""):
        METRICS["dwer"].measure(Example(example.reference, example.reference, 16000, {"language": language}))
    assert options == [{"language": "fr", "task": "transcribe"}] * 2 + [{}] * 4


@pytest.mark.parametrize(
    ("name", "labels", "seconds", "reason"),
    [
        ("wer", {}, 1, "the item has no label `text`"),
        ("wer", {"text": "..."}, 1, "the label `text` holds no words"),
        ("wer", {"text": "a"}, 31, "31.000 s is more than 30 s, which this metric cannot take"),
        ("dwer", {}, 0.05, "0.050 s is less than 0.1 s, which this metric cannot take"),
        ("speaker_similarity", {}, 0.4, "0.400 s is less than 0.5 s, which this metric cannot take"),
    ],
)
def test_what_cannot_be_measured_says_why(name, labels, seconds, reason, recognizer, speech, monkeypatch):
    monkeypatch.setattr(meaning_metrics, "RECOGNIZER", recognizer)
    wav = speech[0][0].repeat(12)[8000 : 8000 + round(seconds * 16000)]
    assert measure([name], Example(wav, wav, 16000, labels)) == {name: reason}


@pytest.mark.parametrize("name", ["wer", "dwer", "speaker_similarity"])
def test_a_silent_estimate_is_no_number(name, example):
    silent = Example(example.reference, torch.zeros_like(example.reference), 16000, example.labels)
    assert measure([name], silent) == {name: "the estimate is silent"}


def test_a_reference_without_words_is_no_number(recognizer, example, monkeypatch):
    monkeypatch.setattr(meaning_metrics, "RECOGNIZER", recognizer)
    monkeypatch.setattr(meaning_metrics, "_transcribe", lambda wav, language: " ... ")
    assert measure(["dwer"], example) == {"dwer": "no word is heard in the reference"}


def test_speaker_similarity_is_the_cosine_of_x_vectors(speaker_model, example, monkeypatch):
    monkeypatch.setattr(meaning_metrics, "SPEAKER_MODEL", speaker_model)
    model = AutoModelForAudioXVector.from_pretrained(speaker_model).eval()
    with torch.no_grad():
        one, other = (model(wav[None]).embeddings[0] for wav in (example.reference, example.estimate))
    expected = float(one @ other / one.norm() / other.norm())
    assert METRICS["speaker_similarity"].measure(example) == pytest.approx(expected, abs=1e-5)
    copy = Example(example.reference, example.reference.clone(), 16000)
    assert METRICS["speaker_similarity"].measure(copy) == pytest.approx(1, abs=1e-6)
    assert expected < 0.99999


@pytest.mark.parametrize(
    ("name", "constant"), [("wer", "RECOGNIZER"), ("dwer", "RECOGNIZER"), ("speaker_similarity", "SPEAKER_MODEL")]
)
def test_without_a_network_the_reason_names_the_repository(
    name: str, constant: str, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(meaning_metrics, constant, f"nobody/no-{name}")
    reason = measure([name], example)[name]
    assert reason.startswith(f"nobody/no-{name} cannot be used: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("cut", "header"),
        ("empty", "header"),
        ("of another kind", "Unrecognized configuration class"),
        ("incomplete", "it lacks feature_extractor.weight"),
    ],
)
def test_a_broken_network_is_a_reason_and_never_a_random_one(
    change: str, reason: str, speaker_model: str, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "broken"
    shutil.copytree(speaker_model, folder)
    weights = folder / "model.safetensors"
    if change == "incomplete":
        left = {name: value for name, value in load_file(weights).items() if name != "feature_extractor.weight"}
        save_file(left, weights, {"format": "pt"})
    elif change == "of another kind":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    else:
        weights.write_bytes(weights.read_bytes()[:100] if change == "cut" else b"")
    monkeypatch.setattr(meaning_metrics, "SPEAKER_MODEL", str(folder))
    found = measure(["speaker_similarity"], example)["speaker_similarity"]
    assert isinstance(found, str)
    assert found.startswith(f"{folder} cannot be used: ")
    assert reason in found
