"""`convert`: a tokenizer from a checkpoint in its upstream's own on-disk format. Nothing in it is run."""

import difflib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checkpoint import file_sha256, read_centroids
from .errors import InputError
from .registry import resolve
from .spec import Spec
from .ssl.logmel import LogMel
from .ssl.logmel_kmeans import LogMelKMeans
from .tokenizer import Tokenizer

#: Readers by family, as "package.module:function". A reader takes the source, `name`, and those options of `convert`
#: that it needs, and raises `CheckpointError` for a file that is broken or hostile.
READERS: dict[str, str] = {
    "logmel-kmeans": "audiotok.convert:read_logmel_kmeans",
    "ssl-kmeans": "audiotok.ssl.published:read_ssl_kmeans",
    "dac": "audiotok.backends.dac:read_dac",
    "encodec": "audiotok.backends.encodec:read_encodec",
    "esc": "audiotok.backends.esc:read_esc",
    "facodec": "audiotok.backends.facodec:read_facodec",
    "hificodec": "audiotok.backends.hificodec:read_hificodec",
    "llmcodec": "audiotok.backends.llmcodec:read_llmcodec",
    "mimi": "audiotok.backends.mimi:read_mimi",
    "s3tokenizer": "audiotok.backends.s3tokenizer:read_s3tokenizer",
    "snac": "audiotok.backends.snac:read_snac",
    "speechtokenizer": "audiotok.backends.speechtokenizer:read_speechtokenizer",
    "sqcodec": "audiotok.backends.sqcodec:read_sqcodec",
    "ticodec": "audiotok.backends.ticodec:read_ticodec",
    "wavtokenizer": "audiotok.backends.wavtokenizer:read_wavtokenizer",
    "xcodec": "audiotok.backends.transformers_codec:read_xcodec",
    "xcodec2": "audiotok.backends.transformers_codec:read_xcodec2",
    "neucodec": "audiotok.backends.transformers_codec:read_neucodec",
    "higgs-audio-v2": "audiotok.backends.transformers_codec:read_higgs_audio",
}


def convert(family: str, source: str | os.PathLike[str], *, name: str = "", **options: Any) -> Tokenizer:
    """Reads a checkpoint of another project. `tokenizer.save(folder)` then makes it ours.

    Args:
        family: what it is; one of `READERS`.
        source: the file or folder, as published.
        name: of the tokenizer; default from the family and the sizes.
        options: facts that the format does not hold, by family:
            logmel-kmeans: mel, the `LogMel` features that the centres lie in; default 80 bands at 16 kHz, 50 frames/s.
            ssl-kmeans (source: the encoder's folder): kmeans, layer -> file; vocoder, folder of a unit HiFi-GAN, or
                None for a tokenizer that only encodes; normalize, overrides whether the waveform is normalised.
            Other families: see their pages in docs/tokenizers. None means not given.

    Returns:
        A tokenizer; its `provenance` names the file and its SHA-256.

    Raises:
        InputError: no such family, or an option that does not fit it. CheckpointError: a file that is missing,
            broken, hostile or of another kind.

    Example:
        tok = audiotok.convert("ssl-kmeans", "hubert-base-ls960/", kmeans={6: "km100/km.bin"})
        tok.save("./my-tok")
    """
    if family not in READERS:
        near = difflib.get_close_matches(family, READERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no checkpoint family {family!r}{hint}: there are {', '.join(sorted(READERS))}")
    reader: Callable[..., Tokenizer] = resolve(READERS[family])
    given = {option: value for option, value in options.items() if value is not None}
    known = inspect.signature(reader).parameters.keys() - {"source", "name"}
    unused = sorted(given.keys() - known)
    if unused:
        raise InputError(f"{family} takes no {', '.join(unused)}; it takes {', '.join(sorted(known)) or 'no options'}")
    if family == "ssl-kmeans" and "kmeans" not in given:
        raise InputError("ssl-kmeans needs k-means files: kmeans={layer: file, ...}")
    return reader(Path(source), name=name, **given)


def read_logmel_kmeans(source: Path, *, name: str = "", mel: LogMel | None = None) -> LogMelKMeans:
    """One codebook of centres [V, n_mels] over log-mel frames, in any format of `read_centroids`."""
    mel = mel or LogMel()
    centroids = read_centroids(source)
    size, width = centroids.shape
    if width != mel.n_mels:
        raise InputError(
            f"{source} holds centres of {width} values, but the log-mel frames have {mel.n_mels} bands: give the "
            f"features that it was fitted on, mel=LogMel(n_mels={width}, ...)"
        )
    spec = Spec(
        name=name or f"logmel-k{size}",
        sample_rate=mel.sample_rate,
        hop_length=mel.hop_length,
        codebook_sizes=(size,),
        nested=True,
        batching="mask",
    )
    tokenizer = LogMelKMeans(spec, mel, [centroids])
    tokenizer.requires_grad_(False)
    tokenizer.provenance = {
        "license": "unknown",
        "converted_from": {"file": source.name, "sha256": file_sha256(source)},
    }
    return tokenizer
