"""Names to tokenizers: the built-in catalog, what the session registered, and installed plug-ins.

A plug-in is a package with entry points in two groups:
    audiotok.tokenizers   NAME = "package.module:ENTRY"     an `Entry`, or a function that gives one
    audiotok.families     FAMILY = "package.module:Class"   the `Tokenizer` class of saved folders
Plug-ins are imported only when one of their names is asked for, so a broken one breaks nothing else.
"""

import difflib
import fnmatch
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .catalog import ENTRIES, Entry
from .errors import PluginError, UnknownTokenizerError

#: Classes that read the folders written by `Tokenizer.save`, by the family named there.
FAMILIES: dict[str, str] = {
    "logmel-kmeans": "audiotok.ssl.logmel_kmeans:LogMelKMeans",
    "ssl-kmeans": "audiotok.ssl.tokenizer:SSLKMeans",
    "codec": "audiotok.codec.codec:Codec",
    "dac": "audiotok.backends.dac:DAC",
    "encodec": "audiotok.backends.encodec:EnCodec",
    "esc": "audiotok.backends.esc:ESC",
    "facodec": "audiotok.backends.facodec:FACodec",
    "hificodec": "audiotok.backends.hificodec:HiFiCodec",
    "latent-kmeans": "audiotok.backends.latent_kmeans:LatentKMeans",
    "llmcodec": "audiotok.backends.llmcodec:LLMCodec",
    "mimi": "audiotok.backends.mimi:Mimi",
    "s3tokenizer": "audiotok.backends.s3tokenizer:S3Tokenizer",
    "snac": "audiotok.backends.snac:SNAC",
    "speechtokenizer": "audiotok.backends.speechtokenizer:SpeechTokenizer",
    "sqcodec": "audiotok.backends.sqcodec:SQCodec",
    "ticodec": "audiotok.backends.ticodec:TiCodec",
    "transformers-codec": "audiotok.backends.transformers_codec:TransformersCodec",
    "wavtokenizer": "audiotok.backends.wavtokenizer:WavTokenizer",
}

_registered: dict[str, Entry] = {}
_registered_families: dict[str, type] = {}


def register(entry: Entry) -> Entry:
    """Adds an entry for this session, replacing one of the same name. Returns it."""
    _registered[entry.name] = entry
    return entry


def register_family(tokenizer_class: type) -> type:
    """Lets `load` read folders saved by a Tokenizer class of this session. Usable as a decorator."""
    _registered_families[tokenizer_class.family] = tokenizer_class  # type: ignore[attr-defined]
    return tokenizer_class


def list_tokenizers(pattern: str = "*", *, everything: bool = False) -> list[str]:
    """Sorted names that match a shell pattern: built in, registered, and of installed plug-ins.

    Args:
        pattern: as in a shell, "encodec-*".
        everything: also the names that `load` cannot give but `describe` knows (`Entry.status`): published outside
            the Hub, without published weights, or not implemented here.

    Example:
        >>> list_tokenizers("logmel*")
        ['logmel-16khz']
    """
    known = {**ENTRIES, **_registered}
    names = {name for name, entry in known.items() if everything or entry.status == "loadable"}
    names |= _plugins("audiotok.tokenizers").keys()
    return sorted(fnmatch.filter(names, pattern))


def describe(name: str) -> Entry:
    """The catalog entry of a name.

    Raises:
        UnknownTokenizerError: no such name. PluginError: its plug-in cannot be imported.
    """
    if name in _registered:
        return _registered[name]
    if name in ENTRIES:
        return ENTRIES[name]
    plugins = _plugins("audiotok.tokenizers")
    if name not in plugins:
        near = difflib.get_close_matches(name, list_tokenizers(), n=3, cutoff=0.4) or list_tokenizers()[:5]
        raise UnknownTokenizerError(
            f"no tokenizer named {name!r}; the nearest are {', '.join(near)}. `audiotok list` shows all; "
            f"a folder is written ./{name}, a Hub repository user/{name}"
        )
    entry = _import_plugin(plugins[name])
    try:
        entry = entry() if callable(entry) else entry
    except Exception as error:  # whatever a stranger's function raises
        raise PluginError(
            f"plug-in {name!r} ({plugins[name].value}) failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(entry, Entry):
        raise PluginError(f"plug-in {name!r} ({plugins[name].value}) gave a {type(entry).__name__}, not an Entry")
    return entry


def entry_loader(entry: Entry) -> Any:
    """The function that loads an entry's tokenizer. Raises `PluginError` if it cannot be imported."""
    try:
        return resolve(entry.loader)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"the loader of {entry.name!r} ({entry.loader}) cannot be imported: {error}") from error


def family_class(family: str) -> Any:
    """The Tokenizer class of a family named in a saved folder.

    Raises:
        UnknownTokenizerError: no such family. PluginError: its plug-in cannot be imported.
    """
    if family in _registered_families:
        return _registered_families[family]
    if family in FAMILIES:
        return resolve(FAMILIES[family])
    plugins = _plugins("audiotok.families")
    if family not in plugins:
        raise UnknownTokenizerError(
            f"no tokenizer family named {family!r}: it was written by a newer audiotok, or by a plug-in that is "
            f"not installed here. Known: {', '.join(sorted(FAMILIES | _registered_families | plugins))}"
        )
    return _import_plugin(plugins[family])


def resolve(reference: str) -> Any:
    """The object that "package.module:name" names. Only for references written in code, never from a file."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _plugins(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _import_plugin(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise PluginError(
            f"plug-in {point.name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
