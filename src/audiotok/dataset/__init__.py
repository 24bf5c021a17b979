"""Whole datasets: audio of any amount to a folder of tokens, and back into training code."""

from .cache import CachedTokenizer
from .mapping import ExampleEncoder, encode_examples
from .report import TokenizeReport
from .tokenizing import tokenize_dataset

__all__ = ["CachedTokenizer", "ExampleEncoder", "TokenizeReport", "encode_examples", "tokenize_dataset"]
