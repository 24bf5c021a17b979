import dataclasses
import json

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec, lm
from audiotok.errors import CodesMismatchError, InputError
from tests.lm.random_codes import batches, valid

SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
SNAC = Spec("snac", 24000, 2048, (4096,) * 7, row_levels=(0, 1, 1, 2, 2, 2, 2))


def codes_of(rows: list[list[int]], sizes: int = 10, **facts: object) -> Codes:
    """One row of audio, tokens [K, F]."""
    spec = Spec("demo", 100, 10, (sizes,) * len(rows), **facts)
    frames = len(rows[0])
    return Codes(torch.tensor([rows]), torch.tensor([frames]), torch.tensor([10 * frames]), spec)


THREE = codes_of([[1, 2, 3, 4], [5, 6, 7, 8], [9, 0, 1, 2]])  # ids of its codebooks begin at 0, 10 and 20


@st.composite
def layouts(draw: st.DrawFn, spec: Spec) -> lm.Layout:
    name = draw(st.sampled_from(lm.LAYOUTS))
    special = draw(st.permutations(lm.SPECIAL))
    vocabulary = lm.Vocabulary.build(
        spec.codebook_sizes,
        offset=draw(st.integers(0, 1000)),
        special=special,
        special_at=draw(st.sampled_from(["front", "behind"])),
        shared=draw(st.booleans()),
        order=draw(st.permutations(range(spec.num_codebooks))),
    )
    names = st.lists(st.sampled_from(lm.SPECIAL), max_size=3)
    delays = draw(st.lists(st.integers(0, 5), min_size=spec.num_codebooks, max_size=spec.num_codebooks))
    return lm.Layout(
        name,
        spec,
        vocabulary,
        prefix=draw(names),
        suffix=draw(names),
        coarse=draw(st.integers(1, spec.num_codebooks)),
        delays=delays if name == "delay" and draw(st.booleans()) else None,
        fill=(draw(st.sampled_from(lm.SPECIAL)), draw(st.sampled_from(lm.SPECIAL))),
        fingerprint=draw(st.sampled_from(["", "finger"])),
    )


@SETTINGS
@hypothesis.given(st.data())
def test_every_layout_comes_back(data):
    codes = data.draw(batches())
    layout = data.draw(layouts(codes.spec))
    ids = layout.to_ids(codes)
    assert [row.shape[-1] for row in ids] == [layout.num_ids(int(length)) for length in codes.lengths]
    back = layout.from_ids(ids, num_samples=codes.num_samples)
    assert valid(back) == valid(codes)
    assert torch.equal(back.lengths, codes.lengths)
    assert torch.equal(back.num_samples, codes.num_samples)
    assert (back.spec, back.fingerprint) == (codes.spec, layout.fingerprint)
    assert not back.tokens.masked_fill(back.mask[:, None], 0).any()  # padding holds 0
    assert torch.equal(layout.from_ids(ids).num_samples, codes.lengths * codes.spec.hop_length)
    assert all((row >= 0).all() and (row < layout.vocabulary.size).all() for row in ids)


@SETTINGS
@hypothesis.given(st.data())
def test_layouts_and_padding_survive_json_and_batches(data):
    codes = data.draw(batches())
    layout = data.draw(layouts(codes.spec))
    again = lm.Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again == layout
    ids = layout.to_ids(codes)
    for side in ("left", "right"):
        batch = again.batch(ids, side=side)
        assert [row.tolist() for row in batch.rows()] == [row.tolist() for row in ids]
        assert batch.mask.sum(1).tolist() == [row.shape[-1] for row in ids]
        padding = ~batch.mask[:, None].expand_as(batch.ids) if layout.grid else ~batch.mask
        assert (batch.ids[padding] == layout.vocabulary.special["pad"]).all()
        assert valid(again.from_ids(batch)) == valid(codes)


