"""Probes of tokens that carry a label, of tokens that do not, and of real audio."""

import json
import random
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok import Codes, Spec
from audiotok.errors import InputError
from audiotok.evaluate.probe_data import LabelledCodes, split_items, with_label
from audiotok.evaluate.probes import probe

SPEC = Spec("demo", sample_rate=1000, hop_length=50, codebook_sizes=(2**30, 40))  # 20 frames per second


def item(tokens: torch.Tensor, **labels: object) -> LabelledCodes:
    """Of tokens [2, F]."""
    frames = torch.tensor([tokens.shape[1]])
    return LabelledCodes(Codes(tokens[None], frames, 50 * frames, SPEC), labels)


def telling_items(count: int, seed: int = 0) -> list[LabelledCodes]:
    """20 to 40 frames. One frame in four of codebook 0 is the label's own, anything else is noise."""
    draw, items = torch.Generator().manual_seed(seed), []
    for i in range(count):
        frames = 20 + i % 21
        label = i % 5
        noise = torch.randint(0, 40, (2, frames), generator=draw)
        noise[0, i % 4 :: 4] = 2**29 + label
        items.append(item(noise, speaker=f"voice {label}", other=int(torch.randint(0, 5, (), generator=draw))))
    return items


def test_tokens_that_carry_the_label_tell_it():
    found = probe(telling_items(150), "speaker", steps=100)
    assert found.accuracies == (1.0, 1.0, 1.0)
    assert (found.mean, found.deviation) == (1.0, 0.0)
    assert (found.classes, found.train_items, found.held_out_items) == (5, 110, 40)
    assert found.chance == pytest.approx(0.2)


def test_the_order_of_tokens_tells_what_their_number_does_not():
    draw, items = torch.Generator().manual_seed(0), []
    for i in range(160):  # 0 1 2 over and over, or 0 2 1
        tokens = torch.randint(0, 40, (2, 30), generator=draw)
        tokens[0] = torch.tensor((0, 1, 2) if i % 2 else (0, 2, 1)).repeat(10).roll(i % 3)
        items.append(item(tokens, language="ab"[i % 2]))
    assert probe(items, "language", seeds=(0,), steps=60).accuracies == (1.0,)


def test_labels_given_at_random_are_told_by_chance():
    found = probe(telling_items(400, seed=1), "other", seeds=(0, 1), steps=60)
    assert found.chance == pytest.approx(0.2, abs=0.03)
    # 200 held-out items: within three standard deviations of a fifth
    assert found.mean == pytest.approx(0.2, abs=0.085)


def test_a_language_told_by_its_speakers_is_not_told_of_other_speakers():
    items, draw = [], random.Random(0)
    for i in range(160):
        speaker = i % 8
        tokens = torch.tensor([[100 + speaker] * 25, [draw.randrange(40) for _ in range(25)]])
        items.append(item(tokens, language="abcd"[speaker % 4], speaker=speaker))
    assert probe(items, "language", seeds=(0,), steps=60).mean == 1
    by_speaker = probe(items, "language", group="speaker", seeds=(0, 1), steps=60)
    assert by_speaker.group == "speaker"
    assert (by_speaker.classes, by_speaker.train_items, by_speaker.held_out_items) == (4, 80, 80)
    assert by_speaker.mean < 0.6


def test_the_same_seeds_give_the_same_result():
    items, state = telling_items(60), torch.random.get_rng_state()
    found = probe(items, "other", seeds=(3, 4), steps=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert probe(items, "other", seeds=(3, 4), steps=20) == found
    assert probe(items, "other", seeds=(4,), steps=20).accuracies == found.accuracies[1:]
    assert found.deviation == statistics.stdev(found.accuracies)
    document = json.loads(json.dumps(found.to_dict()))
    assert (document["mean"], document["accuracies"]) == (found.mean, list(found.accuracies))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), min_size=8, max_size=40),
    st.sampled_from([None, "group"]),
    st.integers(0, 99),
    st.integers(2, 9),
    st.floats(0.01, 0.99),
)
def test_splits_are_fair(facts, group, seed, per_label, held_out):
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    items = [
        item(tokens, number=i, label=label if known else None, group=which)
        for i, (label, which, known) in enumerate(facts)
    ]
    try:
        split = split_items(items, "label", group=group, seed=seed, held_out=held_out, per_label=per_label)
    except InputError:
        kinds = {(label, which if group else i) for i, (label, which, known) in enumerate(facts) if known}
        assert sum(len([kind for kind in kinds if kind[0] == label]) > 1 for label in "abc") < 2
        return
    sides = [[one.labels for one, _ in side] for side in (split.train, split.held_out)]
    numbers = [labels["number"] for side in sides for labels in side]
    assert len(set(numbers)) == len(numbers)
    assert {labels["label"] for labels in sides[0]} == set(split.names)
    assert all(split.names[number] == one.labels["label"] for one, number in (*split.train, *split.held_out))
    if group:
        assert not {labels["group"] for labels in sides[0]} & {labels["group"] for labels in sides[1]}
        assert sides[1]
    else:
        assert {labels["label"] for labels in sides[1]} == set(split.names)
        assert all(
            sum(labels["label"] == name for side in sides for labels in side) <= per_label for name in split.names
        )


