"""The plug-in of examples/plugin, which `make check` installs, and one that is broken. Without the first these tests
fail: `pip install ./examples/plugin`."""

import sys

import pytest
import torch

import audiotok
from audiotok.errors import PluginError
from audiotok.testing import check_tokenizer


def test_an_installed_plug_in_is_found_described_and_loaded():
    assert "mulaw-8khz" in audiotok.list_tokenizers()
    entry = audiotok.describe("mulaw-8khz")
    assert (entry.name, entry.spec.bitrate_bps) == ("mulaw-8khz", 64000.0)
    assert audiotok.load("mulaw-8khz").spec == entry.spec


def test_it_keeps_every_promise_of_the_interface(speech):
    tok = audiotok.load("mulaw-8khz")
    assert "batches" in check_tokenizer(tok)
    check_tokenizer(tok, [wav[:, :4000] for wav in speech])


def test_decoded_samples_are_within_half_a_step_of_the_law():
    tok = audiotok.load("mulaw-8khz")
    wav = torch.linspace(-1, 1, 4001)
    error = (tok.decode(tok.encode(wav))[0, 0] - wav).abs()
    # the law's slope is (1 + 255 |x|) log(256) / 255, half a step is 1 / 255
    assert bool((error <= 1.02 * (1 + 255 * wav.abs()) * 5.5452 / 255 / 255).all())


def test_speech_comes_back_as_telephones_know_it(speech):
    tok = audiotok.load("mulaw-8khz")
    for row in speech:
        wav = audiotok.audio.resample(row, 16000, 8000)
        noise = tok.decode(tok.encode(wav))[0] - wav
        assert 35 < 10 * torch.log10(wav.square().sum() / noise.square().sum()) < 41  # dB


def test_a_saved_one_loads_through_its_family(speech, tmp_path):
    tok = audiotok.load("mulaw-8khz")
    tok.save(tmp_path / "tok")
    again = audiotok.load(tmp_path / "tok")
    assert type(again) is type(tok)
    codes = tok.encode(speech[0], sample_rate=16000)
    assert torch.equal(again.encode(speech[0], sample_rate=16000).tokens, codes.tokens)
    assert torch.equal(again.decode(codes), tok.decode(codes))


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Makes a distribution with entry points and a module on sys.path."""

    def make(name: str, module: str, value: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[audiotok.tokenizers]\n{name} = {value}\n[audiotok.families]\n{name} = {value}\n"
        )
        (tmp_path / f"{name}_module.py").write_text(module)
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return make


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise RuntimeError('no luck')", "cannot be imported: RuntimeError: no luck"),
        ("import a_package_that_is_not_there", "cannot be imported: ModuleNotFoundError"),
        ("ENTRY = (", "cannot be imported: SyntaxError"),
        ("", "cannot be imported: AttributeError"),
        ("ENTRY = 3", "gave a int, not an Entry"),
        ("def ENTRY():\n    raise OSError('unplugged')", "failed: OSError: unplugged"),
    ],
)
def test_a_broken_one_fails_only_when_it_is_asked_for(plugins, speech, module, message):
    plugins("broken", module, "broken_module:ENTRY")
    assert {"broken", "mulaw-8khz", "logmel-16khz"} <= set(audiotok.list_tokenizers())
    assert audiotok.load("mulaw-8khz").encode(speech[0]).spec.name == "mulaw-8khz"
    with pytest.raises(PluginError, match=message):
        audiotok.describe("broken")
    with pytest.raises(PluginError, match=message):
        audiotok.load("broken")


def test_a_folder_of_a_broken_family_is_a_plugin_error(plugins, small, tmp_path):
    plugins("broken", "raise RuntimeError('no luck')", "broken_module:Class")
    small.save(tmp_path / "tok")
    config = tmp_path / "tok" / "config.json"
    config.write_text(config.read_text().replace("logmel-kmeans", "broken"))
    with pytest.raises(PluginError, match="no luck"):
        audiotok.load(tmp_path / "tok")
