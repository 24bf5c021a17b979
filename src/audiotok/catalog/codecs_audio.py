"""Codecs for audio of every kind: EnCodec, DAC, SNAC."""

from ..spec import Spec
from .entry import EXPLAIN, LOAD_PUBLISHED, Entry, Published, Taxonomy

_ALL = ("speech", "music", "audio")
_ADVERSARIAL = "GAN, Feat, Rec, VQ"
_TRANSFORMERS = ("config.json", "model.safetensors")

# ---- EnCodec -----------------------------------------------------------------------------------------------------

_ENCODEC_PAPER = "Défossez et al. 2022, High Fidelity Neural Audio Compression, arXiv 2210.13438"
_AUDIOCRAFT = "CC-BY-NC-4.0"


def _encodec_place(*domains: str) -> Taxonomy:
    return Taxonomy(domains, "CNN+RNN / CNN", "T", "RVQ", objective=_ADVERSARIAL)


_ENCODEC = [
    Entry(
        name="encodec-24khz",
        loader=LOAD_PUBLISHED,
        summary="EnCodec at 24 kHz: causal, 1.5 to 24 kbit/s with 2 to 32 codebooks",
        source="facebook/encodec_24khz",
        spec=Spec("encodec-24khz", 24000, 320, (1024,) * 32, streamable=True, nested=True, batching="mask"),
        taxonomy=_encodec_place(*_ALL),
        paper=_ENCODEC_PAPER,
        licence_code="MIT",
        licence_weights="not said",
        parameters_millions=14.9,
        size_mb=93.1,
        published=Published("audiotok.backends.encodec:read_encodec", "facebook/encodec_24khz", _TRANSFORMERS),
    ),
    Entry(
        name="encodec-48khz",
        loader=LOAD_PUBLISHED,
        summary="EnCodec at 48 kHz, stereo: segments of a second, each with a scale beside its tokens",
        source="facebook/encodec_48khz",
        spec=Spec("encodec-48khz", 48000, 320, (1024,) * 16, channels=2, nested=True, segmented=True),
        taxonomy=_encodec_place("music"),
        paper=_ENCODEC_PAPER,
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        published=Published("audiotok.backends.encodec:read_encodec", "facebook/encodec_48khz", _TRANSFORMERS),
    ),
    Entry(
        name="encodec-32khz",
        loader=LOAD_PUBLISHED,
        summary="EnCodec of MusicGen: music at 32 kHz, 4 codebooks of 2048",
        source="facebook/encodec_32khz",
        spec=Spec("encodec-32khz", 32000, 640, (2048,) * 4, nested=True, batching="mask"),
        taxonomy=_encodec_place("music"),
        paper="Copet et al. 2023, Simple and Controllable Music Generation, arXiv 2306.05284",
        licence_code="MIT",
        licence_weights=_AUDIOCRAFT,
        commercial=False,
        parameters_millions=56.9,
        size_mb=239,
        published=Published("audiotok.backends.encodec:read_encodec", "facebook/encodec_32khz", _TRANSFORMERS),
    ),
    Entry(
        name="encodec-16khz",
        loader=LOAD_PUBLISHED,
        summary="EnCodec of AudioGen: sound effects at 16 kHz, 4 codebooks of 2048",
        source="facebook/audiogen-medium",
        spec=Spec("encodec-16khz", 16000, 320, (2048,) * 4, nested=True, batching="mask"),
        taxonomy=_encodec_place("audio"),
        paper="Kreuk et al. 2022, AudioGen: Textually Guided Audio Generation, arXiv 2209.15352",
        licence_code="MIT",
        licence_weights=_AUDIOCRAFT,
        commercial=False,
        parameters_millions=56.8,
        size_mb=236,
        published=Published(
            "audiotok.backends.encodec:read_encodec",
            "facebook/audiogen-medium",
            ("compression_state_dict.bin",),
            source="compression_state_dict.bin",
        ),
    ),
]

