"""Tokens as the ids of a language model, and back.

Layout, LAYOUTS, PaddedIds, pad_ids    codes [K, F] as a sequence or grid of ids     layouts.py, padding.py
Vocabulary, SPECIAL                    which id is which token                       vocabulary.py
depth_first                            the order of a multi-rate codec's codes       arrangements.py
deduplicate, expand                    runs of equal frames and their durations      dedup.py
AcousticBPE, train_bpe                 common runs of tokens as tokens               bpe.py
to_text, from_text                     <a12><b7>                                     text.py
extend_tokenizer                       audio tokens in a text model's tokenizer      extend.py
write_megatron, read_megatron          sequences as .bin and .idx                    megatron.py
write_jsonl, write_numpy, read_...     sequences as JSON lines, as flat arrays       export.py, sequences.py
compress, decompress                   codes in as few bits as possible, and back    container.py, coding.py
EntropyModel, fit_entropy_model        what compressing may begin with               entropy.py
"""

from .arrangements import depth_first
from .bpe import AcousticBPE, train_bpe
from .container import Compressed, compress, compress_bytes, decompress, decompress_bytes
from .dedup import deduplicate, expand
from .entropy import EntropyModel, fit_entropy_model
from .export import read_jsonl, read_numpy, write_jsonl, write_numpy
from .extend import extend_tokenizer
from .layouts import LAYOUTS, Layout
from .megatron import read_megatron, write_megatron
from .padding import PaddedIds, pad_ids
from .sequences import ExportReport, TokenFile, TokenSequence
from .text import from_text, to_text
from .vocabulary import SPECIAL, Vocabulary

__all__ = [
    "LAYOUTS",
    "SPECIAL",
    "AcousticBPE",
    "Compressed",
    "EntropyModel",
    "ExportReport",
    "Layout",
    "PaddedIds",
    "TokenFile",
    "TokenSequence",
    "Vocabulary",
    "compress",
    "compress_bytes",
    "decompress",
    "decompress_bytes",
    "deduplicate",
    "depth_first",
    "expand",
    "extend_tokenizer",
    "fit_entropy_model",
    "from_text",
    "pad_ids",
    "read_jsonl",
    "read_megatron",
    "read_numpy",
    "to_text",
    "train_bpe",
    "write_jsonl",
    "write_megatron",
    "write_numpy",
]
