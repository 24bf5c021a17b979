"""What the exit codes of `audiotok` mean: the one place."""

from enum import IntEnum

from ..checkpoint import CheckpointWriteError
from ..errors import (
    AudiotokError,
    CheckpointError,
    HubError,
    MissingDependencyError,
    PluginError,
    UnknownTokenizerError,
)


class Exit(IntEnum):
    """What a command ends with. A traceback, which is a bug of ours, is Python's own 1."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NOT_LOADED = 3
    MISSING_DEPENDENCY = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: dict[Exit, str] = {
    Exit.OK: "all good",
    Exit.SOME_FAILED: "some items failed, each reported with its reason; the rest is done",
    Exit.USAGE: "wrong usage or input, or an output that cannot be written",
    Exit.NOT_LOADED: "a tokenizer, checkpoint, plug-in or Hub repository cannot be loaded",
    Exit.MISSING_DEPENDENCY: "an optional package is not installed; the message gives the pip command",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of our output went away",
}

HELP = "exit codes:\n" + "\n".join(f"  {code:<4d}{meaning}" for code, meaning in MEANINGS.items())

_NOT_LOADED = (UnknownTokenizerError, PluginError, CheckpointError, HubError)


def exit_of(error: AudiotokError | OSError) -> Exit:
    """The code for an error that ended a command.

    Example:
        >>> exit_of(HubError("no network"))
        <Exit.NOT_LOADED: 3>
    """
    if isinstance(error, MissingDependencyError):
        return Exit.MISSING_DEPENDENCY
    if isinstance(error, _NOT_LOADED) and not isinstance(error, CheckpointWriteError):
        return Exit.NOT_LOADED
    return Exit.USAGE