# ---- DAC ---------------------------------------------------------------------------------------------------------

_DAC_PAPER = "Kumar et al. 2023, High-Fidelity Audio Compression with Improved RVQGAN, arXiv 2306.06546"
_DAC_PLACE = Taxonomy(_ALL, "CNN", "T", "RVQ", objective=_ADVERSARIAL)

_DAC = [
    Entry(
        name=f"dac-{_khz}khz",
        loader=LOAD_PUBLISHED,
        summary=f"Descript Audio Codec at {_rate / 1000:g} kHz, 8 kbit/s model: {_books} factorised codebooks",
        source=f"descript/dac_{_khz}khz",
        spec=Spec(f"dac-{_khz}khz", _rate, _hop, (1024,) * _books, nested=True, batching="mask"),
        taxonomy=_DAC_PLACE,
        paper=_DAC_PAPER,
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        parameters_millions=_millions,
        size_mb=_size,
        published=Published("audiotok.backends.dac:read_dac", f"descript/dac_{_khz}khz", _TRANSFORMERS),
    )
    for _khz, _rate, _hop, _books, _millions, _size in (
        (16, 16000, 320, 12, 74.1, 297),
        (24, 24000, 320, 32, 74.7, 299),
        (44, 44100, 512, 9, 76.7, 307),
    )
] + [
    Entry(
        name="dac-44khz-16kbps",
        loader=EXPLAIN,
        summary="Descript Audio Codec at 44.1 kHz, 16 kbit/s model: 18 factorised codebooks",
        source="GitHub release 1.0.0 of descriptinc/descript-audio-codec, weights_44khz_16kbps.pth",
        spec=Spec("dac-44khz-16kbps", 44100, 512, (1024,) * 18, nested=True, batching="mask"),
        taxonomy=_DAC_PLACE,
        paper=_DAC_PAPER,
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        status="local files",
        advice="the weights of dac-44khz-16kbps are not on the Hub. Fetch weights_44khz_16kbps.pth from release 1.0.0 "
        "of github.com/descriptinc/descript-audio-codec, then: audiotok convert dac weights_44khz_16kbps.pth OUT",
    )
]

# ---- SNAC --------------------------------------------------------------------------------------------------------

_SNAC = [
    Entry(
        name=f"snac-{_khz}khz",
        loader=LOAD_PUBLISHED,
        summary=f"SNAC at {_rate / 1000:g} kHz: {len(_rows)} levels, each coarser one with half as many tokens",
        source=f"hubertsiuzdak/snac_{_khz}khz",
        spec=Spec(
            f"snac-{_khz}khz",
            _rate,
            _hop * _rows[-1],
            (4096,) * sum(_rows),
            nested=True,
            batching="mask",
            row_levels=tuple(level for level, count in enumerate(_rows) for _ in range(count)),
        ),
        taxonomy=Taxonomy(_domains, "CNN+RNN / CNN", "T", "MSRVQ", objective=_ADVERSARIAL),
        paper="Siuzdak et al. 2024, SNAC: Multi-Scale Neural Audio Codec, arXiv 2410.14411",
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        parameters_millions=_millions,
        size_mb=_size,
        published=Published(
            "audiotok.backends.snac:read_snac", f"hubertsiuzdak/snac_{_khz}khz", ("config.json", "pytorch_model.bin")
        ),
    )
    # rows of each level in a coarse frame; hop of the finest level
    for _khz, _rate, _hop, _rows, _domains, _millions, _size in (
        (24, 24000, 512, (1, 2, 4), ("speech",), 19.8, 79.5),
        (32, 32000, 384, (1, 2, 4, 8), ("music", "audio"), 54.5, 218),
        (44, 44100, 384, (1, 2, 4, 8), ("music", "audio"), 54.5, 218),
    )
]

AUDIO_CODECS = [*_ENCODEC, *_DAC, *_SNAC]
