"""SSL k-means tokenizers from published files: an encoder's folder, k-means files, and perhaps a vocoder's folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint import file_sha256, read_centroids
from ..errors import CheckpointError, InputError
from ..spec import Spec
from .encoder_weights import load_encoder
from .tokenizer import SSLKMeans
from .vocoder_files import check_vocoder, load_vocoder

PathLike = str | os.PathLike[str]


def read_ssl_kmeans(
    source: PathLike,
    *,
    kmeans: Mapping[int, PathLike],
    vocoder: PathLike | None = None,
    vocoder_layers: Sequence[int] | None = None,
    normalize: bool | None = None,
    name: str = "",
    origin: str = "",
) -> SSLKMeans:
    """A tokenizer from published files. Nothing in them is run.

    Args:
        source: folder of the encoder: config.json, preprocessor_config.json, model.safetensors or pytorch_model.bin.
        kmeans: layer -> file of its centres [V, D]: scikit-learn saved by joblib or pickle (SpeechBrain, fairseq,
            textlesslib), .npy, .npz, .safetensors, torch.
        vocoder: folder of a unit HiFi-GAN that knows these layers, or None for a tokenizer that only encodes.
        vocoder_layers: of the vocoder, in the order of its embedding; None reads them off the k-means beside it.
        normalize: overrides the encoder's `do_normalize`.
        name: of the tokenizer; default from the encoder and the layers.
        origin: where the encoder's weights come from, for the card; default the folder's name.

    Raises:
        InputError: no k-means, or layers that the vocoder does not know.
        CheckpointError: a file is missing, broken, hostile, or of another kind; centres of another width.
    """
    if not kmeans:
        raise InputError("an SSL tokenizer needs k-means files: kmeans={layer: file, ...}")
    layers = sorted(kmeans)
    encoder = load_encoder(source, layers, normalize=normalize)
    centroids = [read_centroids(kmeans[layer]) for layer in layers]
    for layer, table in zip(layers, centroids, strict=True):
        if table.shape[1] != encoder.config.hidden_size:
            raise CheckpointError(
                f"{kmeans[layer]} holds centres of {table.shape[1]} values, but the hidden states of {source} have "
                f"{encoder.config.hidden_size}: it was fitted on another encoder"
            )
    back = None if vocoder is None else load_vocoder(vocoder, layers=vocoder_layers)
    spec = Spec(
        name=name or f"{encoder.config.model_type}-l{'-'.join(map(str, layers))}-k{len(centroids[0])}",
        sample_rate=encoder.config.sample_rate,
        hop_length=encoder.hop_length,
        codebook_sizes=tuple(map(len, centroids)),
        decodable=back is not None,
        batching="mask",
    )
    if back is not None:
        check_vocoder(back, dict(zip(layers, spec.codebook_sizes, strict=True)))
    tokenizer = SSLKMeans.of(spec, encoder, centroids, back, origin or Path(source).name)
    tokenizer.provenance = {
        "license": "unknown",
        "encoder": tokenizer.source,
        "kmeans": {f"layer {layer}": f"{Path(kmeans[layer]).name} {file_sha256(kmeans[layer])}" for layer in layers},
        "vocoder": "none" if vocoder is None else Path(vocoder).name,
    }
    return tokenizer
