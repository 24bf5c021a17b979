"""Names such as "dwavlm-l5-k1000": SpeechBrain's published k-means and vocoders over published encoders."""

import os
from pathlib import Path

from ..catalog import Entry
from ..catalog.ssl import RECIPES
from ..hub import download, download_encoder
from ..ssl.published import read_ssl_kmeans
from ..ssl.tokenizer import SSLKMeans


def load_published(entry: Entry, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> SSLKMeans:
    """Downloads (once) and reads the parts of a name. `revision` is of the repository of the k-means files."""
    recipe = RECIPES[entry.name]
    encoder = download_encoder(recipe.encoder, cache_dir=cache_dir)
    kmeans = {layer: download(recipe.repository, file, revision, cache_dir) for layer, file in recipe.kmeans.items()}
    vocoder: Path | None = None
    if recipe.vocoder_layers:
        vocoder = download(recipe.repository, "generator.ckpt", revision, cache_dir).parent
        download(recipe.repository, "hyperparams.yaml", revision, cache_dir)
    tokenizer = read_ssl_kmeans(
        encoder,
        kmeans=kmeans,
        vocoder=vocoder,
        vocoder_layers=recipe.vocoder_layers or None,
        name=entry.name,
        origin=f"{recipe.encoder}@{encoder.name}",
    )
    tokenizer.provenance |= {"license": "apache-2.0", "paper": entry.paper, "repository": recipe.repository}
    return tokenizer
