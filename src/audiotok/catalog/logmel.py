"""Residual k-means over log-mel frames: the tokenizer inside the package."""

from ..spec import Spec
from .entry import Entry, Taxonomy

LOGMEL = [
    Entry(
        name="logmel-16khz",
        loader="audiotok.hub:load_embedded",
        summary="residual k-means over log-mel frames, 8 codebooks; ships in the package, needs no network",
        source="embedded",
        spec=Spec(
            name="logmel-16khz",
            sample_rate=16000,
            hop_length=320,
            codebook_sizes=(1024,) * 8,
            nested=True,
            batching="mask",
        ),
        taxonomy=Taxonomy(
            domains=("speech", "music", "audio"),
            architecture="none",
            representation="T-F",
            quantizer="K-Means",
            objective="none",
            joint=False,
        ),
        commercial=True,
        parameters_millions=0.66,
    )
]
