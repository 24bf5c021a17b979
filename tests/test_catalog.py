import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import audiotok
from audiotok import quantize
from audiotok.catalog import ENTRIES
from audiotok.catalog.codecs import CODECS
from audiotok.catalog.embedded import EMBEDDED
from audiotok.catalog.entry import EXPLAIN, LOAD_PUBLISHED
from audiotok.catalog.ssl import SSL
from audiotok.convert import READERS
from audiotok.errors import UnsupportedError

ROOT = Path(__file__).parents[1]
PUBLISHED = [name for name, entry in ENTRIES.items() if entry.published]
EXPLAINED = [name for name, entry in ENTRIES.items() if entry.status != "loadable"]
LOADABLE = {name for name, entry in ENTRIES.items() if entry.status == "loadable"}


def test_no_name_is_there_twice():
    assert len(ENTRIES) == len(EMBEDDED) + len(SSL) + len(CODECS)
    assert all(name == entry.name == entry.spec.name for name, entry in ENTRIES.items())


def test_how_many_there_are():
    assert Counter(entry.status for entry in CODECS) == {"loadable": 39, "local files": 8, "not available": 18}
    assert [entry.name for entry in SSL if entry.status == "local files"] == [
        "hubert-25hz-k500",
        *(f"hubert-layer6-k{size}" for size in (50, 100, 200, 500)),
        "hubert-layer9-k500",
    ]


# name -> Hz, frames per second, codebooks, bits per second; of the papers and configurations, not of the catalog
FACTS = {
    "encodec-24khz": (24000, 75, 32, 24000),
    "encodec-48khz": (48000, 150, 16, 24000),
    "encodec-32khz": (32000, 50, 4, 2200),
    "encodec-16khz": (16000, 50, 4, 2200),
    "dac-16khz": (16000, 50, 12, 6000),
    "dac-24khz": (24000, 75, 32, 24000),
    "dac-44khz": (44100, 86.1328125, 9, 7751.953125),
    "dac-44khz-16kbps": (44100, 86.1328125, 18, 15503.90625),
    "mimi": (24000, 12.5, 32, 4400),
    "speechtokenizer": (16000, 50, 8, 4000),
    "sqcodec-16khz": (16000, 50, 4, 2852.932501298082),  # 4 · 9 · log2 3 bits
    "wavtokenizer-speech-40": (24000, 40, 1, 480),
    "wavtokenizer-music-audio-75": (24000, 75, 1, 900),
    "snac-24khz": (24000, 11.71875, 7, 984.375),
    "snac-32khz": (32000, 10.416666666666666, 15, 1875),
    "snac-44khz": (44100, 14.35546875, 15, 2583.984375),
    "hificodec-16khz": (16000, 50, 4, 2000),
    "hificodec-24khz": (24000, 75, 4, 3000),
    "hificodec-24khz-hop240": (24000, 100, 4, 4000),
    "ticodec-1g1r": (24000, 75, 1, 750),
    "ticodec-1g4r": (24000, 75, 4, 3000),
    "esc-base": (16000, 50, 18, 9000),
    "facodec": (16000, 80, 6, 4800),
    "s3tokenizer-v1-50hz": (16000, 50, 1, 600),
    "s3tokenizer-v1-25hz": (16000, 25, 1, 300),
    "s3tokenizer-v2-25hz": (16000, 25, 1, 316.99250014423126),  # 8 · log2 3 bits
    "xcodec-hubert-librispeech": (16000, 50, 8, 4000),
    "xcodec2": (16000, 50, 1, 800),
    "neucodec": (16000, 50, 1, 800),
    "bigcodec": (16000, 80, 1, 1040),
    "dualcodec-12hz": (24000, 12.5, 8, 1225),
}


@pytest.mark.parametrize("name", FACTS)
def test_rates_are_those_of_the_publication(name):
    spec = ENTRIES[name].spec
    rate, frames, codebooks, bits = FACTS[name]
    assert (spec.sample_rate, spec.frame_rate, spec.num_codebooks) == (rate, frames, codebooks)
    assert spec.bitrate_bps == pytest.approx(bits, rel=1e-12)


def test_what_only_some_have():
    specs = {entry.name: entry.spec for entry in CODECS if entry.status != "not available"}

    def those(condition):
        return {name for name, spec in specs.items() if condition(spec)}

    assert those(lambda spec: spec.streamable) == {"encodec-24khz", "mimi"}
    assert those(lambda spec: spec.channels == 2) == those(lambda spec: spec.segmented) == {"encodec-48khz"}
    assert those(lambda spec: spec.output_sample_rate != spec.sample_rate) == {"neucodec"}
    assert those(lambda spec: not spec.decodable) == {name for name in specs if name.startswith("s3tokenizer-")}
    assert specs["snac-24khz"].row_levels == specs["llmcodec"].row_levels == (0, 1, 1, 2, 2, 2, 2)
    assert specs["snac-32khz"].row_levels == (0, 1, 1, *(2,) * 4, *(3,) * 8)
    assert specs["snac-44khz"].truncate(3).codebook_sizes == (4096,) * 3
    assert specs["llmcodec"].codebook_sizes == (3248, *(32000,) * 6)
    assert specs["encodec-24khz"].codebooks_for(6) == 8


