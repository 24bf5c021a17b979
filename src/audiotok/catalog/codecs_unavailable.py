"""Tokenizers of the field that `load` cannot give: without published weights, or without an implementation here."""

from ..spec import Spec
from .entry import EXPLAIN, Entry, Taxonomy

_SPEECH = ("speech",)
_ADVERSARIAL = "GAN, Feat, Rec, VQ"


def _entry(
    spec: Spec,
    summary: str,
    source: str,
    taxonomy: Taxonomy,
    paper: str,
    why: str,
    instead: str,
    *,
    licence_code: str = "not said",
    licence_weights: str = "none published",
    commercial: bool | None = None,
    parameters_millions: float = 0.0,
) -> Entry:
    return Entry(
        name=spec.name,
        loader=EXPLAIN,
        summary=summary,
        source=source,
        spec=spec,
        taxonomy=taxonomy,
        paper=paper,
        licence_code=licence_code,
        licence_weights=licence_weights,
        commercial=commercial,
        parameters_millions=parameters_millions,
        status="not available",
        advice=f"{spec.name} cannot be loaded: {why}. {instead}",
    )


_NO_WEIGHTS = [
    _entry(
        Spec("soundstream", 24000, 320, (1024,) * 8, streamable=True, nested=True),
        "SoundStream, the first residual-VQ codec trained end to end; as in its paper, 6 kbit/s",
        "none",
        Taxonomy(("speech", "music"), "CNN", "T", "RVQ", objective="GAN, Rec, Feat"),
        "Zeghidour et al. 2021, SoundStream: An End-to-End Neural Audio Codec, arXiv 2107.03312",
        "Google has not published the paper's weights; those inside github.com/google/lyra are of another model, for "
        "16 kHz speech, as TensorFlow Lite graphs",
        "The nearest is encodec-24khz: causal, 24 kHz, residual codebooks of 1024 at 75 frames a second",
    ),
    _entry(
        Spec("harp-net", 44100, 1, (32,)),
        "HARP-Net: scalar quantization in the bottleneck and in the skip connections, then entropy coding; 32 levels "
        "as in its authors' later code",
        "none",
        Taxonomy(("music",), "CNN", "T", "FSQ", bitrate="adaptive", objective="Rec"),
        "Petermann, Beack and Kim 2021, HARP-Net: Hyper-Autoencoded Reconstruction Propagation for Scalable Neural "
        "Audio Coding, arXiv 2107.10843",
        "no weights were published",
        "The nearest for music at 44.1 kHz is dac-44khz; audiotok.quantize.FSQ is a scalar quantizer to train with",
    ),
    _entry(
        Spec(
            "singomd", 16000, 1280, (1024,) * 7, row_levels=(0, 1, 1, 2, 2, 2, 2)
        ),  # 80, 40 and 20 ms, as in the recipe's example
        "SingOMD: k-means over HuBERT features adapted to singing, at 80, 40 and 20 ms",
        "none",
        Taxonomy(("music",), "CNN+Transformer / CNN", "T", "K-Means", objective="GAN, Feat, Rec, MP", joint=False),
        "Tang et al. 2024, SingOMD: Singing Oriented Multi-resolution Discrete Representation Construction from Speech "
        "Models, arXiv 2406.08905",
        "its recipe was published without weights",
        "Fit k-means over HuBERT on singing of your own: audiotok fit FOLDER --features facebook/hubert-base-ls960 "
        "--layers 12 --k 1024 --out OUT",
    ),
    _entry(
        Spec("best-rq", 16000, 640, (8192,), decodable=False),
        "BEST-RQ: the nearest of 8192 random vectors to a random projection of four stacked log-mel frames",
        "none",
        Taxonomy(_SPEECH, "CNN+Transformer / -", "T-F", "PQ", objective="MP", joint=False),
        "Chiu et al. 2022, Self-supervised Learning with Random-projection Quantizer for Speech Recognition, "
        "arXiv 2202.01855",
        "no quantizer was published, and none needs to be: it is random",
        "audiotok.quantize.RandomProjection makes one from a seed; a tokenizer that loads and only encodes is "
        "dwavlm-layer3-k2000",
    ),
]

