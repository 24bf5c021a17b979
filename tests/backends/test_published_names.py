"""Every catalog name whose files lie on the Hub, loaded from a stand-in Hub that holds small models of the same format
in the published layout: repository, folders, file names, archives. And the names of local files, converted."""

import io
import re
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from stand_in_hub import StandInHub, point_client_at

import audiotok
from audiotok.catalog import ENTRIES
from audiotok.spec import Spec

from .cases import FIXTURES

PUBLISHED = {name: entry for name, entry in ENTRIES.items() if entry.published}


@dataclass(frozen=True)
class Row:
    """A small model in the place of a published one.

    fixture: folder of tests/fixtures with its files.
    files: file of the repository -> file of the fixture, for those that are not called the same.
    config: file of the fixture, in the place of a configuration that lies elsewhere.
    options: of the reader, in the place of the catalog's.
    """

    fixture: str
    files: dict[str, str] = field(default_factory=dict)
    config: str = ""
    options: dict[str, object] = field(default_factory=dict)


def _wavtokenizer(name: str) -> Row:
    """The fixture of the same hop."""
    hop = ENTRIES[name].spec.hop_length
    frames = {320: "frame75", 600: "frame40"}[hop]
    (file,) = ENTRIES[name].published.files
    return Row(
        f"wavtokenizer/hop{hop}_speech",
        {file: f"WavTokenizer_small_{hop}_24k_4096.ckpt"},
        config=f"wavtokenizer_smalldata_{frames}_3s_nq1_code4096_dim512_kmeans200_attn.yaml",
    )


ROWS = {
    "encodec-24khz": Row("encodec-native/24k-mono-causal/hf"),
    "encodec-48khz": Row("encodec-native/48k-stereo-chunked/hf"),
    "encodec-32khz": Row("audiocraft-encodec/musicgen-32k-like/hf"),
    "encodec-16khz": Row("audiocraft-encodec/audiogen-16k-like"),
    "dac-16khz": Row("dac-native/16k-like/hf"),
    "dac-24khz": Row("dac-native/16k-like/hf"),
    "dac-44khz": Row("dac-native/44k-like/hf"),
    "mimi": Row("mimi/tiny-8cb/hf"),
    "speechtokenizer": Row("speechtokenizer/hop320_q8"),
    "snac-24khz": Row("snac/noattn_3levels"),
    "snac-32khz": Row("snac/attn_4levels"),
    "snac-44khz": Row("snac/attn_4levels"),
    **{
        name: Row("sqcodec/levels5_noncausal", options={"levels": 5})  # its 8 values a frame make no groups of nine
        for name in PUBLISHED
        if name.startswith("sqcodec-")
    },
    "facodec": Row("facodec/v1"),
    "facodec-v2": Row("facodec/v2"),
    "llmcodec": Row("llmcodec/strides421", {"semantic_acoustic.pth": "ckpt.pth"}, config="config.yaml"),
    "xcodec2": Row("transformers-codec/xcodec2"),
    "neucodec": Row("transformers-codec/neucodec"),
    **{name: _wavtokenizer(name) for name in PUBLISHED if name.startswith("wavtokenizer-")},
    **{name: Row("xcodec/hubert-like") for name in PUBLISHED if name.startswith("xcodec-hubert-")},
    **{name: Row("transformers-codec/xcodec-wavlm") for name in PUBLISHED if name.startswith("xcodec-wavlm-")},
    **{
        name: Row("hificodec/16k_hop320_g2", {entry.published.files[0]: "HiFi-Codec-16k-320d"})
        for name, entry in PUBLISHED.items()
        if name.startswith("hificodec-")
    },
    **{
        name: Row("ticodec/1g2r", {entry.published.files[0]: "g_00350000"})
        for name, entry in PUBLISHED.items()
        if name.startswith("ticodec-")
    },
}


