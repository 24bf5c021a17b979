"""`audiotok list`: the tokenizers that can be loaded by name."""

import argparse

from ..catalog import Entry
from ..errors import PluginError
from ..hub import DEFAULT
from ..registry import describe, list_tokenizers
from .exits import Exit
from .options import Commands, command
from .output import emit, say, table

_DOMAINS = ("speech", "music", "audio")


def add_to(commands: Commands) -> None:
    """Adds the command to the parser."""
    parser = command(
        commands,
        "list",
        run,
        summary="the tokenizers that can be loaded by name",
        text="""
            The tokenizers that can be loaded by name: built in, and of installed plug-ins. Loads none of them.
            kbit/s is that of all codebooks, as fixed-length codes; the default tokenizer has a * after its name.
            A plug-in that cannot be imported is shown as broken, in one line.
        """,
        examples="""
            audiotok list
            audiotok list 'encodec-*'
            audiotok list --domain speech --max-kbps 2 --decodable --commercial
            audiotok list --json | jq -r '.tokenizers[].name'
        """,
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern of names")
    group = parser.add_argument_group("only those")
    group.add_argument("--domain", choices=_DOMAINS, help="made for this kind of audio")
    group.add_argument("--max-kbps", type=float, metavar="X", help="of at most X kbit/s with all codebooks")
    group.add_argument("--decodable", action="store_true", help="that decode back to audio")
    group.add_argument("--streamable", action="store_true", help="that work on a stream")
    group.add_argument("--commercial", action="store_true", help="whose licences allow commercial use")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    entries: list[Entry] = []
    broken: dict[str, str] = {}
    for name in list_tokenizers(args.pattern):
        try:
            entry = describe(name)
        except PluginError as error:
            broken[name] = str(error)
            continue
        if _is_wanted(entry, args):
            entries.append(entry)
    if args.json:
        emit(
            {
                "tokenizers": [{**entry.to_dict(), "default": entry.name == DEFAULT} for entry in entries],
                "broken": [{"name": name, "reason": reason} for name, reason in broken.items()],
            }
        )
        return Exit.OK
    if entries:
        header = ("name", "Hz", "frames/s", "codebooks", "kbit/s", "domains", "decodes", "licence", "extra")
        print(table(header, map(_row, entries)))
    else:
        say("no tokenizer fits: `audiotok list` shows all")
    for name, reason in broken.items():
        print(f"broken: {name}: {' '.join(reason.split())}")
    return Exit.OK


def _is_wanted(entry: Entry, args: argparse.Namespace) -> bool:
    return (
        (args.domain is None or args.domain in entry.taxonomy.domains)
        and (args.max_kbps is None or entry.spec.bitrate_bps <= args.max_kbps * 1000)
        and (entry.spec.decodable or not args.decodable)
        and (entry.spec.streamable or not args.streamable)
        and (entry.commercial is True or not args.commercial)
    )


def _row(entry: Entry) -> tuple[str, ...]:
    spec, sizes = entry.spec, set(entry.spec.codebook_sizes)
    size = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)}..{max(sizes)}"
    return (
        entry.name + " *" * (entry.name == DEFAULT),
        f"{spec.sample_rate}",
        f"{spec.frame_rate:g}",
        f"{spec.num_codebooks} x {size}",
        f"{spec.bitrate_bps / 1000:.4g}",
        ",".join(entry.taxonomy.domains),
        "yes" if spec.decodable else "no",
        entry.licence_weights,
        entry.extra or "-",
    )
