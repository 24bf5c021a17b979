"""`audiotok list`: the tokenizers that can be loaded by name, and on request those that cannot."""

import argparse

from ..catalog import Entry
from ..errors import PluginError
from ..hub import DEFAULT
from ..registry import describe, list_tokenizers
from ..spec import Spec
from .exits import Exit
from .options import Commands, codebooks, command
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
            kbit/s is that of all codebooks, as fixed-length codes; the default tokenizer has a * after its name. The
            licence is that of the weights; --commercial leaves out those whose licence does not say.
            A plug-in that cannot be imported is shown as broken, in one line.

            --all adds the names that load cannot give: "local files" are published outside the Hub and must be fetched
            by hand, "not available" have no published weights or no implementation here. `audiotok info NAME` says
            what to do.
        """,
        examples="""
            audiotok list
            audiotok list 'encodec-*'
            audiotok list --domain speech --max-kbps 2 --decodable --commercial
            audiotok list --all 'esc-*'
            audiotok list --json | jq -r '.tokenizers[].name'
        """,
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern of names")
    parser.add_argument("--all", action="store_true", help="also those that load cannot give")
    group = parser.add_argument_group("only those")
    group.add_argument("--domain", choices=_DOMAINS, help="made for this kind of audio")
    group.add_argument("--min-kbps", type=float, metavar="X", help="of at least X kbit/s with all codebooks")
    group.add_argument(
        "--max-kbps",
        type=float,
        metavar="X",
        help="to be had at X kbit/s, with fewer codebooks",
    )
    group.add_argument("--decodable", action="store_true", help="that decode back to audio")
    group.add_argument("--streamable", action="store_true", help="that work on a stream")
    group.add_argument("--commercial", action="store_true", help="whose licences allow commercial use")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    entries: list[Entry] = []
    broken: dict[str, str] = {}
    for name in list_tokenizers(args.pattern, everything=True) if args.all else list_tokenizers(args.pattern):
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
        columns = [_columns(entry) for entry in entries]
        if not args.all:
            columns = [{name: cell for name, cell in row.items() if name != "loads"} for row in columns]
        print(table(list(columns[0]), [list(row.values()) for row in columns]))
    else:
        say("no tokenizer fits: `audiotok list --all` shows every name")
    for name, reason in broken.items():
        print(f"broken: {name}: {' '.join(reason.split())}")
    return Exit.OK


def _is_wanted(entry: Entry, args: argparse.Namespace) -> bool:
    return (
        (args.all or entry.status == "loadable")
        and (args.domain is None or args.domain in entry.taxonomy.domains)
        and (args.min_kbps is None or entry.spec.bitrate_bps >= args.min_kbps * 1000)
        and (args.max_kbps is None or _lowest_bps(entry.spec) <= args.max_kbps * 1000)
        and (entry.spec.decodable or not args.decodable)
        and (entry.spec.streamable or not args.streamable)
        and (entry.commercial is True or not args.commercial)
    )


def _columns(entry: Entry) -> dict[str, str]:
    """One line of the table, by column."""
    spec = entry.spec
    return {
        "name": entry.name + " *" * (entry.name == DEFAULT),
        "loads": "yes" if entry.status == "loadable" else entry.status,
        "Hz": f"{spec.sample_rate}",
        "frames/s": f"{spec.frame_rate:g}",
        "codebooks": codebooks(spec),
        "kbit/s": f"{spec.bitrate_bps / 1000:.4g}",
        "domains": ",".join(entry.taxonomy.domains),
        "quantizer": entry.taxonomy.quantizer,
        "decodes": "yes" if spec.decodable else "no",
        "streams": "yes" if spec.streamable else "no",
        "licence": entry.licence_weights,
        "extra": entry.extra or "-",
    }


def _lowest_bps(spec: Spec) -> float:
    """Bits per second with as few codebooks as decode alone."""
    return (spec.truncate(spec.codebooks_for(1e-9)) if spec.nested else spec).bitrate_bps