_NOT_IMPLEMENTED = [
    *(
        _entry(
            Spec(name, 16000, 320, (1024,) * 8, streamable=streamable, nested=True),
            f"PAST{what}: EnCodec's residual codebooks behind a transformer taught phones and words",
            f"slprl/PAST, {file}",
            Taxonomy(_SPEECH, "CNN+Transformer / CNN", "T", "RVQ", objective=_ADVERSARIAL, auxiliary="SST"),
            "Har-Tuv, Tal and Adi 2025, PAST: Phonetic-Acoustic Speech Tokenizer, arXiv 2505.14470",
            "its transformer is not implemented here",
            "The nearest is speechtokenizer: 16 kHz, 50 frames a second, 8 codebooks of 1024, the first one phonetic",
            licence_code="MIT",
            licence_weights="not said",
        )
        for name, file, what, streamable in (
            ("past", "PAST.th", "", False),
            ("past-streamable", "PAST_streamable.th", ", 20 ms of look-ahead", True),
        )
    ),
    _entry(
        Spec("distill-neucodec", 16000, 320, (65536,), output_sample_rate=24000),
        "NeuCodec with a distilled encoder",
        "neuphonic/distill-neucodec",
        Taxonomy(_SPEECH, "CNN+Transformer", "T", "FSQ", objective=_ADVERSARIAL, auxiliary="SD"),
        "Julian et al. 2025, Finite Scalar Quantization Enables Redundant and Transmission-Robust Neural Audio "
        "Compression at Low Bit-rates, arXiv 2509.09550",
        "its distilled encoder is not implemented here, nor in transformers",
        "The nearest is neucodec: other tokens, but the same decoder and rate",
        licence_code="Apache-2.0",
        licence_weights="Apache-2.0",
        commercial=True,
    ),
    _entry(
        Spec("bigcodec", 16000, 200, (8192,)),
        "BigCodec: one codebook of 8192, 80 tokens a second",
        "Alethia/BigCodec",
        Taxonomy(_SPEECH, "CNN+RNN", "T", "SVQ", objective=_ADVERSARIAL),
        "Xin et al. 2024, BigCodec: Pushing the Limits of Low-Bitrate Neural Speech Codec, arXiv 2409.05377",
        "it is not implemented here",
        "The nearest are wavtokenizer-small-speech-75 and xcodec2, which also have one codebook",
        licence_code="MIT",
        licence_weights="MIT",
        commercial=True,
        parameters_millions=159,
    ),
    *(
        _entry(
            Spec(
                f"focalcodec-{variant}",
                16000,
                hop,
                (size,),
                streamable=causal,
                output_sample_rate=24000 if causal else 16000,
            ),
            f"FocalCodec: one binary spherical codebook of {size}, {16000 / hop:g} tokens a second"
            + ", causal, 24 kHz out" * causal,
            f"lucadellalib/focalcodec_{theirs}",
            Taxonomy(_SPEECH, "CNN+Transformer", "T", "SVQ", auxiliary="SD"),
            "Della Libera et al. 2025, FocalCodec: Low-Bitrate Speech Coding via Focal Modulation Networks, "
            "arXiv 2502.04465",
            "it is not implemented here",
            "The nearest are wavtokenizer-speech-40, which has one codebook too, and dwavlm-layer3-k1000, whose "
            "features are also WavLM's",
            licence_code="Apache-2.0",
            licence_weights="Apache-2.0",
            commercial=True,
        )
        for variant, theirs, hop, size, causal in (
            ("50hz", "50hz", 320, 8192, False),
            ("25hz", "25hz", 640, 8192, False),
            ("12.5hz", "12_5hz", 1280, 8192, False),
            ("50hz-2k-causal", "50hz_2k_causal", 320, 2048, True),
            ("50hz-4k-causal", "50hz_4k_causal", 320, 4096, True),
            ("50hz-65k-causal", "50hz_65k_causal", 320, 65536, True),
        )
    ),
    *(
        _entry(
            Spec(f"dualcodec-{rate}hz", 24000, hop, sizes, nested=True),
            f"DualCodec: a semantic codebook of 16384 from w2v-BERT 2, then {len(sizes) - 1} acoustic ones of "
            f"{sizes[1]}",
            "amphion/dualcodec",
            Taxonomy(_SPEECH, "CNN+Transformer / CNN", "T", "RVQ", objective=_ADVERSARIAL, auxiliary="SD"),
            "Li et al. 2025, DualCodec: A Low-Frame-Rate, Semantically-Enhanced Neural Audio Codec for Speech "
            "Generation, arXiv 2505.13000",
            "it is not implemented here",
            "The nearest is mimi: 24 kHz, 12.5 frames a second, the first codebook semantic",
            licence_code="MIT",
            licence_weights="not said",
        )
        for rate, hop, sizes in (("12", 1920, (16384, *(4096,) * 7)), ("25", 960, (16384, *(1024,) * 11)))
    ),
    *(
        _entry(
            Spec(f"stable-codec-speech-16k{suffix}", 16000, 640, (46656,)),
            f"Stable Codec{what}: one token of 46656 a frame, or 2 of 15625, or 4 of 729",
            f"stabilityai/stable-codec-speech-16k{suffix}",
            Taxonomy(_SPEECH, "CNN+Transformer", "T", "FSQ", objective="GAN, Feat, Rec", auxiliary="SD"),
            "Parker et al. 2024, Scaling Transformers for Low-Bitrate High-Quality Speech Coding, arXiv 2411.19842",
            "it is not implemented here, and upstream's code needs a GPU with FlashAttention",
            "The nearest are xcodec2 and wavtokenizer-speech-40, which have one codebook and run on a CPU",
            licence_code="MIT",
            licence_weights="Stability AI Community License",
        )
        for suffix, what in (("", ""), ("-base", ", before it was fine-tuned"))
    ),
]

UNAVAILABLE = [*_NO_WEIGHTS, *_NOT_IMPLEMENTED]
