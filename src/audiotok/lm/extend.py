"""Audio tokens in the tokenizer of a text language model."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, MissingDependencyError, UnsupportedError
from .text import token_texts
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


def extend_tokenizer(
    tokenizer: "Tokenizer | PreTrainedTokenizerFast",
    codebook_sizes: Sequence[int],
    *,
    special: Sequence[str] = ("audio_start", "audio_end"),
    existing: Mapping[str, str] | None = None,
) -> Vocabulary:
    """Adds the tokens <a0>, <a1> ... of each codebook, and special ones, to a tokenizer in place.

    Afterwards it reads `to_text(ids, vocabulary)` as exactly these ids and writes them as exactly this text, nothing
    between the tokens; that is checked before the tokenizer is touched. A tokenizer that has the tokens already keeps
    its ids. Save it with its own `save` or `save_pretrained`, and give the model an embedding for each id:
    `model.resize_token_embeddings(max(rows it has, vocabulary.size))`.

    New ids follow the largest one. Where ids below it are unused, `tokenizers` would hand out ids that are taken; such
    holes in the vocabulary of the model are filled with tokens <unused_7> first, which no id in use changes.

    Args:
        tokenizer: of the library `tokenizers`, or a fast one of transformers.
        codebook_sizes: V of each codebook; (bpe.vocab_size,) for merged ids.
        special: names of special tokens to add, written <name>.
        existing: name -> text of special tokens that the tokenizer has, {"pad": "<|endoftext|>"}.

    Returns:
        The ids of codes and special tokens, for `Layout`.

    Raises:
        InputError: not such a tokenizer, tokens that it has only in part, or a special token that it lacks.
        UnsupportedError: a tokenizer that gives one id to several tokens, or puts spaces between tokens.

    Example:
        >>> import tokenizers
        >>> text = tokenizers.Tokenizer(tokenizers.models.BPE({"h": 0, "i": 1, "hi": 2}, [("h", "i")]))
        >>> text.decoder = tokenizers.decoders.Fuse()
        >>> vocabulary = extend_tokenizer(text, (1024, 1024))
        >>> vocabulary.starts, vocabulary.special
        ((3, 1027), {'audio_start': 2051, 'audio_end': 2052})
        >>> text.encode("hi<a5><b0><audio_end>").ids
        [2, 8, 1027, 2052]
    """
    library = _import_tokenizers()
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, library.Tokenizer):
        raise InputError(
            f"wanted a tokenizers.Tokenizer or a fast tokenizer of transformers, not {type(tokenizer).__name__}"
        )
    existing = dict(existing or {})
    twice = sorted({name for name in special if list(special).count(name) > 1 or name in existing})
    if twice:
        raise InputError(f"each special token is named once, in special or in existing: {', '.join(twice)}")
    # Checks names and sizes before anything is done.
    Vocabulary.build(codebook_sizes, special=[*special, *existing])
    trial = library.Tokenizer.from_str(backend.to_str())
    trial.no_truncation()
    trial.no_padding()
    vocabulary = _extended(library, trial, codebook_sizes, special, existing)
    _check_round_trip(trial, vocabulary, special)
    return _extended(library, backend, codebook_sizes, special, existing)


def _extended(
    library: Any, tokenizer: Any, codebook_sizes: Sequence[int], special: Sequence[str], existing: Mapping[str, str]
) -> Vocabulary:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    if len(set(ids.values())) < len(ids):
        raise UnsupportedError("this tokenizer gives one id to several tokens: it cannot be extended safely")
    missing = [text for text in existing.values() if text not in ids]
    if missing:
        raise InputError(f"the tokenizer has no token {', '.join(missing)}: name it in special to add it")
    _fill_holes(library, tokenizer)
    codebooks = [token_texts(codebook, size) for codebook, size in enumerate(codebook_sizes)]
    # normalized=False: found in the text before anything else looks at it.
    plain = [library.AddedToken(text, normalized=False) for texts in codebooks for text in texts]
    tokenizer.add_tokens(plain)
    tokenizer.add_special_tokens([library.AddedToken(f"<{name}>", normalized=False, special=True) for name in special])
    starts = []
    for texts in codebooks:
        found = [tokenizer.token_to_id(text) for text in texts]
        if found != list(range(found[0], found[0] + len(found))):
            raise InputError(
                f"the tokenizer already has some of {texts[0]} to {texts[-1]}, for other codebooks: extend one that "
                "has none or all of them"
            )
        starts.append(found[0])
    written = {name: text for name, text in existing.items() if text != f"<{name}>"}
    names = {name: f"<{name}>" for name in special} | dict(existing)
    numbers = {name: tokenizer.token_to_id(text) for name, text in names.items()}
    return Vocabulary(tuple(codebook_sizes), tuple(starts), numbers, written)


def _fill_holes(library: Any, tokenizer: Any) -> None:
    """Gives every id below the largest a token, so that new ids begin behind it.

    The library takes the *number* of tokens of the model for the first free id.
    """
    model = tokenizer.get_vocab(with_added_tokens=False)
    if len(model) == max(model.values(), default=-1) + 1:
        return
    state = json.loads(tokenizer.to_str())
    # Added tokens that lie in holes become tokens of the model too, with the ids they have.
    texts = {number: text for text, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    vocabulary = {texts.get(number, f"<unused_{number}>"): number for number in range(max(texts) + 1)}
    state["model"]["vocab"] = vocabulary
    tokenizer.model = library.Tokenizer.from_str(json.dumps(state)).model


def _check_round_trip(tokenizer: Any, vocabulary: Vocabulary, special: Sequence[str]) -> None:
    """Every new token once, as text and back."""
    codes = [
        torch.arange(start, start + size)
        for start, size in zip(vocabulary.starts, vocabulary.codebook_sizes, strict=True)
    ]
    ids = torch.cat([*codes, torch.tensor([vocabulary.special[name] for name in special], dtype=torch.int64)]).tolist()
    text = "".join(tokenizer.id_to_token(number) for number in ids)
    if tokenizer.encode(text, add_special_tokens=False).ids != ids:
        raise UnsupportedError("this tokenizer does not read the audio tokens as they were added")
    written = tokenizer.decode(ids, skip_special_tokens=False)
    if written != text:
        kind = type(tokenizer.decoder).__name__ if tokenizer.decoder else "no decoder"
        raise UnsupportedError(
            f"this tokenizer ({kind}) puts something between tokens, {written[:24]!r} instead of {text[:24]!r}: choose "
            "one whose decoder joins them, or set tokenizer.decoder = tokenizers.decoders.Fuse()"
        )


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except Exception as error:  # a broken installation raises whatever it likes
        raise MissingDependencyError("extending a tokenizer needs tokenizers: pip install 'audiotok[lm]'") from error
    return tokenizers
