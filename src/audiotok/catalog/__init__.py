"""Every built-in tokenizer as data. Importing this loads no model code."""

from .entry import Entry, Taxonomy
from .logmel import LOGMEL
from .ssl import SSL

#: All built-in entries, by name.
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*LOGMEL, *SSL)}

__all__ = ["ENTRIES", "Entry", "Taxonomy"]
