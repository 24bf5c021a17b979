import sys
from dataclasses import replace
from pathlib import Path

import pytest

from audiotok import registry
from audiotok.catalog import ENTRIES
from audiotok.hub import DEFAULT


@pytest.fixture
def entries(monkeypatch):
    """Two entries beside one that is the default, and two that cannot be loaded."""
    base = ENTRIES["logmel-16khz"]
    monkeypatch.setattr(registry, "ENTRIES", {"logmel-16khz": base})
    monkeypatch.setattr("audiotok.cli.listing.DEFAULT", "logmel-16khz")
    fast = replace(base.spec, name="fast", codebook_sizes=(16, 32), decodable=False, streamable=True)
    one = replace(base, name="fast", spec=fast, commercial=None, licence_weights="CC-BY-NC-4.0", extra="x")
    music = replace(base, name="tune", taxonomy=replace(base.taxonomy, domains=("music",)))
    local = replace(base, name="local", status="local files", advice="fetch local by hand")
    gone = replace(base, name="gone", status="not available", advice="gone cannot be loaded", commercial=False)
    for entry in (one, music, local, gone):
        monkeypatch.setitem(registry._registered, entry.name, entry)


def names(result):
    return [entry["name"] for entry in result.json["tokenizers"]]


COLUMNS = [
    "name",
    "Hz",
    "frames/s",
    "codebooks",
    "kbit/s",
    "domains",
    "quantizer",
    "decodes",
    "streams",
    "licence",
    "extra",
]


def test_the_table(run, entries):
    result = run("list", "[flt]*")
    header, fast, logmel, tune = (line.split() for line in result.text.splitlines())
    assert result.code == 0
    assert header == COLUMNS
    assert " ".join(fast) == "fast 16000 50 2 x 16..32 0.45 speech,music,audio K-Means no yes CC-BY-NC-4.0 x"
    assert logmel[:2] == ["logmel-16khz", "*"]  # the default
    assert tune[-6:] == ["music", "K-Means", "yes", "no", "Apache-2.0", "-"]


def test_all_shows_what_cannot_be_loaded_and_says_so(run, entries):
    header, *rows = (line.split("  ") for line in run("list", "--all", "[glt]*").text.splitlines())
    cells = [[cell.strip() for cell in row if cell] for row in rows]
    assert [cell for cell in header if cell][:2] == ["name", "loads"]
    assert [row[:2] for row in cells] == [
        ["gone", "not available"],
        ["local", "local files"],
        ["logmel-16khz *", "yes"],
        ["tune", "yes"],
    ]
    assert [entry["status"] for entry in run("list", "--all", "[gl]o[nc]*", "--json").json["tokenizers"]] == [
        "not available",
        "local files",
    ]
    assert run("list", "gone").err == "no tokenizer fits: `audiotok list --all` shows every name\n"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], ["fast", "logmel-16khz", "mulaw-8khz", "tune"]),
        (["*-*"], ["logmel-16khz", "mulaw-8khz"]),
        (["--domain", "speech"], ["fast", "logmel-16khz", "mulaw-8khz"]),
        (["--domain", "music"], ["fast", "logmel-16khz", "tune"]),
        (["--max-kbps", "4"], ["fast", "logmel-16khz", "tune"]),
        (["--max-kbps", "3.9"], ["fast", "logmel-16khz", "tune"]),  # with fewer codebooks
        (["--max-kbps", "0.49"], ["fast"]),
        (["--min-kbps", "4"], ["logmel-16khz", "mulaw-8khz", "tune"]),
        (["--min-kbps", "0.45", "--max-kbps", "0.45"], ["fast"]),
        (["--all", "--max-kbps", "4"], ["fast", "gone", "local", "logmel-16khz", "tune"]),
        (["--all", "--commercial"], ["local", "logmel-16khz", "mulaw-8khz", "tune"]),
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
    assert (result.code, result.out, result.err) == (
        0,
        b"",
        "no tokenizer fits: `audiotok list --all` shows every name\n",
    )


def test_of_the_catalog_only_what_loads_is_listed(run):
    listed = names(run("list", "--json"))
    assert {"encodec-24khz", "dac-44khz", "mimi", "snac-24khz", "facodec", "dwavlm-l5-k1000"} <= set(listed)
    assert not {"dac-44khz-16kbps", "esc-base", "hubert-layer6-k100", "s3tokenizer-v2-25hz", "soundstream"} & set(
        listed
    )
    assert set(names(run("list", "--all", "--json"))) == {*ENTRIES, "mulaw-8khz"}
    assert names(run("list", "--streamable", "--json")) == ["encodec-24khz", "mimi"]
    few = names(run("list", "--domain", "speech", "--max-kbps", "1", "--commercial", "--decodable", "--json"))
    assert {"mimi", "neucodec", "snac-24khz", "dac-16khz", "wavtokenizer-speech-40"} <= set(few)
    assert not {"sqcodec-16khz", "facodec", "dwavlm-l5-k1000", "snac-44khz"} & set(few)
    slow = names(run("list", *["--domain", "speech", "--max-kbps", "1.5", "--commercial", "--streamable", "--json"]))
    assert slow == ["mimi"]


def test_json_has_all_facts(run):
    (entry,) = run("list", DEFAULT, "--json").json["tokenizers"]
    assert entry == {**ENTRIES[DEFAULT].to_dict(), "default": True} | {
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
    result = run("info", DEFAULT, "--json")
    assert result.json["kind"] == "catalog"
    assert result.json["spec"]["codebook_sizes"] == [1024] * 8
    assert run("info").text == run("info", DEFAULT).text
    assert "  codebook sizes           8 x 1024\n" in run("info").text
    assert "  bitrate bps              4000\n" in run("info").text


def test_info_of_a_codec_has_everything(run):
    text = run("info", "encodec-32khz").text
    for line in (
        "summary                    EnCodec of MusicGen: music at 32 kHz, 4 codebooks of 2048",
        "  frame rate               50",
        "  codebook sizes           4 x 2048",
        "  architecture             CNN+RNN / CNN",
        "  quantizer                RVQ",
        "licence code               MIT",
        "licence weights            CC-BY-NC-4.0",
        "commercial                 no",
        "parameters millions        56.9",
        "size mb                    239",
        "  family                   encodec",
        "  repository               facebook/encodec_32khz",
        "  files                    config.json, model.safetensors",
        'load                       audiotok.load("encodec-32khz")',
    ):
        assert f"{line}\n" in text
    assert "arXiv 2306.05284" in text
    assert (
        run("info", "encodec-32khz", "--json").json["published"]["reader"] == "audiotok.backends.encodec:read_encodec"
    )


def test_info_leaves_out_what_is_not_known(run):
    text = run("info", "speechtokenizer").text
    assert "commercial                 not said\n" in text
    assert "published" not in run("info", "logmel-16khz").text
    assert "size mb" not in run("info", "logmel-16khz").text
    assert "parameters" not in run("info", "encodec-48khz").text


def test_info_says_how_a_name_is_had(run, entries):
    assert run("info", "fast").text.splitlines()[-1].split(None, 1) == [
        "load",
        "pip install 'audiotok[x]', then audiotok.load(\"fast\")",
    ]
    assert run("info", "local").text.splitlines()[-2:] == [
        "status                     local files",
        "load                       fetch local by hand",
    ]


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
