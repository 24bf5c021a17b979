import dataclasses
import json
import sys
import unicodedata

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec, lm
from audiotok.checkpoint import CheckpointWriteError
from audiotok.errors import CheckpointError, CodesMismatchError, InputError, MissingDependencyError
from audiotok.lm.unit_characters import MAX_UNITS, characters_to_units, units_to_characters
from tests.lm.random_codes import batches, valid

SETTINGS = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def row_of(units: list[int], size: int) -> Codes:
    spec = Spec("units", 100, 10, (size,))
    return Codes(torch.tensor([[units]]), torch.tensor([len(units)]), torch.tensor([10 * len(units)]), spec)


@pytest.fixture(scope="module")
def trained(speech) -> tuple[Codes, lm.AcousticBPE]:
    """Codes of real speech, two codebooks, and a BPE learned from them."""
    codes = audiotok.load().encode(speech).truncate(2)
    return codes, lm.train_bpe([codes], 2300)


@SETTINGS
@hypothesis.given(st.data())
def test_any_codes_come_back(data):
    """Those it was trained on, and others of the same tokenizer that it never saw."""
    codes = data.draw(batches())
    name = data.draw(st.sampled_from(lm.LAYOUTS[:4]))
    vocab_size = codes.spec.vocab_size + data.draw(st.integers(0, 30))
    bpe = lm.train_bpe(codes.unbatch(), vocab_size, layout=name, min_frequency=1)
    assert codes.spec.vocab_size <= bpe.vocab_size <= vocab_size
    for one in (codes, data.draw(batches(st.just(codes.spec)))):
        ids = bpe.encode(one)
        assert all(
            len(row) <= int(length) * one.spec.num_codebooks for row, length in zip(ids, one.lengths, strict=True)
        )
        assert all(int(row.max()) < bpe.vocab_size for row in ids if len(row))
        back = bpe.decode(ids, num_samples=one.num_samples)
        assert valid(back) == valid(one)
        assert torch.equal(back.num_samples, one.num_samples)


def test_merges_written_out():
    bpe = lm.train_bpe([row_of([3, 1, 3, 1, 2, 3, 1, 2], 5)], 7)
    # 3 1 stands there three times and becomes 5; then 5 2 twice, 6.
    assert bpe.encode(row_of([3, 1, 2, 3, 1, 1, 4], 5))[0].tolist() == [6, 5, 1, 4]
    assert bpe.decode([[6, 5, 0]]).tokens.tolist() == [[[3, 1, 2, 3, 1, 0]]]
    assert lm.train_bpe([row_of([3, 1, 3, 1, 2, 3, 1, 2], 5)], 7, max_units=2).encode(row_of([3, 1, 2], 5))[
        0
    ].tolist() == [5, 2]
    assert lm.train_bpe([row_of([3, 1, 3, 1, 2, 3, 1, 2], 5)], 7, min_frequency=3).vocab_size == 6


def test_real_speech_gets_shorter_and_comes_back(trained):
    codes, bpe = trained
    assert 2048 < bpe.vocab_size <= 2300
    ids = bpe.encode(codes)
    assert sum(len(row) for row in ids) < 2 * int(codes.lengths.sum())
    back = bpe.decode(ids, num_samples=codes.num_samples)
    assert torch.equal(back.tokens, codes.tokens)
    assert back.fingerprint == codes.fingerprint


def test_it_goes_on_top_of_deduplication(speech):
    codes = audiotok.load().encode(speech).truncate(1)
    units, durations = lm.deduplicate(codes)
    bpe = lm.train_bpe(iter(units), 1100)
    back = bpe.decode(bpe.encode(units), num_samples=units.num_samples)
    again = lm.expand(back, durations)
    assert torch.equal(again.tokens, codes.tokens)
    assert torch.equal(again.num_samples, codes.num_samples)


def test_the_same_codes_give_the_same_merges(trained):
    codes, bpe = trained
    assert lm.train_bpe(codes.unbatch(), 2300).tokenizer.to_str() == bpe.tokenizer.to_str()


def test_it_loads_as_it_was_saved(trained, tmp_path):
    codes, bpe = trained
    bpe.save(tmp_path / "new" / "bpe")
    again = lm.AcousticBPE.load(tmp_path / "new" / "bpe")
    assert again.layout == bpe.layout
    assert [row.tolist() for row in again.encode(codes)] == [row.tolist() for row in bpe.encode(codes)]
    assert torch.equal(again.decode(again.encode(codes)).tokens, codes.tokens)


def test_a_folder_that_cannot_be_written_is_an_os_error(trained, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        trained[1].save(tmp_path / "file" / "bpe")
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointWriteError, match="tokenizer.json"):
        trained[1].save(tmp_path)


