"""The tokenizers inside the package, the default first."""

from ..spec import Spec
from .entry import Entry, Taxonomy

_LOADER = "audiotok.hub:load_embedded"
_DOMAINS = ("speech", "music", "audio")


def _spec(name: str) -> Spec:
    """Both take and give the same: 50 frames a second of 8 codebooks, of which the first ones decode alone."""
    return Spec(
        name=name,
        sample_rate=16000,
        hop_length=320,
        codebook_sizes=(1024,) * 8,
        nested=True,
        batching="mask",
    )


EMBEDDED = [
    Entry(
        name="audiotok-base-16k",
        loader=_LOADER,
        summary="light codec on spectra, 8 codebooks, 1 to 8 of them decode; ships in the package, needs no network",
        source="embedded",
        spec=_spec("audiotok-base-16k"),
        taxonomy=Taxonomy(
            domains=_DOMAINS,
            architecture="CNN",
            representation="T-F",
            quantizer="RVQ",
            objective="Rec, VQ",
        ),
        commercial=True,
        parameters_millions=5.8,
    ),
    Entry(
        name="logmel-16khz",
        loader=_LOADER,
        summary="residual k-means over log-mel frames, 8 codebooks; ships in the package, needs no network",
        source="embedded",
        spec=_spec("logmel-16khz"),
        taxonomy=Taxonomy(
            domains=_DOMAINS,
            architecture="none",
            representation="T-F",
            quantizer="K-Means",
            objective="none",
            joint=False,
        ),
        commercial=True,
        parameters_millions=0.66,
    ),
]
