"""The default of the first version was log-mel k-means: what was made with it names it, and is read as ever."""

import base64

import pytest
import torch

import audiotok
from audiotok import Codes
from audiotok.errors import CodesMismatchError
from audiotok.lm import decompress_bytes

# `audiotok compress` of the first 3200 samples of speech_it_2, by the version whose default was logmel-16khz.
COMPRESSED = base64.b64decode(
    "QVRaGgEmAAAAAAAAAGwAAAAjMjQTzZKSLUzSjMxTTC1SU5ONUULX0AA1fA0NsIQw0DcGIzaUAalfhwAxa/2NCO7l2wVJJZxhAK0a"
    "aaEMrC4nD/w5Y6zuR49zB8bzt+WDqRWQoMLP2kRC76IJ/YOx8BTRoo7FPU5OuVcXrwRZ2EPmArEm/BMJgjnDaja2NaptwQbNhaAz"
    "rIp3Zv/Bx23WAKkpykOQXK4="
)


@pytest.fixture
def wanted(clips):
    """The same, encoded now."""
    wav, _ = audiotok.audio.load(next(path for path in clips if path.stem == "speech_it_2"))
    return audiotok.load("logmel-16khz").encode(wav[:, :3200])


@pytest.fixture
def compressed(tmp_path):
    """The file."""
    path = tmp_path / "old.atz"
    path.write_bytes(COMPRESSED)
    return path


def test_a_compressed_file_names_the_tokenizer_that_made_it(wanted):
    codes = decompress_bytes(COMPRESSED)
    assert (codes.spec, codes.fingerprint) == (wanted.spec, wanted.fingerprint)
    assert torch.equal(codes.tokens, wanted.tokens)
    assert codes.num_samples.tolist() == [3200]


def test_files_of_then_become_the_audio_of_then(run, compressed, wanted, tmp_path):
    assert run("decompress", compressed).code == 0
    assert torch.equal(Codes.load(tmp_path / "old.codes").tokens, wanted.tokens)
    result = run("decode", tmp_path / "old.codes", "-o", tmp_path / "old.wav", "--json")
    assert (result.code, result.json["tokenizer"], result.json["samples"]) == (0, "logmel-16khz", 3200)
    wav, _ = audiotok.audio.load(tmp_path / "old.wav")
    assert torch.allclose(wav, audiotok.load("logmel-16khz").decode(wanted)[0], atol=1 / 32768)


def test_files_of_then_and_now_decode_side_by_side(run, compressed, clip, tmp_path):
    run("decompress", compressed, "-o", tmp_path / "codes" / "old.codes")
    run("encode", clip, "-o", tmp_path / "codes" / "new.codes")
    lines = run("decode", tmp_path / "codes", "-o", tmp_path / "wavs", "--json").lines
    assert {line["tokenizer"] for line in lines} == {"logmel-16khz", audiotok.DEFAULT}


def test_the_present_default_refuses_codes_of_then(wanted):
    with pytest.raises(CodesMismatchError, match=r"made by logmel-16khz \(.*\), not by audiotok-base-16k"):
        audiotok.load().decode(wanted)
