"""Codecs made to be read by language models: WavTokenizer, SQ-Codec, X-Codec, X-Codec2, NeuCodec."""

from ..spec import Spec
from .entry import LOAD_PUBLISHED, Entry, Published, Taxonomy

_ALL = ("speech", "music", "audio")
_SPEECH = ("speech",)
_ADVERSARIAL = "GAN, Feat, Rec, VQ"
_TRANSFORMERS = ("config.json", "preprocessor_config.json", "model.safetensors")

# ---- WavTokenizer ------------------------------------------------------------------------------------------------

_WAVTOKENIZER_CONFIG = "wavtokenizer_{}_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
_SMALL_40 = "novateur/WavTokenizer:" + _WAVTOKENIZER_CONFIG.format("smalldata_frame40")
_SMALL_75 = "novateur/WavTokenizer:" + _WAVTOKENIZER_CONFIG.format("smalldata_frame75")
_MEDIUM_75 = "novateur/WavTokenizer-medium-speech-75token:" + _WAVTOKENIZER_CONFIG.format("mediumdata_frame75")
_MUSIC_75 = "novateur/WavTokenizer-medium-music-audio-75token:" + _WAVTOKENIZER_CONFIG.format(
    "mediumdata_music_audio_frame75"
)

_WAVTOKENIZER = [
    Entry(
        name=f"wavtokenizer-{_name}",
        loader=LOAD_PUBLISHED,
        summary=f"WavTokenizer, {24000 // _hop} tokens a second of one codebook of 4096; {_what}",
        source=f"novateur/{_repository}",
        spec=Spec(f"wavtokenizer-{_name}", 24000, _hop, (4096,), batching="mask"),
        taxonomy=Taxonomy(_domains, "CNN+Transformer", "T", "SVQ", objective=_ADVERSARIAL),
        paper="Ji et al. 2024, WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language "
        "Modeling, arXiv 2408.16532",
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        parameters_millions=_millions,
        size_mb=_size,
        published=Published(
            "audiotok.backends.wavtokenizer:read_wavtokenizer",
            f"novateur/{_repository}",
            (_file,),
            source=_file,
            config=_config,
        ),
    )
    for _name, _hop, _domains, _repository, _file, _config, _what, _millions, _size in (
        (
            "speech-40",
            600,
            _SPEECH,
            "WavTokenizer",
            "WavTokenizer_small_600_24k_4096.ckpt",
            _SMALL_40,
            "the small model for speech",
            80.9,
            1589,
        ),
        (
            "music-audio-75",
            320,
            _ALL,
            "WavTokenizer-medium-music-audio-75token",
            "wavtokenizer_medium_music_audio_320_24k_v2.ckpt",
            _MUSIC_75,
            "the medium model for speech, music and effects, version 2",
            80.6,
            0,
        ),
        (
            "small-speech-75",
            320,
            _SPEECH,
            "WavTokenizer",
            "WavTokenizer_small_320_24k_4096.ckpt",
            _SMALL_75,
            "the small model for speech",
            0,
            1585,
        ),
        (
            "medium-speech-75",
            320,
            _SPEECH,
            "WavTokenizer-medium-speech-75token",
            "wavtokenizer_medium_speech_320_24k_v2.ckpt",
            _MEDIUM_75,
            "the medium model for speech, version 2",
            0,
            1750,
        ),
        (
            "medium-speech-75-v1",
            320,
            _SPEECH,
            "WavTokenizer-medium-speech-75token",
            "wavtokenizer_medium_speech_320_24k.ckpt",
            _MEDIUM_75,
            "the medium model for speech, version 1",
            0,
            1750,
        ),
        (
            "large-unify-40",
            600,
            _ALL,
            "WavTokenizer-large-unify-40token",
            "wavtokenizer_large_unify_600_24k.ckpt",
            _SMALL_40,
            "the large model for speech, music and effects",
            0,
            1760,
        ),
        (
            "large-speech-75",
            320,
            _SPEECH,
            "WavTokenizer-large-speech-75token",
            "wavtokenizer_large_speech_320_v2.ckpt",
            _SMALL_75,
            "the large model for speech, version 2",
            0,
            1750,
        ),
    )
]

# ---- SQ-Codec ----------------------------------------------------------------------------------------------------

