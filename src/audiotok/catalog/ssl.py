"""K-means over layers of WavLM, HuBERT and wav2vec 2.0: which files on the Hub make up each name."""

from dataclasses import dataclass

from ..spec import Spec
from .entry import EXPLAIN, Entry, Taxonomy

#: Layers of the published vocoders, in the order of their embedding, and of their k-means files.
VOCODER_LAYERS = (1, 3, 7, 12, 18, 23)
_SETS = {"l5": (3, 7, 12, 18, 23), "l6": VOCODER_LAYERS}
_SETS |= {f"layer{layer}": (layer,) for layer in VOCODER_LAYERS}


@dataclass(frozen=True)
class Recipe:
    """Where the parts of a tokenizer lie.

    encoder: Hub repository of the network.
    repository: of the k-means files, and of the vocoder if there is one.
    kmeans: layer -> file in it.
    vocoder_layers: layers of the vocoder in `repository`, none if it has none.
    """

    encoder: str
    repository: str
    kmeans: dict[int, str]
    vocoder_layers: tuple[int, ...] = ()


_ENCODERS = {  # our prefix -> SpeechBrain's word, the network
    "dwavlm": ("wavlm", "microsoft/wavlm-large"),
    "dhubert": ("hubert", "facebook/hubert-large-ll60k"),
    "dwav2vec2": ("wav2vec2", "facebook/wav2vec2-large"),
}

RECIPES: dict[str, Recipe] = {}
for _prefix, (_word, _encoder) in _ENCODERS.items():
    for _set, _layers in _SETS.items():
        RECIPES[f"{_prefix}-{_set}-k1000"] = Recipe(
            encoder=_encoder,
            repository=f"speechbrain/hifigan-{_word}-k1000-LibriTTS",
            kmeans={layer: f"kmeans/LibriSpeech_{_word}_k1000_L{layer}.pt" for layer in _layers},
            vocoder_layers=VOCODER_LAYERS,
        )
for _prefix, _found in {"dwavlm": (3, 18, 23), "dhubert": (1, 3, 7)}.items():  # the ones seen on the Hub
    _word, _encoder = _ENCODERS[_prefix]
    for _layer in _found:
        RECIPES[f"{_prefix}-layer{_layer}-k2000"] = Recipe(
            encoder=_encoder,
            repository="speechbrain/SSL_Quantization",
            kmeans={_layer: f"LibriSpeech960/{_word}/LibriSpeech_{_word}_k2000_L{_layer}.pt"},
        )

_TAXONOMY = Taxonomy(
    domains=("speech",),
    architecture="CNN+Transformer",
    representation="T",
    quantizer="K-Means",
    objective="GAN, Feat, Rec",
    joint=False,
)
_PAPER = (
    "Mousavi et al. 2024, How Should We Extract Discrete Audio Tokens from Self-Supervised Models?, arXiv 2406.10735"
)


def _entry(name: str, recipe: Recipe) -> Entry:
    size = int(name.rpartition("-k")[2])
    layers = sorted(recipe.kmeans)
    network = recipe.encoder.rpartition("/")[2]
    return Entry(
        name=name,
        loader="audiotok.backends.discrete_ssl:load_published",
        summary=f"k-means over layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {network}",
        source=f"{recipe.encoder} and {recipe.repository}",
        spec=Spec(
            name=name,
            sample_rate=16000,
            hop_length=320,
            codebook_sizes=(size,) * len(layers),
            decodable=bool(recipe.vocoder_layers),
            batching="mask",
        ),
        taxonomy=_TAXONOMY,
        paper=_PAPER,
        licence_weights="Apache-2.0 + encoder's",
        parameters_millions=331.9 if recipe.vocoder_layers else 316.0,
    )


# K-means files that lie outside the Hub: the entry says what to fetch and how to make a tokenizer of it.
_ELSEWHERE = {
    "hubert-25hz-k500": (
        "slprl/mhubert-base-25hz",
        11,
        640,
        500,
        "textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
        "Hassid et al. 2023, Textually Pretrained Speech Language Models, arXiv 2305.13009",
    ),
    **{
        f"hubert-layer6-k{size}": (
            "facebook/hubert-base-ls960",
            6,
            320,
            size,
            f"textless_nlp/gslm/hubert/km{size}/km.bin",
            "Lakhotia et al. 2021, On Generative Spoken Language Modeling from Raw Audio, arXiv 2102.01192",
        )
        for size in (50, 100, 200, 500)
    },
    "hubert-layer9-k500": (
        "facebook/hubert-base-ls960",
        9,
        320,
        500,
        "hubert/hubert_base_ls960_L9_km500.bin",
        "Hsu et al. 2021, HuBERT, arXiv 2106.07447",
    ),
}

#: name -> (encoder repository, layer, file name of the k-means)
LOCAL_FILES = {name: (facts[0], facts[1], facts[4]) for name, facts in _ELSEWHERE.items()}

SSL = [
    *(_entry(name, recipe) for name, recipe in RECIPES.items()),
    *(
        Entry(
            name=name,
            loader=EXPLAIN,
            summary=f"k-means over layer {layer} of {encoder.rpartition('/')[2]}; its k-means file is not on the Hub",
            source=f"{encoder} and a local file, {file}",
            spec=Spec(name, 16000, hop, (size,), decodable=False, batching="mask"),
            taxonomy=_TAXONOMY,
            paper=paper,
            licence_weights="MIT + encoder's",
            parameters_millions=94.7,
            status="local files",
            advice=f"the k-means of {name} is not on the Hub. Fetch {file} from the textless_nlp release and a copy of "
            f"{encoder}, then: audiotok convert ssl-kmeans ENCODER_FOLDER OUT --kmeans {layer}="
            f"{file.rpartition('/')[2]}",
        )
        for name, (encoder, layer, hop, size, file, paper) in _ELSEWHERE.items()
    ),
]
