#!/usr/bin/env python3
"""Print docs/tokenizers/README.md: every name of the catalog, in tables made from the catalog itself.

    python scripts/make_catalog_page.py > docs/tokenizers/README.md

`tests/test_catalog.py` fails when the page is not what this prints.
"""

import re

from audiotok.catalog import ENTRIES, Entry

_HEAD = """\
# All tokenizers by name

Printed by `scripts/make_catalog_page.py` from the catalog (`src/audiotok/catalog`); do not edit. The other pages of
this folder say more on each family.

`audiotok list` shows the names of the first table and filters them (`--domain`, `--min-kbps`, `--max-kbps`,
`--decodable`, `--streamable`, `--commercial`); `audiotok list --all` shows those of the other two tables as well, and
`audiotok info NAME` every fact of one.

- **kbit/s** is that of all codebooks, as fixed-length codes. `load(NAME, bandwidth=...)` or `num_codebooks=...` takes
  fewer where the first ones decode alone (**nested**).
- **codebooks** of a multi-scale codec are the rows of a coarse frame: 7 are 1 + 2 + 4.
- **quantizer** is the word of the survey (arXiv 2506.10274): RVQ residual, SVQ single, GVQ grouped, FSQ scalar, MSRVQ
  multi-scale, CSRVQ cross-scale, PQ product. Names that the survey does not have are put where it would put them.
- **streams** is yes for causal networks: they can work on audio as it arrives.
- **licence** is that of the weights, in the words of their page; "not said" is no permission. **commercial** is a
  reading of it, not legal advice.
- **MB** are those of the download, **M** millions of parameters; empty where they are not known.
"""
_LOADABLE = """
## Loaded by name

`audiotok.load(NAME)` downloads them once, or they ship in the package.
"""
_LOCAL = """
## From files to be fetched by hand

Their weights are published, but not on the Hub. `load` raises `UnsupportedError` with the advice of the last column;
the folder that `audiotok convert` writes is then loaded by its path.
"""
_UNAVAILABLE = """
## Known, but not available

Without published weights, or without an implementation here. `load` raises `UnsupportedError` with the reason and the
nearest name; sizes are those of the paper or of the published model.
"""
_COLUMNS = (
    "name",
    "Hz",
    "frames/s",
    "codebooks",
    "kbit/s",
    "nested",
    "domains",
    "quantizer",
    "decodes",
    "streams",
    "licence",
)


def page() -> str:
    """The page's text."""
    text = [_HEAD.strip()]
    for status, head, more in (
        ("loadable", _LOADABLE, {"commercial": _commercial, "M": _millions, "MB": _size, "paper": _paper}),
        ("local files", _LOCAL, {"commercial": _commercial, "paper": _paper, "what to do": _advice}),
        ("not available", _UNAVAILABLE, {"paper": _paper, "why, and what instead": _advice}),
    ):
        entries = [ENTRIES[name] for name in sorted(ENTRIES) if ENTRIES[name].status == status]
        rows = [[*_cells(entry), *(cell(entry) for cell in more.values())] for entry in entries]
        names = [*_COLUMNS, *more]
        text += [head, _row(names), _row(["---"] * len(names)), *map(_row, rows)]
    return "\n".join(text) + "\n"


def _cells(entry: Entry) -> list[str]:
    spec = entry.spec
    low, high = min(spec.codebook_sizes), max(spec.codebook_sizes)
    rate = f"{spec.sample_rate}" + f" → {spec.output_sample_rate}" * (spec.output_sample_rate != spec.sample_rate)
    return [
        f"`{entry.name}`",
        rate + ", stereo" * (spec.channels == 2),
        f"{spec.frame_rate:g}",
        f"{spec.num_codebooks} x {low if low == high else f'{low}..{high}'}",
        f"{spec.bitrate_bps / 1000:.4g}",
        _yes(spec.nested),
        ", ".join(entry.taxonomy.domains),
        entry.taxonomy.quantizer,
        _yes(spec.decodable),
        _yes(spec.streamable),
        entry.licence_weights,
    ]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _commercial(entry: Entry) -> str:
    return "not said" if entry.commercial is None else _yes(entry.commercial)


def _millions(entry: Entry) -> str:
    return f"{entry.parameters_millions:g}" if entry.parameters_millions else ""


def _size(entry: Entry) -> str:
    return f"{entry.size_mb:g}" if entry.size_mb else ""


def _paper(entry: Entry) -> str:
    found = re.search(r"arXiv (\d+\.\d+)", entry.paper)
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def _advice(entry: Entry) -> str:
    return entry.advice


if __name__ == "__main__":
    print(page(), end="")
