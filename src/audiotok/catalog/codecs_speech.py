"""Codecs for speech: Mimi, SpeechTokenizer, HiFi-Codec, TiCodec, ESC, FACodec, S3, LLM-Codec."""

from ..spec import Spec
from .entry import EXPLAIN, LOAD_PUBLISHED, Entry, Published, Taxonomy

_SPEECH = ("speech",)
_ADVERSARIAL = "GAN, Feat, Rec, VQ"

_MIMI = [
    Entry(
        name="mimi",
        loader=LOAD_PUBLISHED,
        summary="Mimi of Moshi: causal, one semantic codebook and 31 acoustic ones; usually the first 8, 1.1 kbit/s",
        source="kyutai/mimi",
        spec=Spec("mimi", 24000, 1920, (2048,) * 32, streamable=True, nested=True, batching="mask"),
        taxonomy=Taxonomy(_SPEECH, "CNN+Transformer", "T", "RVQ", objective=_ADVERSARIAL, auxiliary="SD"),
        paper="Défossez et al. 2024, Moshi: a speech-text foundation model for real-time dialogue, arXiv 2410.00037",
        licence_code="MIT",
        licence_weights="CC-BY-4.0",
        commercial=True,
        parameters_millions=79.3,
        size_mb=385,
        published=Published("audiotok.backends.mimi:read_mimi", "kyutai/mimi", ("config.json", "model.safetensors")),
    )
]

_SPEECHTOKENIZER = [
    Entry(
        name="speechtokenizer",
        loader=LOAD_PUBLISHED,
        summary="SpeechTokenizer: its first codebook was taught by HuBERT, the other seven hold the rest",
        source="fnlp/SpeechTokenizer",
        spec=Spec("speechtokenizer", 16000, 320, (1024,) * 8, nested=True, batching="mask"),
        taxonomy=Taxonomy(_SPEECH, "CNN+RNN / CNN", "T", "RVQ", objective="GAN, Rec, Feat, VQ", auxiliary="SD"),
        paper="Zhang et al. 2023, SpeechTokenizer: Unified Speech Tokenizer for Speech Large Language Models, "
        "arXiv 2308.16692",
        licence_code="Apache-2.0",
        licence_weights="not said",
        parameters_millions=103.7,
        size_mb=482,
        published=Published(
            "audiotok.backends.speechtokenizer:read_speechtokenizer",
            "fnlp/SpeechTokenizer",
            ("speechtokenizer_hubert_avg/config.json", "speechtokenizer_hubert_avg/SpeechTokenizer.pt"),
            source="speechtokenizer_hubert_avg",
        ),
    )
]

_HIFICODEC = [
    Entry(
        name=f"hificodec-{_name}",
        loader=LOAD_PUBLISHED,
        summary=f"HiFi-Codec at {_rate // 1000} kHz: two groups of two residual codebooks{_more}",
        source="Dongchao/AcademiCodec",
        spec=Spec(f"hificodec-{_name}", _rate, _hop, (1024,) * 4),
        taxonomy=Taxonomy(_SPEECH, "CNN+RNN", "T", "GVQ", objective=_ADVERSARIAL),
        paper="Yang et al. 2023, HiFi-Codec: Group-residual Vector quantization for High Fidelity Audio Codec, "
        "arXiv 2305.02765",
        licence_code="MIT (readme, no licence file)",
        licence_weights="not said",
        published=Published(
            "audiotok.backends.hificodec:read_hificodec",
            "Dongchao/AcademiCodec",
            (_file,),
            source=_file,
            options={"sample_rate": _rate},  # its configuration is only among the source code
        ),
    )
    for _name, _rate, _hop, _file, _more in (
        ("16khz", 16000, 320, "HiFi-Codec-16k-320d", ""),
        ("24khz", 24000, 320, "HiFi-Codec-24k-320d", ""),
        ("24khz-hop240", 24000, 240, "HiFi-Codec-24k-240d", ", 100 frames a second"),
        (
            "16khz-large-universal",
            16000,
            320,
            "HiFi-Codec-16k-320d-large-universal",
            "; published without a word on its sizes, which are taken to be those of hificodec-16khz",
        ),
    )
]