@SETTINGS
@hypothesis.given(st.data())
def test_one_wrong_id_is_found_where_it_is(data):
    """Whatever id of a sequence is replaced by one that no place takes, the message names the place."""
    codes = data.draw(batches(min_frames=1))
    layout = data.draw(layouts(codes.spec))
    ids = layout.to_ids(codes)
    number = data.draw(st.integers(0, len(ids) - 1))
    place = data.draw(st.integers(0, ids[number].shape[-1] - 1))
    wrong = layout.vocabulary.size + 5
    ids[number][(-1, place) if layout.grid else place] = wrong
    where = f"row {codes.spec.num_codebooks - 1}, position {place}" if layout.grid else f"position {place}"
    with pytest.raises(InputError, match=f"^sequence {number}, {where}: wanted .*, found id {wrong}$"):
        layout.from_ids(ids)


def test_flat_written_out():
    assert lm.Layout("flat", THREE.spec).to_ids(THREE)[0].tolist() == [1, 15, 29, 2, 16, 20, 3, 17, 21, 4, 18, 22]


def test_codebook_major_written_out():
    found = lm.Layout("codebook-major", THREE.spec).to_ids(THREE)[0].tolist()
    assert found == [1, 2, 3, 4, 15, 16, 17, 18, 29, 20, 21, 22]


def test_coarse_first_written_out():
    one = lm.Layout("coarse-first", THREE.spec)
    assert one.to_ids(THREE)[0].tolist() == [1, 2, 3, 4, 15, 29, 16, 20, 17, 21, 18, 22]
    two = lm.Layout("coarse-first", THREE.spec, coarse=2)
    assert two.to_ids(THREE)[0].tolist() == [1, 15, 2, 16, 3, 17, 4, 18, 29, 20, 21, 22]


def test_delay_written_out():
    layout = lm.Layout("delay", THREE.spec)  # shared ids: 0 to 9, then pad, bos, ...
    assert layout.vocabulary.special["pad"] == 10
    assert layout.to_ids(THREE)[0].tolist() == [
        [1, 2, 3, 4, 10, 10],
        [10, 5, 6, 7, 8, 10],
        [10, 10, 9, 0, 1, 2],
    ]


def test_delays_fillings_and_ends_can_be_chosen():
    layout = lm.Layout(
        "delay", THREE.spec, delays=(0, 2, 2), fill=("bos", "eos"), prefix=("bos",), suffix=("audio_end",)
    )
    assert layout.to_ids(THREE)[0].tolist() == [
        [11, 1, 2, 3, 4, 12, 12, 14],
        [11, 11, 11, 5, 6, 7, 8, 14],
        [11, 11, 11, 9, 0, 1, 2, 14],
    ]


def test_parallel_is_the_tokens_themselves():
    assert torch.equal(lm.Layout("parallel", THREE.spec).to_ids(THREE)[0], THREE.tokens[0])
    own = lm.Layout("parallel", THREE.spec, lm.Vocabulary.build((10, 10, 10)))
    assert own.to_ids(THREE)[0][:, 0].tolist() == [1, 15, 29]


def test_the_order_of_language_models_over_snac():
    """Orpheus: seven ids a frame from 128266 on, 4096 more for each place: c0, c1a, c2a, c2b, c1b, c2c, c2d."""
    order = lm.depth_first(SNAC.row_levels)
    vocabulary = lm.Vocabulary.build(
        SNAC.codebook_sizes, offset=128266, special={"audio_start": 128257, "audio_end": 128258}, order=order
    )
    layout = lm.Layout("depth-first", SNAC, vocabulary, suffix=("audio_end",))
    # Row r of frame f holds 100 f + r: rows 1 and 2 are level 1, rows 3 to 6 level 2.
    tokens = torch.tensor([[[row, 100 + row] for row in range(7)]])
    codes = Codes(tokens, torch.tensor([2]), torch.tensor([4096]), SNAC)
    ids = layout.to_ids(codes)[0].tolist()
    assert ids[-1] == 128258
    assert [number - 128266 - 4096 * (place % 7) for place, number in enumerate(ids[:-1])] == [
        *(0, 1, 3, 4, 2, 5, 6),
        *(100, 101, 103, 104, 102, 105, 106),
    ]
    assert torch.equal(layout.from_ids([ids]).tokens, tokens)


