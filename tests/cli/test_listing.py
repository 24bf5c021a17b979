import sys
from dataclasses import replace
from pathlib import Path

import pytest

from audiotok import registry
from audiotok.catalog import ENTRIES


@pytest.fixture
def entries(monkeypatch):
    """Two entries beside the default."""
    base = ENTRIES["logmel-16khz"]
    monkeypatch.setattr(registry, "ENTRIES", {"logmel-16khz": base})
    fast = replace(base.spec, name="fast", codebook_sizes=(16, 32), decodable=False, streamable=True)
    one = replace(base, name="fast", spec=fast, commercial=None, licence_weights="CC-BY-NC-4.0", extra="x")
    music = replace(base, name="tune", taxonomy=replace(base.taxonomy, domains=("music",)))
    for entry in (one, music):
        monkeypatch.setitem(registry._registered, entry.name, entry)


def names(result):
    return [entry["name"] for entry in result.json["tokenizers"]]


def test_the_table(run, entries):
    result = run("list", "[flt]*")
    header, fast, logmel, tune = (line.split() for line in result.text.splitlines())
    assert result.code == 0
    assert header == ["name", "Hz", "frames/s", "codebooks", "kbit/s", "domains", "decodes", "licence", "extra"]
    assert fast == ["fast", "16000", "50", "2", "x", "16..32", "0.45", "speech,music,audio", "no", "CC-BY-NC-4.0", "x"]
    assert logmel[:2] == ["logmel-16khz", "*"]  # the default
    assert tune[-4:] == ["music", "yes", "Apache-2.0", "-"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], ["fast", "logmel-16khz", "mulaw-8khz", "tune"]),
        (["*-*"], ["logmel-16khz", "mulaw-8khz"]),
        (["--domain", "speech"], ["fast", "logmel-16khz", "mulaw-8khz"]),
        (["--domain", "music"], ["fast", "logmel-16khz", "tune"]),
        (["--max-kbps", "4"], ["fast", "logmel-16khz", "tune"]),
        (["--max-kbps", "3.9"], ["fast"]),
        (["--decodable"], ["logmel-16khz", "mulaw-8khz", "tune"]),
        (["--streamable"], ["fast"]),
        (["--commercial", "--domain", "speech"], ["logmel-16khz", "mulaw-8khz"]),
        (["none*"], []),
    ],
)
def test_filters(run, entries, options, wanted):
    result = run("list", *options, "--json")
    assert (result.code, names(result), result.err) == (0, wanted, "")


def test_nothing_fits(run):
    result = run("list", "none*")
    assert (result.code, result.out, result.err) == (0, b"", "no tokenizer fits: `audiotok list` shows all\n")


def test_json_has_all_facts(run):
    (entry,) = run("list", "logmel-16khz", "--json").json["tokenizers"]
    assert entry == {**ENTRIES["logmel-16khz"].to_dict(), "default": True} | {
        "spec": entry["spec"],
        "taxonomy": entry["taxonomy"],
    }
    assert (entry["spec"]["frame_rate"], entry["spec"]["bitrate_bps"]) == (50.0, 4000.0)


def test_a_broken_plug_in_is_one_line(run, tmp_path, monkeypatch):
    info = tmp_path / "sad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[audiotok.tokenizers]\nsad = sad_module:ENTRY\n")
    (tmp_path / "sad_module.py").write_text("raise RuntimeError('no\\nluck')\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = run("list")
    assert result.code == 0
    assert "logmel-16khz" in result.text
    (line,) = (line for line in result.text.splitlines() if "sad" in line)
    assert line == "broken: sad: plug-in 'sad' (sad_module:ENTRY) cannot be imported: RuntimeError: no luck"
    assert [broken["name"] for broken in run("list", "--json").json["broken"]] == ["sad"]
    assert run("info", "sad").code == 3
    assert "sad_module" not in sys.modules


def test_info_of_a_name(run):
    result = run("info", "logmel-16khz", "--json")
    assert result.json["kind"] == "catalog"
    assert result.json["spec"]["codebook_sizes"] == [1024] * 8
    assert run("info").text == run("info", "logmel-16khz").text
    assert "  codebook sizes           8 x 1024\n" in run("info").text
    assert "  bitrate bps              4000\n" in run("info").text


def test_info_of_a_folder(run, model):
    facts = run("info", model, "--json").json
    assert (facts["kind"], facts["folder"], facts["name"]) == ("folder", model, "logmel-k32x3")
    assert facts["spec"]["bitrate_bps"] == 750
    assert facts["provenance"]["fit"]["files"] == 14
    assert "    files                  14\n" in run("info", model).text


def test_info_of_a_repository_fetches_only_the_config(run, model, monkeypatch):
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return Path(model, file)

    monkeypatch.setattr("audiotok.cli.info.download", download)
    facts = run("info", "user/repo@v1", "--json").json
    assert (facts["kind"], facts["repository"], facts["name"]) == ("repository", "user/repo@v1", "logmel-k32x3")
    assert asked == [("user/repo", "config.json", "v1")]


def test_info_of_what_cannot_be_loaded_is_3(run, model, tmp_path):
    config = (Path(model) / "config.json").read_text()
    (tmp_path / "lies").mkdir()
    (tmp_path / "lies" / "config.json").write_text(config.replace('"sample_rate": 16000', '"sample_rate": -1'))
    for name, message in (
        ("nonsense", "no tokenizer named 'nonsense'"),
        (f"{tmp_path}/void", "no such folder"),
        (tmp_path, "holds no config.json"),
        (tmp_path / "lies", "does not describe a tokenizer: sample_rate must be a whole number"),
    ):
        result = run("info", name)
        assert (result.code, message in result.err, result.out) == (3, True, b"")