_TICODEC = [
    Entry(
        name=f"ticodec-1g{_books}r",
        loader=LOAD_PUBLISHED,
        summary=f"TiCodec: {_books} codebook{'s' * (_books > 1)} a frame, and eight codes for the whole utterance "
        "beside the tokens",
        source="y-ren16/TiCodec",
        spec=Spec(f"ticodec-1g{_books}r", 24000, 320, (1024,) * _books, nested=True),
        taxonomy=Taxonomy(_SPEECH, "CNN+RNN", "T", "RVQ", objective=_ADVERSARIAL, auxiliary="Dis"),
        paper="Ren et al. 2023, Fewer-token Neural Speech Codec with Time-invariant Codes, arXiv 2310.00014",
        licence_code="Apache-2.0 (readme, no licence file)",
        licence_weights="not said",
        published=Published(
            "audiotok.backends.ticodec:read_ticodec",
            "y-ren16/TiCodec",
            (_file,),
            source=_file,
            options={"sample_rate": 24000},  # its configuration is only among the source code
        ),
    )
    # the checkpoints that upstream's test scripts named on the day of the upload
    for _books, _file in (
        (1, "logs_conv_only/logs_convonly_Lib_1g1r_cos_from_head/g_00300000"),
        (2, "logs_conv_only/logs_convonly_Lib_1g2r_cos_from_head/g_00250000"),
        (4, "logs_conv_only/logs_convonly_Lib_1g4r_cos_from_head/g_00250000"),
    )
]

_ESC = [
    Entry(
        name=f"esc-{_variant}",
        loader=EXPLAIN,
        summary=f"ESC: six streams from coarse to fine, three codebooks each, 1.5 kbit/s a stream; {_what}",
        source=f"Google Drive, linked from the readme of yzGuu830/efficient-speech-codec, as {_theirs}",
        spec=Spec(
            f"esc-{_variant}",
            16000,
            320,
            (1024,) * 18,
            nested=True,
            row_levels=tuple(stream for stream in range(6) for _ in range(3)),
        ),
        taxonomy=Taxonomy(_SPEECH, "Transformer", "T-F", "CSRVQ", objective="Rec, VQ"),
        paper="Gu and Diao 2024, ESC: Efficient Speech Coding with Cross-Scale Residual Vector Quantized Transformers, "
        "arXiv 2404.19441",
        licence_code="MIT",
        licence_weights="not said",
        parameters_millions=_millions,
        status="local files",
        advice=f"the weights of esc-{_variant} are not on the Hub. Fetch the folder of {_theirs} (config.yaml and "
        "model.pth) from the Google Drive that the readme of github.com/yzGuu830/efficient-speech-codec links to, "
        "then: audiotok convert esc FOLDER OUT",
    )
    for _variant, _theirs, _what, _millions in (
        ("base", "ESC-Base", "the base model", 8.39),
        ("base-adv", "ESC-Base(adv)", "the base model, trained with discriminators too", 8.39),
        ("large", "ESC-Large", "the large model", 15.58),
    )
]

_FACODEC = [
    Entry(
        name=_name,
        loader=LOAD_PUBLISHED,
        summary=f"FACodec of NaturalSpeech 3{_more}: one codebook for prosody, two for content, three for detail; "
        "a speaker vector beside the tokens",
        source="amphion/naturalspeech3_facodec",
        spec=Spec(_name, 16000, 200, (1024,) * 6),
        taxonomy=Taxonomy(_SPEECH, "CNN+RNN", "T", "GVQ", objective=_ADVERSARIAL, auxiliary="Dis"),
        paper="Ju et al. 2024, NaturalSpeech 3: Zero-Shot Speech Synthesis with Factorized Codec and Diffusion Models, "
        "arXiv 2403.03100",
        licence_code="MIT",
        licence_weights="Apache-2.0",
        commercial=True,
        size_mb=_size,
        published=Published(
            "audiotok.backends.facodec:read_facodec",
            "amphion/naturalspeech3_facodec",
            (f"ns3_facodec_encoder{_suffix}.bin", f"ns3_facodec_decoder{_suffix}.bin"),
            options={"version": _version},
        ),
    )
    for _name, _version, _suffix, _more, _size in (
        ("facodec", 1, "", "", 414.9),
        ("facodec-v2", 2, "_v2", ", version 2, whose prosody is read from mel bands", 0),
    )
]

