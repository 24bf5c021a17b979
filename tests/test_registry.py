import dataclasses

import pytest

import audiotok
from audiotok import registry
from audiotok.errors import PluginError, UnknownTokenizerError


def test_names_match_shell_patterns():
    assert audiotok.list_tokenizers("logmel-*") == ["logmel-16khz"]
    assert audiotok.list_tokenizers("nothing*") == []
    assert audiotok.DEFAULT in audiotok.list_tokenizers()


def test_names_that_load_cannot_give_are_listed_on_request():
    loadable, everything = set(audiotok.list_tokenizers()), set(audiotok.list_tokenizers(everything=True))
    assert loadable < everything
    assert {audiotok.describe(name).status for name in loadable} == {"loadable"}
    assert {audiotok.describe(name).status for name in everything - loadable} == {"local files", "not available"}
    assert audiotok.list_tokenizers("soundstream") == []
    assert audiotok.list_tokenizers("soundstream", everything=True) == ["soundstream"]


def test_an_entry_tells_the_facts_without_loading():
    entry = audiotok.describe("logmel-16khz")
    assert (entry.spec.frame_rate, entry.spec.num_codebooks, entry.spec.bitrate_bps) == (50.0, 8, 4000.0)
    values = entry.to_dict()
    assert values["spec"]["bitrate_bps"] == 4000.0
    assert values["taxonomy"]["quantizer"] == "K-Means"


def test_an_unknown_name_says_which_are_near():
    with pytest.raises(UnknownTokenizerError, match=r"'logmel-16kh'; the nearest are logmel-16khz.*\./logmel-16kh"):
        audiotok.describe("logmel-16kh")
    with pytest.raises(LookupError):
        audiotok.load("no-such-tokenizer")


def test_a_registered_entry_is_found_and_can_be_replaced(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    entry = dataclasses.replace(audiotok.describe("logmel-16khz"), name="mine", summary="one")
    assert audiotok.register(entry) is entry
    audiotok.register(dataclasses.replace(entry, summary="two"))
    assert audiotok.describe("mine").summary == "two"
    assert "mine" in audiotok.list_tokenizers()


def test_an_unknown_family_says_which_are_known():
    with pytest.raises(UnknownTokenizerError, match="no tokenizer family named 'x'.*logmel-kmeans"):
        registry.family_class("x")


def test_a_plugin_that_gives_no_entry_is_a_plugin_error(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("odd", "math:pi", "audiotok.tokenizers")
    monkeypatch.setattr(registry, "_plugins", lambda group: {"odd": point})
    assert "odd" in audiotok.list_tokenizers()
    with pytest.raises(PluginError, match="gave a float, not an Entry"):
        audiotok.describe("odd")
