import json

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from audiotok.errors import InputError
from audiotok.lm import SPECIAL, Vocabulary
from tests.lm.random_codes import batches

SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)


@SETTINGS
@hypothesis.given(st.data())
def test_ids_are_distinct_dense_and_come_back(data):
    codes = data.draw(batches())
    sizes = codes.spec.codebook_sizes
    names = data.draw(st.lists(st.sampled_from(SPECIAL), unique=True))
    at, offset = data.draw(st.sampled_from(["front", "behind"])), data.draw(st.integers(0, 10**6))
    order = data.draw(st.permutations(range(len(sizes))))
    vocabulary = Vocabulary.build(sizes, offset=offset, special=names, special_at=at, order=order)

    every = [start + code for start, size in zip(vocabulary.starts, sizes, strict=True) for code in range(size)]
    assert sorted([*every, *vocabulary.special.values()]) == list(range(offset, vocabulary.size))
    assert all((number < min(every)) == (at == "front") for number in vocabulary.special.values())
    assert sorted(order, key=lambda codebook: vocabulary.starts[codebook]) == list(order)

    ids = vocabulary.to_ids(codes.tokens)
    assert torch.equal(vocabulary.to_tokens(ids), codes.tokens)
    codebooks, found = vocabulary.locate(ids)
    assert torch.equal(found, codes.tokens)
    assert (codebooks == torch.arange(len(sizes))[:, None]).all()
    other = torch.tensor([offset - 1, vocabulary.size, *vocabulary.special.values()])
    assert [values.unique().tolist() for values in vocabulary.locate(other)] == [[-1], [-1]]

    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


@SETTINGS
@hypothesis.given(st.data())
def test_shared_ids_come_back_by_their_row(data):
    codes = data.draw(batches())
    vocabulary = Vocabulary.build(codes.spec.codebook_sizes, offset=7, special=("pad",), shared=True)
    assert vocabulary.size == 7 + max(codes.spec.codebook_sizes) + 1
    assert vocabulary.special_id("pad") == vocabulary.size - 1
    ids = vocabulary.to_ids(codes.tokens)
    assert torch.equal(ids, codes.tokens + 7)
    assert torch.equal(vocabulary.to_tokens(ids), codes.tokens)


def test_where_everything_lies():
    behind = Vocabulary.build((10, 4), offset=100)
    assert behind.starts == (100, 110)
    assert behind.special == {"pad": 114, "bos": 115, "eos": 116, "audio_start": 117, "audio_end": 118}
    assert (behind.size, behind.num_codebooks, behind.shared) == (119, 2, False)
    front = Vocabulary.build((10, 4), offset=100, special=("eos", "pad"), special_at="front", order=(1, 0))
    assert (front.special, front.starts, front.size) == ({"eos": 100, "pad": 101}, (106, 102), 116)
    shared = Vocabulary.build((10, 4), special=("pad",), special_at="front", shared=True)
    assert (shared.special, shared.starts, shared.size, shared.shared) == ({"pad": 0}, (1, 1), 11, True)
    theirs = Vocabulary.build((10, 4), offset=100, special={"pad": 0, "eos": 0, "bos": 200})
    assert (theirs.special, theirs.starts, theirs.size) == ({"pad": 0, "eos": 0, "bos": 200}, (100, 110), 201)


def test_musicgen_and_orpheus_have_these_ids():
    """MusicGen: 2048 entries and the special id 2048. Orpheus: its audio begins at 128266."""
    assert Vocabulary.build((2048,) * 4, special=("pad",), shared=True).special == {"pad": 2048}
    orpheus = Vocabulary.build((4096,) * 7, offset=128266, special=(), order=(0, 1, 3, 4, 2, 5, 6))
    assert [start - 128266 for start in orpheus.starts] == [4096 * place for place in (0, 1, 4, 2, 3, 5, 6)]