def test_licences():
    commercial = {entry.name: entry.commercial for entry in CODECS}
    assert {name for name, allowed in commercial.items() if allowed is False} == {
        "encodec-32khz",
        "encodec-16khz",
        "xcodec2",
    }
    for entry in CODECS:
        known = entry.licence_weights in ("MIT", "Apache-2.0", "CC-BY-4.0")
        assert (entry.commercial is True) == known, entry.name
        assert (entry.commercial is False) == ("NC" in entry.licence_weights), entry.name


def test_taxonomy_uses_the_words_of_the_survey():
    for entry in ENTRIES.values():
        place = entry.taxonomy
        assert place.domains, entry.name
        assert set(place.domains) <= {"speech", "music", "audio"}, entry.name
        assert place.quantizer in {"RVQ", "SVQ", "GVQ", "FSQ", "MSRVQ", "CSRVQ", "PQ", "K-Means"}, entry.name
        assert place.representation in {"T", "T-F"}, entry.name
        assert place.bitrate in {"fixed", "adaptive"}, entry.name
        assert set(place.objective.split(", ")) <= {"GAN", "Feat", "Rec", "VQ", "Diff", "MP", "none", ""}, entry.name
        assert place.auxiliary in {"", "SD", "Dis", "SST"}, entry.name
    assert ENTRIES["snac-24khz"].taxonomy.quantizer == "MSRVQ"
    assert ENTRIES["esc-base"].taxonomy.representation == "T-F"
    assert ENTRIES["facodec"].taxonomy.auxiliary == "Dis"
    assert ENTRIES["harp-net"].taxonomy.bitrate == "adaptive"


def test_every_codec_names_its_paper():
    for entry in CODECS:
        assert re.search(r"\b20\d\d, .*arXiv \d{4}\.\d{5}$", entry.paper), entry.name


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_complete_and_plain(name):
    entry = ENTRIES[name]
    values = json.loads(json.dumps(entry.to_dict()))
    assert values["spec"]["frame_rate"] == entry.spec.frame_rate
    assert (entry.advice == "") == (entry.status == "loadable")
    assert (entry.loader == EXPLAIN) == (entry.status != "loadable")
    assert (entry.loader == LOAD_PUBLISHED) == (entry.published is not None)
    if entry.published:
        assert values["published"]["family"] == entry.published.family
        assert values["published"]["files"] == list(entry.published.files)
    assert entry.summary
    assert entry.source
    assert "\n" not in entry.summary + entry.advice


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_by_a_family_that_convert_knows(name):
    published = ENTRIES[name].published
    assert READERS[published.family] == published.reader
    assert ENTRIES[name].source == published.repository
    assert published.files
    archive = published.files[0].endswith(".zip")
    inside = any(file == published.source or file.startswith(f"{published.source}/") for file in published.files)
    assert archive or inside or published.source == ""
    assert len(published.files) == 1 or not archive
    assert not isinstance(published.config, str) or re.fullmatch(r"([\w-]+/[\w.-]+:[\w./-]+)?", published.config)


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_cannot_be_loaded_says_why_and_what_to_do(name):
    entry = ENTRIES[name]
    with pytest.raises(UnsupportedError) as caught:
        audiotok.load(name)
    assert str(caught.value) == entry.advice
    assert name in entry.advice
    if entry.status == "local files":
        (family,) = re.findall(r"audiotok convert (\S+) \S+ OUT", entry.advice)
        assert family in READERS
        return
    words = set(re.findall(r"[a-z0-9-]+", entry.advice))
    classes = re.findall(r"audiotok\.quantize\.(\w+)", entry.advice)
    assert words & LOADABLE or "audiotok fit" in entry.advice
    assert all(hasattr(quantize, each) for each in classes)
    for word in words & ENTRIES.keys() - {name}:
        assert word in LOADABLE


def test_the_catalog_imports_no_backend():
    code = (
        "import sys, audiotok.catalog; heavy = ('audiotok.backends', 'transformers', 'huggingface_hub'); "
        "print(*[name for name in sys.modules if name.startswith(heavy)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_page_of_all_names_is_up_to_date():
    path = ROOT / "scripts" / "make_catalog_page.py"
    spec = importlib.util.spec_from_file_location("make_catalog_page", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "tokenizers" / "README.md").read_text("utf-8")
    assert page == script.page(), "python scripts/make_catalog_page.py > docs/tokenizers/README.md"
    for name in ENTRIES:
        assert page.count(f"| `{name}` |") == 1
