"""Every error audiotok raises on purpose. Each is also the built-in exception a user would catch.

AudiotokError
├── InputError (ValueError)                  audio, tokens or an argument that cannot be used
├── AudioFileError (OSError)                 an audio file that cannot be read or written
├── UnknownTokenizerError (LookupError)      no tokenizer of that name
├── PluginError (ImportError)                an installed plug-in that cannot be imported
├── CheckpointError (ValueError)             a checkpoint that is broken, hostile or of another kind
├── HubError (OSError)                       the Hub, or a file on it, cannot be reached
├── CodesMismatchError (ValueError)          codes given to a tokenizer that did not make them
├── UnsupportedError (NotImplementedError)   this tokenizer cannot do that
├── FitError (ValueError)                    data from which no k-means can be fitted
└── MissingDependencyError (ImportError)     an optional package is not installed
"""


class AudiotokError(Exception):
    """Base of every error that audiotok raises on purpose."""


class InputError(AudiotokError, ValueError):
    """Audio, tokens or an argument that cannot be used: the message says what was wanted."""


class AudioFileError(AudiotokError, OSError):
    """An audio file that cannot be read or written."""


class UnknownTokenizerError(AudiotokError, LookupError):
    """No tokenizer of that name: the message lists the nearest names."""


class PluginError(AudiotokError, ImportError):
    """An installed plug-in that was asked for and cannot be imported."""


class CheckpointError(AudiotokError, ValueError):
    """A checkpoint that is broken, hostile, or not of the kind that was asked for."""


class HubError(AudiotokError, OSError):
    """The Hugging Face Hub, or a file on it, cannot be reached."""


class CodesMismatchError(AudiotokError, ValueError):
    """Codes were given to a tokenizer other than the one that made them."""


class UnsupportedError(AudiotokError, NotImplementedError):
    """This tokenizer cannot do what was asked (for example decode, when it only encodes)."""


class FitError(AudiotokError, ValueError):
    """Data from which the k-means asked for cannot be fitted."""


class MissingDependencyError(AudiotokError, ImportError):
    """An optional package is not installed: the message gives the pip command."""


def hub_client_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when it cannot do its work; a broken connection is no `OSError` there."""
    from huggingface_hub import errors

    return OSError, errors.HTTPError, errors.HFValidationError  # type: ignore[attr-defined]


class FitWarning(UserWarning):
    """The fit went through, but its data looks wrong (constant features, silence, few frames)."""