def test_ids_in_words():
    vocabulary = Vocabulary((10, 4), (3, 20), {"pad": 0, "eos": 0, "bos": 1})
    assert [vocabulary.describe(number) for number in (0, 1, 2, 3, 23, 24)] == [
        "id 0 (pad = eos)",
        "id 1 (bos)",
        "id 2",
        "id 3 (code 0 of codebook 0)",
        "id 23 (code 3 of codebook 1)",
        "id 24",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary((), ()), "at least one codebook, not 0 sizes and 0 starts"),
        (lambda: Vocabulary((10,), (0, 5)), "not 1 sizes and 2 starts"),
        (lambda: Vocabulary((0,), (0,)), "every codebook size must be a whole number of at least 1, not 0"),
        (lambda: Vocabulary((10,), (-1,)), "every start must be a whole number of at least 0, not -1"),
        (lambda: Vocabulary((10,), (0.5,)), "every start must be a whole number of at least 0, not 0.5"),
        (lambda: Vocabulary((10, 10), (0, 9)), "one has 0 to 9, another begins at 9; give each a range of its own"),
        (lambda: Vocabulary((10, 10, 10), (5, 0, 5)), "ids of codebooks overlap"),
        (lambda: Vocabulary((10,), (5,), {"pad": 14}), "the id 14 of 'pad' lies within a codebook's ids"),
        (lambda: Vocabulary((10,), (5,), {"pad": "0"}), "the id of 'pad' must be a whole number"),
        (lambda: Vocabulary((10,), (5,), {"b12": 0}), "a special token cannot be named 'b12': use a word"),
        (lambda: Vocabulary((10,), (5,), {"<pad>": 0}), "a special token cannot be named '<pad>'"),
        (lambda: Vocabulary((10,), (5,), {"pad": 0}, {"eos": "</s>"}), "'eos' cannot be written '</s>'"),
        (lambda: Vocabulary((10,), (5,), {"pad": 0}, {"pad": "<a5>"}), "'pad' cannot be written '<a5>'"),
        (
            lambda: Vocabulary((10,), (5,), {"pad": 0, "eos": 1}, {"pad": "<s>", "eos": "<s>"}),
            "two special tokens with unlike ids are both written <s>",
        ),
        (lambda: Vocabulary.build((10,), special_at="below"), "special_at is 'front' or 'behind', not 'below'"),
        (lambda: Vocabulary.build((10, 10), order=(0, 0)), r"codebooks 0 to 1 once each, not \[0, 0\]"),
        (lambda: Vocabulary.build((10,), offset=-1), "offset must be a whole number of at least 0, not -1"),
        (lambda: Vocabulary.build((10, "a")), "every codebook size must be a whole number of at least 1, not 'a'"),
        (lambda: Vocabulary.build((10,), special=("pad", "pad")), "each special token is named once"),
        (lambda: Vocabulary.build((10,)).special_id("cls"), "no special token 'cls', only .'pad', 'bos'"),
        (
            lambda: Vocabulary.build((10, 10)).to_ids(torch.zeros(1, 3, 5, dtype=torch.int64)),
            r"tokens must be \[..., 2, N\] int64, not \[1, 3, 5\] torch.int64",
        ),
        (lambda: Vocabulary.build((10, 10)).to_ids(torch.zeros(2, 5)), r"not \[2, 5\] torch.float32"),
        (
            lambda: Vocabulary.build((10, 4)).to_ids(torch.tensor([[3, 4], [3, 4]])),
            r"codebook 1 takes 0 to 3, not 4 \(at \[1, 1\], one of 1\)",
        ),
        (
            lambda: Vocabulary.build((10, 4)).to_tokens(torch.tensor([[3, 4], [9, 14]])),
            r"codebook 1 takes 10 to 13, not 9 \(at \[1, 0\], one of 2\)",
        ),
        (
            lambda: Vocabulary.build((10, 4), shared=True).locate(torch.tensor([1])),
            "the codebooks share their ids, an id does not tell its codebook",
        ),
        (lambda: Vocabulary.from_dict({"starts": [0]}), "this is no audiotok vocabulary: KeyError"),
        (
            lambda: Vocabulary.from_dict(Vocabulary.build((10,)).to_dict() | {"special": ["pad"]}),
            "this is no audiotok vocabulary: ValueError",
        ),
        (
            lambda: Vocabulary.from_dict(Vocabulary.build((10,)).to_dict() | {"starts": ["a"]}),
            "every start must be a whole number",
        ),
    ],
)
def test_what_cannot_be_a_vocabulary_is_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()
