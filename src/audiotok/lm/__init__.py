"""Tokens as the ids of a language model, and back.

Layout, LAYOUTS, PaddedIds, pad_ids    codes [K, F] as a sequence or grid of ids     layouts.py, padding.py
Vocabulary, SPECIAL                    which id is which token                       vocabulary.py
depth_first                            the order of a multi-rate codec's codes       arrangements.py
deduplicate, expand                    runs of equal frames and their durations      dedup.py
AcousticBPE, train_bpe                 common runs of tokens as tokens               bpe.py
to_text, from_text                     <a12><b7>                                     text.py
extend_tokenizer                       audio tokens in a text model's tokenizer      extend.py
"""

from .arrangements import depth_first
from .bpe import AcousticBPE, train_bpe
from .dedup import deduplicate, expand
from .extend import extend_tokenizer
from .layouts import LAYOUTS, Layout
from .padding import PaddedIds, pad_ids
from .text import from_text, to_text
from .vocabulary import SPECIAL, Vocabulary

__all__ = [
    "LAYOUTS",
    "SPECIAL",
    "AcousticBPE",
    "Layout",
    "PaddedIds",
    "Vocabulary",
    "deduplicate",
    "depth_first",
    "expand",
    "extend_tokenizer",
    "from_text",
    "pad_ids",
    "to_text",
    "train_bpe",
]