def test_no_label_loses_its_last_group_to_the_other_side():
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    items = [
        item(tokens, label=label, room=room)
        for label, rooms in (("a", "12"), ("b", "23"), ("c", "31"))
        for room in rooms
    ]
    for seed in range(6):
        split = split_items(items, "label", group="room", seed=seed, held_out=0.5, per_label=9)
        assert {one.labels["label"] for one, _ in split.train} == {"a", "b", "c"}
        assert len({one.labels["room"] for one, _ in split.held_out}) == 1


def test_chance_is_that_of_the_most_frequent_label():
    items = [item(torch.zeros(2, 1, dtype=torch.int64), label=label) for label in "aaaaaaaabbbb"]
    split = split_items(items, "label", group=None, seed=0, held_out=0.25, per_label=60)
    assert [number for _, number in split.held_out] == [0, 0, 1]
    assert split.chance == 2 / 3


def test_an_empty_label_is_none_and_equal_texts_are_one_group():
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    items = [item(tokens, label=label, room=room) for label in ("a", "b", "", None) for room in (1, "1", ["x"], "", 2)]
    split = split_items(items, "label", group=None, seed=0, held_out=0.5, per_label=9)
    assert split.names == ("a", "b")
    split = split_items(items, "label", group="room", seed=0, held_out=0.5, per_label=9)
    sides = [{str(one.labels["room"]) for one, _ in side} for side in (split.train, split.held_out)]
    assert sides[0] | sides[1] == {"1", "['x']", "2"}
    assert not sides[0] & sides[1]


def test_an_item_without_frames_is_left_out():
    items = telling_items(40)
    empty = [item(torch.zeros(2, 0, dtype=torch.int64), **one.labels) for one in items[:20]]
    assert probe([*items, *empty], "speaker", seeds=(0,), steps=5) == probe(items, "speaker", seeds=(0,), steps=5)


def test_labels_are_found_in_paths():
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    paths = ("en/phonetic/a_p.wav", "it/phonetic/ICAO/B_p.wav", "it/phonetic/b_p.wav", "x.wav", None)
    items = [item(tokens, path=path) for path in paths]
    found = with_label(items, "word", r"en/phonetic/(\w)_p|ICAO/(\w)_p")
    assert [one.labels.get("word") for one in found] == ["a", "b", None, None, None]
    assert found[0].codes is items[0].codes
    with pytest.raises(InputError, match="no group"):
        with_label(items, "word", r"phonetic")
    with pytest.raises(InputError, match="no regular expression"):
        with_label(items, "word", r"(")


def test_the_default_tells_recordings_apart(clips):
    tokenizer, items = audiotok.load("logmel-16khz"), []
    for path in clips:
        codes = tokenizer.encode_file(path)
        halves = range(int(codes.num_samples[0]) // 8000)
        items += [LabelledCodes(codes.slice(t / 2, t / 2 + 0.5), {"path": path.name}) for t in halves]
    found = probe(items, "path", seeds=(0, 1), steps=100, per_label=8)
    assert found.classes == 14
    assert found.chance < 0.15
    assert found.mean > 0.4


def test_what_cannot_be_probed_is_refused():
    items = telling_items(10)
    with pytest.raises(InputError, match=r"probe of 'speaker' wants two labels of two items each or more, found \[\]"):
        probe(items[:5], "speaker")
    with pytest.raises(InputError, match="two values of 'other' each"):
        probe(items[:1] * 9, "speaker", group="other")
    with pytest.raises(InputError, match="wants two labels"):
        probe(items, "nothing")
    for wrong in ({"seeds": ()}, {"steps": 0}, {"held_out": 1.0}, {"per_label": 1}):
        with pytest.raises(InputError, match="a probe wants seeds, at least 1 step"):
            probe(items, "speaker", **wrong)
