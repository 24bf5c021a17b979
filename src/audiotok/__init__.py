"""audiotok: audio to discrete tokens and back, with one interface over many tokenizers.

import audiotok
tok = audiotok.load()                      # the offline default; or load("a-name"), load("user/repo"), ...
codes = tok.encode_file("speech.flac")     # Codes: tokens [B, K, F], lengths, num_samples
wav = tok.decode(codes)                    # [B, C, T], exactly as long as what went in
"""

from importlib.metadata import version

from . import audio, errors, lm
from .catalog import Entry
from .codes import Codes
from .convert import convert
from .dataset import CodesDataset, TokenizeReport, open_codes, tokenize_dataset
from .fit import FitReport, fit_kmeans, fit_several
from .hub import DEFAULT, load
from .registry import describe, list_tokenizers, register, register_family
from .spec import Spec
from .tokenizer import Tokenizer

__version__ = version("audiotok")

__all__ = [
    "DEFAULT",
    "Codes",
    "CodesDataset",
    "Entry",
    "FitReport",
    "Spec",
    "TokenizeReport",
    "Tokenizer",
    "audio",
    "convert",
    "describe",
    "errors",
    "fit_kmeans",
    "fit_several",
    "list_tokenizers",
    "lm",
    "load",
    "open_codes",
    "register",
    "register_family",
    "tokenize_dataset",
]
