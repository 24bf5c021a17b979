"""The command line: `audiotok COMMAND ...`. Each command is a file of this folder."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ..errors import AudiotokError
from . import compress, convert, decode, demo, encode, evaluate, fit, info, listing, parity, tokenize, train
from .exits import HELP, Exit, exit_of
from .output import debugging, say

_DESCRIPTION = """\
Audio to discrete tokens and back, with one interface over many tokenizers.
`audiotok COMMAND --help` has examples for each command."""

_COMMANDS = (listing, info, encode, decode, compress, tokenize, fit, convert, parity, train, evaluate, demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; None means the process's own.

    Returns:
        One of `exits.Exit`. An error that audiotok raises on purpose becomes a line on stderr, without a
        traceback unless AUDIOTOK_DEBUG=1.
    """
    parser = _parser()
    try:
        args = parser.parse_args(argv)
        if args.run is None:
            parser.print_help(sys.stderr)
            return Exit.USAGE
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else Exit.USAGE
    except KeyboardInterrupt:
        say("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Python would try to flush what is left to the closed pipe, and complain: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except (AudiotokError, OSError) as error:
        if debugging():
            raise
        say(f"audiotok: {error}")
        return exit_of(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audiotok",
        description=_DESCRIPTION,
        epilog=HELP + "\n\nAUDIOTOK_DEBUG=1 in the environment shows the traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"audiotok {version('audiotok')}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in _COMMANDS:
        module.add_to(commands)
    return parser