def published_files(name: str) -> dict[str, dict[str, bytes]]:
    """Repository -> its files, for one name."""
    row, published = ROWS[name], PUBLISHED[name].published
    folder = FIXTURES / row.fixture
    if published.files[0].endswith(".zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                if path.suffix in (".yaml", ".pth"):
                    archive.write(path, f"{published.source}/{path.name}")
        return {published.repository: {published.files[0]: buffer.getvalue()}}
    files = {file: (folder / row.files.get(file, Path(file).name)).read_bytes() for file in published.files}
    found = {published.repository: files}
    if row.config and isinstance(published.config, str):
        repository, _, file = published.config.partition(":")
        found.setdefault(repository, {})[file] = (folder / row.config).read_bytes()
    return found


def properties(spec: Spec) -> dict[str, object]:
    """What does not depend on the sizes of a model."""
    names = ("channels", "decodable", "streamable", "nested", "batching", "segmented")
    found = {name: getattr(spec, name) for name in names}
    return {**found, "levels": bool(spec.row_levels), "resampled": spec.output_sample_rate != spec.sample_rate}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with StandInHub() as server:
        point_client_at(server, monkeypatch, tmp_path / "home")
        yield server


@pytest.fixture(scope="module")
def files(clips, tmp_path_factory) -> list[Path]:
    """A second of speech and of music at 16 kHz, of a bell at 44.1 kHz and of an alarm at 48 kHz, both in stereo."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for clip in clips:
        if clip.stem in ("speech_fr_2", "music_16k_1", "effect_bell_stereo", "effect_alarm"):
            wav, rate = soundfile.read(clip, dtype="float32")
            found.append(folder / clip.name)
            soundfile.write(found[-1], wav[:rate], rate)
    assert [(soundfile.info(path).samplerate, soundfile.info(path).channels) for path in found] == [
        (48000, 2),
        (44100, 2),
        (16000, 1),
        (16000, 1),
    ]
    return found


def test_every_published_name_has_a_row():
    assert ROWS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_loads_and_gives_every_sample_back(name, hub, files, monkeypatch):
    entry, row = PUBLISHED[name], ROWS[name]
    for repository, contents in published_files(name).items():
        hub.add(repository, contents)
    small: dict[str, object] = {}
    if row.config and not isinstance(entry.published.config, str):
        small["config"] = yaml.safe_load((FIXTURES / row.fixture / row.config).read_text())
    if row.options:
        small["options"] = row.options
    monkeypatch.setitem(ENTRIES, name, replace(entry, published=replace(entry.published, **small)))
    tok = audiotok.load(name)
    assert type(tok).__module__ == entry.published.reader.partition(":")[0]
    assert tok.spec.name == name
    assert tok.provenance["repository"].startswith(f"{entry.published.repository}@")
    assert properties(tok.spec) == properties(entry.spec)
    for path in files:
        wav, _ = audiotok.audio.load(path, sample_rate=tok.spec.sample_rate, channels=tok.spec.channels)
        codes = tok.encode_file(path)
        assert codes.num_samples.tolist() == [wav.shape[1]]
        assert codes.tokens.shape == (1, tok.spec.num_codebooks, tok.num_frames(wav.shape[1]))
        decoded = tok.decode(codes)
        assert decoded.shape == (1, tok.spec.channels, tok.spec.output_samples(wav.shape[1]))
        assert bool(decoded.isfinite().all())
        assert torch.equal(tok.encode(wav[None]).tokens, codes.tokens)


LOCAL = {
    "dac-44khz-16kbps": "dac-native/44k-like/weights_44khz_8kbps_0.0.1.pth",
    "esc-base": "esc/swin_6streams",
    "esc-base-adv": "esc/swin_6streams",
    "esc-large": "esc/swin_6streams",
    "s3tokenizer-v1-50hz": "s3tokenizer/v1-50hz",
    "s3tokenizer-v1-25hz": "s3tokenizer/v1-25hz",
    "s3tokenizer-v2-25hz": "s3tokenizer/v2-25hz",
    "s3tokenizer-v3-25hz": "s3tokenizer/v2-25hz",
}


def test_every_codec_of_local_files_is_here():
    local = {entry.name for entry in ENTRIES.values() if entry.status == "local files"}
    assert LOCAL.keys() == {name for name in local if not name.startswith("hubert-")}


@pytest.mark.parametrize("name", LOCAL)
def test_what_the_advice_converts_is_what_the_catalog_says(name):
    (family,) = re.findall("audiotok convert (.+?) ", ENTRIES[name].advice)
    tok = audiotok.convert(family, FIXTURES / LOCAL[name], name=name)
    assert properties(tok.spec) == properties(ENTRIES[name].spec)
    if name.startswith("s3tokenizer-"):
        assert tok.spec.frame_rate == ENTRIES[name].spec.frame_rate