def test_transformers_reads_tokenizer_json(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    codes, bpe = trained
    bpe.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = units_to_characters(bpe.layout.to_ids(codes)[0].numpy())
    assert theirs(text)["input_ids"] == bpe.encode(codes)[0].tolist()
    assert theirs.decode(theirs(text)["input_ids"]) == text


def test_65536_units_and_more():
    units = torch.randperm(65536, generator=torch.Generator().manual_seed(0))
    codes = row_of(torch.cat([units, units[:9], units[:9]]).tolist(), 65536)
    bpe = lm.train_bpe([codes], 65540)
    ids = bpe.encode(codes)
    assert len(ids[0]) < codes.tokens.numel()
    assert torch.equal(bpe.decode(ids).tokens, codes.tokens)


def test_characters_of_units_survive_every_text_tool():
    """All of them: categories, normalisation, case, whitespace, UTF-8."""
    units = np.arange(MAX_UNITS)
    text = units_to_characters(units)
    assert len(text) == MAX_UNITS == 80328
    assert {unicodedata.category(character) for character in text} == {"Lo"}
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert unicodedata.normalize(form, text) == text
    assert text.casefold() == text.lower() == text.upper() == text
    assert "".join(text.split()) == text
    assert len(text.splitlines()) == 1
    assert list(text) == sorted(set(text))
    assert np.array_equal(characters_to_units(text.encode().decode()), units)


@pytest.mark.parametrize("text", ["a", "一b", "\uffff", "\ud800", "\U0010ffff", " "])
def test_other_characters_are_refused(text):
    with pytest.raises(InputError, match=f"character {len(text) - 1}, .* stands for no unit"):
        characters_to_units(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lm.train_bpe([], 10), "nothing to learn from: train_bpe wants at least one Codes"),
        (lambda: lm.train_bpe([row_of([1], 5)], 10, layout="delay"), "the layout 'delay' is a grid: use 'flat'"),
        (lambda: lm.train_bpe([row_of([1], 5)], 10, layout="round"), "layout must be one of"),
        (lambda: lm.train_bpe([row_of([1], 5)], 4), "vocab_size must be at least the 5 tokens of units, not 4"),
        (
            lambda: lm.train_bpe([row_of([1], 90000)], 10**6),
            r"units has 90000 tokens and at most 80328 have a character: .*truncate",
        ),
        (lambda: lm.train_bpe([row_of([5], 5)], 9), "codebook 0 takes 0 to 4, not 5"),
        (
            lambda: lm.train_bpe([row_of([1, 2], 5)], 9).decode([[0], [0, 9]]),
            "sequence 1, position 1: this BPE has ids 0 to 4, not 9",
        ),
        (lambda: lm.train_bpe([row_of([1], 5)], 9).decode([3, 4]), r"sequence 0: wanted a list of ids \[N\], not \[\]"),
        (
            lambda: lm.train_bpe([row_of([1], 5)], 9).decode([[0.5]]),
            "sequence 0: .* of whole numbers, not of torch.float",
        ),
        (lambda: lm.train_bpe([row_of([1], 5)], 9).decode([]), "wanted at least one sequence of ids"),
    ],
)
def test_what_cannot_be_merged_is_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_merged_ids_that_end_within_a_frame_are_refused(trained):
    _, bpe = trained
    with pytest.raises(InputError, match="3 ids are no whole number of frames of 2 codebooks"):
        bpe.decode([[0, 1024, 0]])


def test_codes_of_other_tokenizers_are_refused(trained):
    codes, bpe = trained
    with pytest.raises(CodesMismatchError, match=f"this layout is for {codes.spec.name}"):
        lm.train_bpe([codes, row_of([1], 5)], 2300)
    with pytest.raises(CodesMismatchError, match="for the tokenizer"):
        bpe.encode(dataclasses.replace(codes, fingerprint="other"))


def test_folders_that_are_no_bpe_are_refused(trained, tmp_path):
    _, bpe = trained
    with pytest.raises(CheckpointError, match="units.json"):
        lm.AcousticBPE.load(tmp_path / "none")
    bpe.save(tmp_path)
    units, merges = tmp_path / "units.json", tmp_path / "tokenizer.json"
    facts, whole = json.loads(units.read_text()), merges.read_text()

    units.write_text(json.dumps({"layout": facts["layout"]}))
    with pytest.raises(CheckpointError, match="wanted the units of an audiotok BPE, found .'layout'."):
        lm.AcousticBPE.load(tmp_path)
    for change, message in (
        ({"name": "parallel"}, "must be a sequence of units 0, 1, 2"),
        ({"name": "round"}, "layout must be one of"),
        ({"spec": row_of([1], 5).spec.to_dict()}, "the vocabulary is for codebooks"),
    ):
        units.write_text(json.dumps(facts | {"layout": facts["layout"] | change}))
        with pytest.raises(CheckpointError, match=f"its files do not belong together: .*{message}"):
            lm.AcousticBPE.load(tmp_path)

    units.write_text(json.dumps(facts))
    merges.write_text(whole[:1000])
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        lm.AcousticBPE.load(tmp_path)
    lm.train_bpe([row_of([1, 2], 5)], 9).tokenizer.save(str(merges))
    with pytest.raises(CheckpointError, match="the first 2048 ids of an acoustic BPE must be its units"):
        lm.AcousticBPE.load(tmp_path)
    merges.write_text(whole.replace(f'"{units_to_characters(np.array([7]))}": 7', '"x": 7'))
    with pytest.raises(CheckpointError, match="character 0, 'x', stands for no unit"):
        lm.AcousticBPE.load(tmp_path)
    merges.write_text(whole.replace(f'"{units_to_characters(np.array([7]))}": 7', '"㐅": 3000'))
    with pytest.raises(CheckpointError, match="must be 0, 1, 2 and so on, each once"):
        lm.AcousticBPE.load(tmp_path)


def test_without_tokenizers_the_extra_is_named(monkeypatch, tmp_path, trained):
    trained[1].save(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for call in (
        lambda: lm.train_bpe([row_of([1], 5)], 9),
        lambda: lm.AcousticBPE.load(tmp_path),
        lambda: lm.extend_tokenizer(None, (5,)),
    ):
        with pytest.raises(MissingDependencyError, match=r"needs tokenizers: pip install 'audiotok\[lm\]'"):
            call()