_S3 = [
    Entry(
        name=f"s3tokenizer-{_variant}",
        loader=EXPLAIN,
        summary=f"supervised semantic tokens of {_model}: {16000 // _hop} a second, encode only",
        source=f"ModelScope, {_repository}, {_file}",
        spec=Spec(f"s3tokenizer-{_variant}", 16000, _hop, (_size,), decodable=False, batching="mask"),
        taxonomy=Taxonomy(
            _SPEECH,
            "Transformer",
            "T",
            "SVQ" if _size == 4096 else "FSQ",
            objective="Diff",
            auxiliary="SST",
            joint=False,
        ),
        paper=f"Du et al. {_paper}",
        licence_code="Apache-2.0",
        licence_weights=_licence,
        commercial=True if _licence == "Apache-2.0" else None,
        status="local files",
        advice=f"the weights of s3tokenizer-{_variant} are not on the Hub. Fetch {_file} of {_repository} from "
        f"modelscope.cn, then: audiotok convert s3tokenizer {_file} OUT",
    )
    for _variant, _hop, _size, _model, _repository, _file, _paper, _licence in (
        (
            "v1-50hz",
            320,
            4096,
            "CosyVoice",
            "iic/CosyVoice-300M",
            "speech_tokenizer_v1.onnx",
            "2024, CosyVoice, arXiv 2407.05407",
            "Apache-2.0",
        ),
        (
            "v1-25hz",
            640,
            4096,
            "CosyVoice",
            "iic/CosyVoice-300M-25Hz",
            "speech_tokenizer_v1.onnx",
            "2024, CosyVoice, arXiv 2407.05407",
            "not said",
        ),
        (
            "v2-25hz",
            640,
            6561,
            "CosyVoice 2",
            "iic/CosyVoice2-0.5B",
            "speech_tokenizer_v2.onnx",
            "2024, CosyVoice 2, arXiv 2412.10117",
            "Apache-2.0",
        ),
        (
            "v3-25hz",
            640,
            6561,
            "CosyVoice 3",
            "FunAudioLLM/Fun-CosyVoice3-0.5B-2512",
            "speech_tokenizer_v3.onnx",
            "2025, CosyVoice 3, arXiv 2505.17589",
            "not said",
        ),
    )
]

_LLMCODEC = [
    Entry(
        name="llmcodec",
        loader=LOAD_PUBLISHED,
        summary="LLM-Codec of UniAudio 1.5: its codebooks are word embeddings of LLaMA 2, at three time scales",
        source="Dongchao/2024",
        spec=Spec(
            "llmcodec",
            16000,
            1920,
            (3248, *(32000,) * 6),
            nested=True,
            batching="mask",
            row_levels=(0, 1, 1, 2, 2, 2, 2),
        ),
        taxonomy=Taxonomy(("speech", "audio"), "CNN+Transformer", "T", "MSRVQ", objective="GAN, Rec", auxiliary="SD"),
        paper="Yang et al. 2024, UniAudio 1.5: Large Language Model-driven Audio Codec is A Few-shot Audio Task "
        "Learner, arXiv 2406.10056",
        licence_code="not said",
        licence_weights="not said; codebooks are LLaMA 2's",
        published=Published(
            "audiotok.backends.llmcodec:read_llmcodec",
            "Dongchao/2024",
            ("semantic_acoustic.pth",),
            source="semantic_acoustic.pth",
            config={  # only among the source code
                "generator": {
                    "name": "MSCodecLM",
                    "config": {
                        "encoder_dim": 32,
                        "sample_rate": 16000,
                        "encoder_rates": [3, 4, 5, 8],
                        "latent_dim": 512,
                        "decoder_dim": 1536,
                        "decoder_rates": [8, 5, 4, 3],
                        "vq_strides": [4, 2, 1],
                        "noise": True,
                        "depthwise": True,
                        "use_cblinear": True,
                        "attn_window_size": 8,
                    },
                }
            },
        ),
    )
]

SPEECH_CODECS = [
    *_MIMI,
    *_SPEECHTOKENIZER,
    *_HIFICODEC,
    *_TICODEC,
    *_ESC,
    *_FACODEC,
    *_S3,
    *_LLMCODEC,
]