def test_depth_first_of_other_trees():
    assert lm.depth_first((0, 1, 2)) == (0, 1, 2)
    assert lm.depth_first((0, 0, 1, 1)) == (0, 2, 1, 3)
    four = [0, *[1] * 2, *[2] * 4, *[3] * 8]
    assert lm.depth_first(four) == (0, 1, 3, 7, 8, 4, 9, 10, 2, 5, 11, 12, 6, 13, 14)
    assert lm.depth_first((0, 0, 1, 1, 1)) == (0, 2, 3, 1, 4)  # thirds begin at 0, 1/3 and 2/3, halves at 0 and 1/2


@hypothesis.given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
@SETTINGS
def test_depth_first_is_the_walk_through_the_tree(factors):
    """Against a second implementation: recursion over each code's refinements."""
    counts = [1]
    for factor in factors:
        counts.append(counts[-1] * factor)
    first = [sum(counts[:level]) for level in range(len(counts))]

    def walk(level: int, index: int) -> list[int]:
        below = range(factors[level]) if level < len(factors) else ()
        return [
            first[level] + index,
            *(row for child in below for row in walk(level + 1, index * factors[level] + child)),
        ]

    levels = [level for level, count in enumerate(counts) for _ in range(count)]
    assert list(lm.depth_first(levels)) == walk(0, 0)


def test_one_frame_and_none():
    one = codes_of([[3], [4]])
    assert lm.Layout("flat", one.spec).to_ids(one)[0].tolist() == [3, 14]
    assert lm.Layout("delay", one.spec).to_ids(one)[0].tolist() == [[3, 10], [10, 4]]
    none = Codes(torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([0]), torch.tensor([0]), one.spec)
    assert lm.Layout("flat", one.spec).to_ids(none)[0].tolist() == []
    assert lm.Layout("delay", one.spec).to_ids(none)[0].tolist() == [[10], [10]]
    assert lm.Layout("flat", one.spec).from_ids([[]]).tokens.shape == (1, 2, 0)


@pytest.mark.parametrize("name", lm.LAYOUTS)
def test_codes_of_real_audio_decode_as_before(name, speech):
    tok = audiotok.load()
    codes = tok.encode(speech)
    layout = lm.Layout(name, tok.spec, prefix=("bos",), suffix=("eos",), fingerprint=tok.fingerprint)
    ids = layout.to_ids(codes)
    assert [row.shape[-1] for row in ids] == [layout.num_ids(int(length)) for length in codes.lengths]
    back = layout.from_ids(layout.batch(ids), num_samples=codes.num_samples)
    assert torch.equal(back.tokens, codes.tokens)
    for one, other in zip(tok.decode(back), tok.decode(codes), strict=True):
        assert torch.equal(one, other)


def test_ids_may_be_lists_arrays_or_tensors_of_any_integers():
    layout = lm.Layout("flat", THREE.spec)
    ids = layout.to_ids(THREE)[0]
    for given in (ids.tolist(), ids.numpy(), ids.to(torch.int32), ids.to(torch.uint8)):
        assert torch.equal(layout.from_ids([given]).tokens, THREE.tokens)
    assert torch.equal(layout.from_ids(ids[None]).tokens, THREE.tokens)
    read_only = ids.numpy().astype(np.uint16)
    read_only.flags.writeable = False
    assert torch.equal(layout.from_ids([read_only]).tokens, THREE.tokens)
    grid = lm.Layout("delay", THREE.spec)
    for given in (list(grid.to_ids(THREE)[0].numpy()), list(grid.to_ids(THREE)[0]), grid.to_ids(THREE)[0].tolist()):
        assert torch.equal(grid.from_ids([given]).tokens, THREE.tokens)
    with pytest.raises(InputError, match="sequence 0: wanted ids .L., not this list"):
        layout.from_ids([[2**70, 1, 2]])
    with pytest.raises(InputError, match="sequence 0: wanted ids .3, L., not this list"):
        grid.from_ids([[[1, 2], [3], [4]]])