_SQCODEC = [
    Entry(
        name=f"sqcodec-16khz{_suffix}",
        loader=LOAD_PUBLISHED,
        summary=f"SQ-Codec: {_what}",
        source="Dongchao/UniAudio",
        spec=Spec(f"sqcodec-16khz{_suffix}", 16000, 320, _sizes, batching="mask"),
        taxonomy=Taxonomy(_domains, "CNN", "T", "FSQ", objective="GAN, Rec"),
        paper="Yang et al. 2024, SimpleSpeech, arXiv 2406.02328",
        licence_code="not said",
        licence_weights="MIT",
        commercial=True,
        parameters_millions=_millions,
        size_mb=_size,
        published=Published(
            "audiotok.backends.sqcodec:read_sqcodec",
            "Dongchao/UniAudio",
            (f"{_folder}.zip",),
            source=_folder,
            options={"levels": _levels},
        ),
    )
    # the rates of the second and third are those that the survey gives for SQ-Codec; loading reads their own
    for _suffix, _folder, _sizes, _levels, _domains, _what, _millions, _size in (
        ("", "SQ-Codec", (3**9,) * 4, 3, _ALL, "36 values of -1, 0 or 1 a frame, nine to a token", 23.5, 318),
        ("-50dim", "16k_50dim_9", (19,) * 50, 9, _SPEECH, "50 values a frame, rounded to ninths, each a token", 0, 0),
        ("-32dim", "16k_32dim_5", (11,) * 32, 5, _SPEECH, "32 values a frame, rounded to fifths, each a token", 0, 0),
    )
]

# ---- X-Codec -----------------------------------------------------------------------------------------------------

_XCODEC = [
    Entry(
        name=f"xcodec-{_variant}",
        loader=LOAD_PUBLISHED,
        summary=f"X-Codec: DAC-like features beside those of {_semantic}, one residual quantizer; trained on {_data}",
        source=f"hf-audio/xcodec-{_variant}",
        spec=Spec(f"xcodec-{_variant}", 16000, 320, (1024,) * 8, nested=True),
        taxonomy=Taxonomy(_domains, "CNN", "T", "RVQ", objective="GAN, Rec, VQ", auxiliary="SD"),
        paper="Ye et al. 2024, Codec Does Matter: Exploring the Semantic Shortcoming of Codec for Audio Language "
        "Model, arXiv 2408.17175",
        licence_code="not said",
        licence_weights=_licence,
        commercial=True if _licence == "CC-BY-4.0" else None,
        published=Published(
            "audiotok.backends.transformers_codec:read_xcodec", f"hf-audio/xcodec-{_variant}", _TRANSFORMERS
        ),
    )
    for _variant, _semantic, _data, _domains, _licence in (
        ("hubert-librispeech", "HuBERT base", "LibriSpeech", _SPEECH, "not said"),
        ("wavlm-mls", "WavLM base+", "English MLS", _SPEECH, "not said"),
        ("wavlm-more-data", "WavLM base+", "English MLS and more", _SPEECH, "CC-BY-4.0"),
        ("hubert-general", "a HuBERT for general audio", "200,000 hours", _ALL, "not said"),
        ("hubert-general-balanced", "a HuBERT for general audio", "more balanced data", _ALL, "not said"),
    )
]

# ---- X-Codec2 and NeuCodec ------------------------------------------------------------------------------------------

_XCODEC2 = [
    Entry(
        name="xcodec2",
        loader=LOAD_PUBLISHED,
        summary="X-Codec2 of Llasa: one token of 65536 a frame, from w2v-BERT 2 and acoustic features",
        source="HKUSTAudio/xcodec2-hf",
        spec=Spec("xcodec2", 16000, 320, (65536,)),
        taxonomy=Taxonomy(_SPEECH, "CNN+Transformer", "T", "FSQ", objective=_ADVERSARIAL, auxiliary="SD"),
        paper="Ye et al. 2025, Llasa: Scaling Train-Time and Inference-Time Compute for Llama-based Speech Synthesis, "
        "arXiv 2502.04128",
        licence_code="Apache-2.0",
        licence_weights="CC-BY-NC-4.0",
        commercial=False,
        size_mb=3290,
        published=Published(
            "audiotok.backends.transformers_codec:read_xcodec2", "HKUSTAudio/xcodec2-hf", _TRANSFORMERS
        ),
    ),
    Entry(
        name="neucodec",
        loader=LOAD_PUBLISHED,
        summary="NeuCodec: one token of 65536 a frame; takes 16 kHz and gives 24 kHz",
        source="neuphonic/neucodec",
        spec=Spec("neucodec", 16000, 320, (65536,), output_sample_rate=24000),
        taxonomy=Taxonomy(_SPEECH, "CNN+Transformer", "T", "FSQ", objective=_ADVERSARIAL, auxiliary="SD"),
        paper="Julian et al. 2025, Finite Scalar Quantization Enables Redundant and Transmission-Robust Neural Audio "
        "Compression at Low Bit-rates, arXiv 2509.09550",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
        commercial=True,
        published=Published("audiotok.backends.transformers_codec:read_neucodec", "neuphonic/neucodec", _TRANSFORMERS),
    ),
]

TOKEN_CODECS = [*_WAVTOKENIZER, *_SQCODEC, *_XCODEC, *_XCODEC2]
