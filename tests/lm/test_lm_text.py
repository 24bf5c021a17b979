import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from audiotok import lm
from audiotok.errors import InputError
from audiotok.lm.text import codebook_letters
from tests.lm.random_codes import batches

SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
TWO = lm.Vocabulary((1024, 4), (100, 2000), {"pad": 0, "eos": 0, "bos": 1, "end": 2}, {"bos": "<s>", "pad": "</s>"})


@SETTINGS
@hypothesis.given(st.data())
def test_text_of_every_sequence_comes_back(data):
    codes = data.draw(batches())
    names = data.draw(st.lists(st.sampled_from(lm.SPECIAL), max_size=3))
    layout = lm.Layout(data.draw(st.sampled_from(lm.LAYOUTS[:4])), codes.spec, prefix=names, suffix=names)
    for ids in layout.to_ids(codes):
        text = lm.to_text(ids, layout.vocabulary)
        assert text.count("<") == len(ids)
        assert torch.equal(lm.from_text(text, layout.vocabulary), ids)


def test_written_out():
    text = "<s><a12><b3><a0></s><end>"
    assert lm.from_text(text, TWO).tolist() == [1, 112, 2003, 100, 0, 2]
    assert lm.to_text([1, 112, 2003, 100, 0, 2], TWO) == text
    assert lm.from_text("<eos>", TWO).tolist() == [0]  # pad and eos are one id: read either way, written the first
    assert lm.to_text([], TWO) == ""
    assert lm.from_text("", TWO).shape == (0,)


def test_letters_go_on_after_z():
    letters = [codebook_letters(codebook) for codebook in range(26 + 26 * 26 + 26)]
    assert letters[:3] + letters[25:29] == ["a", "b", "c", "z", "aa", "ab", "ac"]
    assert len(set(letters)) == len(letters)
    assert letters == sorted(letters, key=lambda text: (len(text), text))
    wide = lm.Vocabulary.build((2,) * 32)
    assert lm.to_text([63], wide) == "<af1>"
    assert lm.from_text("<af1>", wide).tolist() == [63]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a1> <a2>", "character 4, ' <a2>': wanted a token such as <a0> or <eos>, <end>, </s>, <s>"),
        ("<a1>x", "character 4, 'x': wanted a token"),
        ("<a1", "character 0, '<a1': wanted a token"),
        ("<a01>", "character 0, '<a01>': wanted a token"),
        ("<a-1>", "character 0, '<a-1>': wanted a token"),
        ("<A1>", "character 0, '<A1>': wanted a token"),
        ("<a٣>", "character 0, '<a٣>': wanted a token"),
        ("<pad>", "character 0, '<pad>': wanted a token"),  # written </s> here
        ("<a1><c1>", "character 4, '<c1>': there is no codebook 'c', only a to b"),
        ("<a1><b4><a2>", "character 4, '<b4><a2>': codebook 'b' has codes 0 to 3, not 4"),
        ("<a1><a1024>", "codebook 'a' has codes 0 to 1023, not 1024"),
        ("<a99999999999999>", "wanted a token"),
        ("?" + "<a1>" * 20, "character 0, '.<a1><a1><a1><a1><a1><a1...': wanted a token"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text, message):
    with pytest.raises(InputError, match=message):
        lm.from_text(text, TWO)


def test_ids_that_cannot_be_written_are_refused():
    with pytest.raises(InputError, match="position 1: id 99 is neither a token of a codebook nor a special one"):
        lm.to_text([100, 99], TWO)
    with pytest.raises(InputError, match=r"wanted a sequence of ids \[L\], not \[1, 2\]: give grids row by row"):
        lm.to_text(torch.tensor([[100, 101]]), TWO)
    with pytest.raises(InputError, match="of whole numbers, not of torch.float64"):
        lm.to_text([100.0], TWO)
    shared = lm.Vocabulary.build((10, 10), shared=True)
    with pytest.raises(InputError, match="the codebooks share their ids"):
        lm.to_text([1], shared)
    with pytest.raises(InputError, match="the codebooks share their ids"):
        lm.from_text("<a1>", shared)
