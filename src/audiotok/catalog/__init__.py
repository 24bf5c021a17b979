"""Every built-in tokenizer as data. Importing this loads no model code."""

from .codecs import CODECS
from .entry import Entry, Published, Status, Taxonomy
from .logmel import LOGMEL
from .ssl import SSL

#: All built-in entries, by name, also those that cannot be loaded (`Entry.status`).
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*LOGMEL, *SSL, *CODECS)}

__all__ = ["ENTRIES", "Entry", "Published", "Status", "Taxonomy"]
