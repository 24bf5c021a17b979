"""Whole datasets: audio of any amount to a folder of tokens, and back into training code."""

from .cache import CachedTokenizer
from .codes_dataset import CodesDataset, CodesRow
from .collate import CodesBatch, Collate
from .length_batches import LengthBatchSampler
from .mapping import ExampleEncoder, encode_examples
from .opened import open_codes
from .report import TokenizeReport
from .tokenizing import tokenize_dataset

__all__ = [
    "CachedTokenizer",
    "CodesBatch",
    "CodesDataset",
    "CodesRow",
    "Collate",
    "ExampleEncoder",
    "LengthBatchSampler",
    "TokenizeReport",
    "encode_examples",
    "open_codes",
    "tokenize_dataset",
]
