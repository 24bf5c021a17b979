"""Where audio comes from: folders, manifests, tars, tables; every kind gives items that a worker process can read."""

from .base import Item, Source, with_lengths
from .opening import open_source
from .reading import Batch, Failure, read_ahead, read_batch

__all__ = ["Batch", "Failure", "Item", "Source", "open_source", "read_ahead", "read_batch", "with_lengths"]
