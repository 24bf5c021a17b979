"""Every built-in tokenizer as data. Importing this loads no model code."""

from .codecs import CODECS
from .embedded import EMBEDDED
from .entry import Entry, Published, Status, Taxonomy
from .ssl import SSL

#: All built-in entries, by name, also those that cannot be loaded (`Entry.status`).
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*EMBEDDED, *SSL, *CODECS)}

__all__ = ["ENTRIES", "Entry", "Published", "Status", "Taxonomy"]
