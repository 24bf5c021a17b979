"""A document of headings, paragraphs, tables and lists, written once and shown as Markdown or HTML."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Rows of text; columns are to the right but for the first."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading and what is below it: paragraphs (texts), tables, and lists (of texts)."""

    title: str
    content: Sequence[str | Table | list[str]] = field(default_factory=list)


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """The document with a title.

    Example:
        >>> print(to_markdown("Two", [Section("Numbers", [Table(["name", "x"], [["a", "1"]])])]), end="")
        # Two
        <BLANKLINE>
        ## Numbers
        <BLANKLINE>
        | name | x |
        | --- | ---: |
        | a | 1 |
    """
    blocks = [f"# {_one_line(title)}"]
    for section in sections:
        if section.title:
            blocks.append(f"## {_one_line(section.title)}")
        for part in section.content:
            if isinstance(part, Table):
                blocks.append(_table_markdown(part))
            elif isinstance(part, str):
                blocks.append(_one_line(part))
            else:
                blocks.append("\n".join(f"- {_one_line(line)}" for line in part))
    return "\n\n".join(blocks) + "\n"


def to_html(sections: Iterable[Section]) -> str:
    """The sections, each a <section> with an <h2>; everything is escaped."""
    return "\n".join(section_html(section) for section in sections)


def section_html(section: Section, more: str = "") -> str:
    """A section, with HTML of one's own at its end."""
    parts = [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
    for part in section.content:
        if isinstance(part, Table):
            parts.append(_table_html(part))
        elif isinstance(part, str):
            parts.append(f"<p>{html.escape(part)}</p>")
        else:
            parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in part) + "</ul>")
    return "<section>\n" + "\n".join([*parts, more]) + "\n</section>"


def _table_markdown(table: Table) -> str:
    lines = [_row(table.head), "| --- |" + " ---: |" * (len(table.head) - 1)]
    return "\n".join(lines + [_row(row) for row in table.rows])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _table_html(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.head)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="table"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _one_line(text: str) -> str:
    return " ".join(text.split())
