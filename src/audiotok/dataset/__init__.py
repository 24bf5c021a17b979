"""Whole datasets: audio of any amount to a folder of tokens, and back into training code."""

from .report import TokenizeReport
from .tokenizing import tokenize_dataset

__all__ = ["TokenizeReport", "tokenize_dataset"]
