"""`Entry`: what the catalog says of one tokenizer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..spec import Spec

#: What `load` does with a name: "loadable" gives the tokenizer, which ships in the package or is downloaded; "local
#: files" says which files must be fetched by hand and how they are converted; "not available" says why there are no
#: weights or no implementation, and what is nearest.
Status = Literal["loadable", "local files", "not available"]

#: Loaders of entries with `published`, and of those with `advice`.
LOAD_PUBLISHED = "audiotok.backends.published:load_published_codec"
EXPLAIN = "audiotok.backends.published:explain"


@dataclass(frozen=True)
class Taxonomy:
    """A tokenizer's place in the survey of Mousavi et al. (2025, arXiv 2506.10274), in its terms."""

    domains: tuple[str, ...]  # of "speech", "music", "audio"
    architecture: str  # of encoder and decoder: "CNN", "Transformer", ...
    representation: str  # of the input: "T" time, "T-F" time-frequency
    quantizer: str  # "RVQ", "SVQ", "GVQ", "FSQ", "MSRVQ", "CSRVQ", "PQ", "K-Means"
    bitrate: str = "fixed"  # or "adaptive"
    objective: str = ""
    auxiliary: str = ""
    joint: bool = True  # quantizer trained together with the network


@dataclass(frozen=True)
class Published:
    """Where on the Hub the files of a tokenizer lie, and how they are read.

    Attributes:
        reader: "package.module:read_FAMILY", as in `convert.READERS`.
        repository: on the Hub.
        files: of it, all that are needed. A single .zip is unpacked.
        source: what the reader gets: a file or folder of the repository (or of the .zip), "" for its root.
        config: given to the reader as `config=`, for weights that do not lie beside their configuration:
            "user/repo:file" on the Hub, or the values themselves where upstream has them only among its source code; ""
            when the reader finds it.
        options: further arguments of the reader, facts that the format does not hold.
    """

    reader: str
    repository: str
    files: tuple[str, ...]
    source: str = ""
    config: str | Mapping[str, Any] = field(default="", hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def family(self) -> str:
        """What `audiotok convert` calls the format."""
        return self.reader.rpartition(":read_")[2].replace("_", "-")


@dataclass(frozen=True)
class Entry:
    """One name that `load` knows.

    Attributes:
        name: what `load` is called with.
        loader: "package.module:function"; called as `function(entry, revision, cache_dir)`, gives a Tokenizer.
        summary: one line.
        source: where its weights are: "embedded", or a Hub repository.
        spec: what it takes and gives.
        taxonomy: its place in the field.
        paper: title and identifier.
        licence_code, licence_weights: SPDX identifiers or the words of the source.
        commercial: whether the licences allow commercial use; None when they do not say.
        extra: of audiotok, that must be installed ("" when none).
        parameters_millions: size; 0 when not known.
        size_mb: of the files that are downloaded, in 10^6 bytes; 0 when not known.
        status: whether `load` gives it. `list_tokenizers` and `audiotok list` leave out what is not "loadable" unless
            they are asked for everything.
        advice: when it is not "loadable": why, and what to do instead. `load` raises it.
        published: its files on the Hub, where it is a codec read from them.
    """

    name: str
    loader: str
    summary: str
    source: str
    spec: Spec
    taxonomy: Taxonomy
    paper: str = ""
    licence_code: str = "Apache-2.0"
    licence_weights: str = "Apache-2.0"
    commercial: bool | None = None
    extra: str = ""
    parameters_millions: float = 0.0
    size_mb: float = 0.0
    status: Status = "loadable"
    advice: str = ""
    published: Published | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with the rates that follow from the spec."""
        spec = self.spec
        rates = {
            "frame_rate": spec.frame_rate,
            "bitrate_bps": spec.bitrate_bps,
            "vocab_size": spec.vocab_size,
        }
        published = None if self.published is None else {"family": self.published.family, **asdict(self.published)}
        return {**asdict(self), "spec": {**spec.to_dict(), **rates}, "published": published}
