import functools
import json
import subprocess
import sys

import hypothesis
import pytest
import tokenizers
import torch
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import audiotok
from audiotok import lm
from audiotok.errors import InputError, UnsupportedError

SETTINGS = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
TEXT = ["Tokens of speech, and of music: as many as you like.", "He said <a>, <b> and 12 < 13 > 5. naïve façade, 日本"]
SIZES = (100, 7)


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: any text comes back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """As SentencePiece models, with a normaliser that would change anything it saw."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("a", "e"), normalizers.Replace("<", "(")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    )
    return tokenizer


def with_holes() -> Tokenizer:
    """Ids 3 and 300 of the model are unused: fewer tokens than the largest id, which `tokenizers` hands out again."""
    state = json.loads(byte_level().to_str())
    vocabulary = state["model"]["vocab"]
    moved = {text: number for text, number in vocabulary.items() if number not in (3, 300)}
    state["model"]["vocab"] = moved
    gone = {text for text in vocabulary if text not in moved}
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if not gone & {*pair, "".join(pair)}]
    return Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("make", [byte_level, metaspace, with_holes])
def test_new_ids_follow_the_largest_and_read_as_written(make):
    tokenizer = make()
    before = tokenizer.get_vocab()
    vocabulary = lm.extend_tokenizer(tokenizer, SIZES)
    first = max(before.values()) + 1
    assert vocabulary.starts == (first, first + 100)
    assert vocabulary.special == {"audio_start": first + 107, "audio_end": first + 108}
    after = tokenizer.get_vocab()
    assert len(set(after.values())) == len(after) == vocabulary.size
    assert {text: after[text] for text in before} == before
    ids = [first + 5, first + 106, first + 107, first + 108, first]
    text = "<a5><b6><audio_start><audio_end><a0>"
    assert tokenizer.encode(text).ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert lm.to_text(ids, vocabulary) == text
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.get_vocab() == after
    assert again.encode(text).ids == ids


def test_without_filling_holes_ids_would_be_given_twice():
    """What `extend_tokenizer` guards against, in the library as it is."""
    tokenizer = with_holes()
    tokenizer.add_tokens([AddedToken("<a0>", normalized=False)])
    taken = tokenizer.token_to_id("<a0>")
    assert taken < max(tokenizer.get_vocab(with_added_tokens=False).values())
    with pytest.raises(UnsupportedError, match="gives one id to several tokens"):
        lm.extend_tokenizer(tokenizer, (10,))


def test_text_reads_as_before_when_holes_are_filled():
    tokenizer, untouched = with_holes(), with_holes()
    lm.extend_tokenizer(tokenizer, SIZES)
    for text in TEXT:
        assert tokenizer.encode(text).ids == untouched.encode(text).ids
    assert [tokenizer.id_to_token(number) for number in (3, 300)] == ["<unused_3>", "<unused_300>"]


def test_added_tokens_that_lie_in_holes_keep_their_ids():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 20}, []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    assert tokenizer.token_to_id("<s>") == 3
    vocabulary = lm.extend_tokenizer(tokenizer, (4,), existing={"bos": "<s>", "eos": "</s>"})
    assert (vocabulary.starts, vocabulary.special) == (
        (21,),
        {"audio_start": 25, "audio_end": 26, "bos": 3, "eos": 4},
    )
    text = "ab<s>c<a3></s><audio_end>"
    assert tokenizer.encode(text).ids == [0, 1, 3, 20, 24, 4, 26]
    assert Tokenizer.from_str(tokenizer.to_str()).encode(text).ids == [0, 1, 3, 20, 24, 4, 26]


@functools.cache
def extended() -> tuple[Tokenizer, lm.Vocabulary]:
    tokenizer = byte_level()
    return tokenizer, lm.extend_tokenizer(tokenizer, SIZES)


@SETTINGS
@hypothesis.given(st.data())
def test_text_and_audio_mixed_come_back(data):
    """No spaces put in, none taken away, no audio token split."""
    tokenizer, vocabulary = extended()
    audio = st.integers(vocabulary.starts[0], vocabulary.size - 1).map(lambda number: [number])
    words = st.text("ab <>0123é日\n.", max_size=6)
    parts = data.draw(st.lists(st.one_of(audio, words), max_size=12))
    text = "".join(part if isinstance(part, str) else lm.to_text(part, vocabulary) for part in parts)
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    wanted = [part[0] for part in parts if not isinstance(part, str)]
    hypothesis.assume(not any("<" in part for part in parts if isinstance(part, str)))
    assert [number for number in ids if number >= vocabulary.starts[0]] == wanted


def test_text_between_audio_tokens_is_read_as_the_tokenizer_reads_it():
    """SentencePiece models that begin every piece with a space do so behind audio tokens; audio stays exact."""
    always, first = metaspace(), metaspace()
    always.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    for tokenizer, wanted in ((always, "so<a1><a2> you<b3>"), (first, "so<a1><a2>you<b3>")):
        tokenizer.normalizer = None
        lm.extend_tokenizer(tokenizer, SIZES)
        assert tokenizer.decode(tokenizer.encode("so<a1><a2>you<b3>").ids) == wanted


def transformers_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<|end|> $0", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


def test_a_transformers_tokenizer_is_extended_saved_and_loaded(tmp_path, speech):
    tok = audiotok.load()
    tokenizer = transformers_tokenizer()
    vocabulary = lm.extend_tokenizer(
        tokenizer, tok.spec.codebook_sizes, existing={"pad": tokenizer.pad_token, "eos": tokenizer.eos_token}
    )
    assert vocabulary.size == len(tokenizer)
    assert vocabulary.special["eos"] == vocabulary.special["pad"] == tokenizer.eos_token_id == 0
    codes = tok.encode(speech)
    layout = lm.Layout("flat", tok.spec, vocabulary, prefix=("audio_start",), suffix=("audio_end", "eos"))
    tokenizer.save_pretrained(tmp_path)
    for reader in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        rows = []
        for ids in layout.to_ids(codes):
            text = lm.to_text(ids, vocabulary)
            assert text.startswith("<audio_start><a")
            assert text.endswith("><audio_end><|end|>")
            assert reader(text, add_special_tokens=False)["input_ids"] == ids.tolist()
            assert reader.decode(ids) == text
            assert torch.equal(lm.from_text(text, vocabulary), ids)
            rows.append(reader(text)["input_ids"][1:])  # behind the <|end|> that it begins texts with
        assert torch.equal(layout.from_ids(rows, num_samples=codes.num_samples).tokens, codes.tokens)
        shown = reader.decode(reader("say <audio_start><a7><audio_end> it")["input_ids"], skip_special_tokens=True)
        assert shown == "say <a7> it"


def test_a_tokenizer_extended_before_keeps_its_ids():
    tokenizer = byte_level()
    first = lm.extend_tokenizer(tokenizer, SIZES, existing={"eos": "<|end|>"})
    state = tokenizer.to_str()
    assert lm.extend_tokenizer(tokenizer, SIZES, existing={"eos": "<|end|>"}) == first
    assert lm.extend_tokenizer(tokenizer, SIZES[:1], existing={"eos": "<|end|>"}).starts == first.starts[:1]
    assert tokenizer.to_str() == state


def test_merged_ids_are_tokens_of_a_text_model_too(speech):
    codes = audiotok.load().encode(speech).truncate(1)
    bpe = lm.train_bpe([codes], 1100)
    tokenizer = byte_level()
    vocabulary = lm.extend_tokenizer(tokenizer, (bpe.vocab_size,))
    for row, merged in zip(codes, bpe.encode(codes), strict=True):
        ids = vocabulary.to_ids(merged[None])[0]
        read = tokenizer.encode("<audio_start>" + lm.to_text(ids, vocabulary)).ids
        back = vocabulary.to_tokens(torch.tensor(read[1:])[None])
        assert torch.equal(bpe.decode(back).tokens, row.tokens)


def test_truncation_and_padding_do_not_disturb():
    tokenizer = byte_level()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    lm.extend_tokenizer(tokenizer, SIZES)
    assert (tokenizer.truncation["max_length"], tokenizer.padding["length"]) == (5, 5)


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def half_extended() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<a0>", "<a1>", "<c>"])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (dict, {}, InputError, "wanted a tokenizers.Tokenizer or a fast tokenizer of transformers, not dict"),
        (byte_level, {"special": ("end", "end")}, InputError, "is named once, in special or in existing: end"),
        (byte_level, {"existing": {"audio_end": "<|end|>"}}, InputError, "in existing: audio_end"),
        (byte_level, {"existing": {"eos": "</s>"}}, InputError, "has no token </s>: name it in special to add it"),
        (byte_level, {"special": ("a5",)}, InputError, "a special token cannot be named 'a5'"),
        (byte_level, {"codebook_sizes": ()}, InputError, "at least one codebook"),
        (byte_level, {"codebook_sizes": (5, 0)}, InputError, "every codebook size must be a whole number"),
        (half_extended, {}, InputError, "already has some of <a0> to <a99>, for other codebooks"),
        (word_level, {}, UnsupportedError, r"\(no decoder\) puts something between tokens, '<a0> <a1>"),
        (
            word_piece,
            {},
            UnsupportedError,
            r"\(WordPiece\) puts something .* instead of '<a0><a1>.*set tokenizer.decoder",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_extended_stays_as_it_was(make, arguments, error, message):
    tokenizer = make()
    state = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else None
    with pytest.raises(error, match=message):
        lm.extend_tokenizer(tokenizer, **({"codebook_sizes": SIZES} | arguments))
    assert state is None or tokenizer.to_str() == state


def test_the_advice_for_a_tokenizer_without_decoder_helps():
    tokenizer = word_level()
    tokenizer.decoder = tokenizers.decoders.Fuse()
    vocabulary = lm.extend_tokenizer(tokenizer, SIZES)
    assert tokenizer.decode(tokenizer.encode("<a1><b2>").ids) == "<a1><b2>"
    assert vocabulary.starts == (3, 103)


def test_importing_lm_imports_nothing_heavy():
    code = "import sys, audiotok.lm; print(*[n for n in ('tokenizers', 'transformers', 'pyarrow') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