def changed(layout: lm.Layout, place: int | tuple[int, int], value: int) -> list[torch.Tensor]:
    ids = layout.to_ids(THREE)
    ids[0][place] = value
    return ids


ENDS = {"prefix": ("bos", "audio_start"), "suffix": ("eos",)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lm.Layout("flat", THREE.spec).from_ids([]), "wanted at least one sequence of ids"),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([1, 2]),
            r"sequence 0: the layout 'flat' wants ids \[L\], not \[\]",
        ),
        (lambda: lm.Layout("flat", THREE.spec).from_ids([["a"]]), r"sequence 0: wanted ids \[L\], not this list"),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[0.0] * 3]),
            r"sequence 0: wanted ids \[L\] of whole numbers, not of torch.float64",
        ),
        (lambda: lm.Layout("flat", THREE.spec).from_ids([[True] * 3]), "of whole numbers, not of torch.bool"),
        (
            lambda: lm.Layout("delay", THREE.spec).from_ids([[[1, 2], [3, 4]]]),
            r"the layout 'delay' wants ids \[3, L\], not \[2, 2\]",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 21], [1, 11, 21, 2, 12]]),
            "sequence 1: 5 ids are no whole number of frames of 3 codebooks: cut the last 2, or give the 1 that lack",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec, **ENDS).from_ids([[31, 33, 1, 32]]),
            "sequence 0: 1 ids beside 3 special ones are no whole number of frames",
        ),
        (
            lambda: lm.Layout("delay", THREE.spec).from_ids([[[10], [10], [10]]]),
            "sequence 0: 1 ids are fewer than the 2 around no frame at all",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec, **ENDS).from_ids([[31]]),
            r"sequence 0: 1 ids are too few: wanted 'audio_start' \(id 33\) too",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec, prefix=("bos",), suffix=("eos",)).from_ids([[31]]),
            r"sequence 0, position 0: wanted 'eos' \(id 32\), found id 31 \(bos\)",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec, **ENDS).from_ids([[33, 31, 1, 11, 21, 32]]),
            r"sequence 0, position 0: wanted 'bos' \(id 31\), found id 33 \(audio_start\)",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec, **ENDS).from_ids([[31, 33, 1, 11, 21]]),
            r"sequence 0, position 4: wanted 'eos' \(id 32\), found id 21 \(code 1 of codebook 2\)",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 21, 2, 22, 12]]),
            r"position 4: wanted a code of codebook 1 \(ids 10 to 19\), found id 22 \(code 2 of codebook 2\)",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 30]]),
            r"position 2: wanted a code of codebook 2 \(ids 20 to 29\), found id 30 \(pad\)",
        ),
        (lambda: lm.Layout("flat", THREE.spec).from_ids([[-1, 11, 30]]), "position 0: .*, found id -1$"),
        (
            lambda: lm.Layout("delay", THREE.spec).from_ids(changed(lm.Layout("delay", THREE.spec), (2, 1), 7)),
            r"sequence 0, row 2, position 1: wanted 'pad' \(id 10\), found id 7",
        ),
        (
            lambda: lm.Layout("delay", THREE.spec).from_ids(changed(lm.Layout("delay", THREE.spec), (0, 3), 10)),
            r"sequence 0, row 0, position 3: wanted a code of codebook 0 \(ids 0 to 9\), found id 10 \(pad\)",
        ),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 21]], num_samples=[1, 2]),
            r"num_samples must be 1 sample counts, one for each sequence, not \[1, 2\]",
        ),
        (lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 21]], num_samples=[-1]), "num_samples must be 1"),
        (
            lambda: lm.Layout("flat", THREE.spec).from_ids([[1, 11, 21]], num_samples=[9.5]),
            "num_samples must be 1 .* of whole numbers, not of torch.float64",
        ),
        (lambda: lm.Layout("spiral", THREE.spec), "layout must be one of flat, codebook-major, .* not 'spiral'"),
        (
            lambda: lm.Layout("flat", THREE.spec, lm.Vocabulary.build((10, 10))),
            r"the vocabulary is for codebooks of \(10, 10\), but demo has \(10, 10, 10\)",
        ),
        (lambda: lm.Layout("flat", THREE.spec, prefix="bos"), r"named in a tuple, \('bos',\), not 'bos'"),
        (lambda: lm.Layout("flat", THREE.spec, suffix=("end",)), "this vocabulary has no special token 'end', only"),
        (lambda: lm.Layout("delay", THREE.spec, fill=("pad",)), "fill names the special tokens .* two, not"),
        (lambda: lm.Layout("coarse-first", THREE.spec, coarse=4), "demo has 1 to 3 coarse codebooks, not 4"),
        (lambda: lm.Layout("flat", THREE.spec, delays=(0, 0, 0)), "delays belong to the layout 'delay', not to 'flat'"),
        (lambda: lm.Layout("delay", THREE.spec, delays=(0, 1)), "delays must be 3 frame counts of at least 0"),
        (lambda: lm.Layout("delay", THREE.spec, delays=(0, 1, -1)), "delays must be 3 frame counts"),
        (lambda: lm.Layout("delay", THREE.spec, delays=(0, 1, 0.5)), "delays must be 3 frame counts"),
        (
            lambda: lm.Layout("flat", THREE.spec).to_ids(
                dataclasses.replace(THREE, tokens=THREE.tokens.masked_fill(THREE.tokens == 7, 10))
            ),
            r"codebook 1 takes 0 to 9, not 10 \(at \[1, 2\], one of 1\)",
        ),
        (lambda: lm.Layout.from_dict({"name": "flat"}), "this is no audiotok layout: KeyError"),
        (
            lambda: lm.Layout.from_dict(lm.Layout("flat", THREE.spec).to_dict() | {"prefix": 5}),
            "this is no audiotok layout: TypeError",
        ),
        (lambda: lm.pad_ids([], 0), "nothing to pad: wanted at least one sequence of ids"),
        (
            lambda: lm.pad_ids([torch.ones(2), torch.ones(2, 2)], 0),
            r"all be \[L\] or all \[K, L\], not \[\[2\], \[2, 2\]\]",
        ),
        (lambda: lm.pad_ids([torch.ones(2)], 0, side="top"), "side is 'left' or 'right', not 'top'"),
        (
            lambda: lm.Layout("flat", THREE.spec, lm.Vocabulary.build((10,) * 3, special=())).batch([torch.ones(2)]),
            "this vocabulary has no special token 'pad'",
        ),
    ],
)
def test_what_cannot_be_read_is_explained(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_codes_of_another_tokenizer_are_refused():
    layout = lm.Layout("flat", THREE.spec, fingerprint="abc")
    with pytest.raises(CodesMismatchError, match="for demo with codebooks .10, 10, 10., not for demo with .10, 10."):
        layout.to_ids(codes_of([[1], [2]]))
    with pytest.raises(CodesMismatchError, match="for the tokenizer abc, not for def"):
        layout.to_ids(dataclasses.replace(THREE, fingerprint="def"))


def test_names_are_what_they_say():
    assert [lm.Layout(name, THREE.spec).grid for name in lm.LAYOUTS] == [False] * 4 + [True] * 2
    assert repr(lm.Layout("flat", THREE.spec)) == "Layout('flat', demo, K=3, ids=35)"
    assert lm.Layout("flat", THREE.spec) != lm.Layout("codebook-major", THREE.spec)
    assert lm.Layout("flat", THREE.spec) != "flat"
