"""Which items are evaluated, and what is kept of them."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from audiotok.errors import CheckpointError, InputError
from audiotok.evaluate.choosing import choose, choose_examples, label_of
from audiotok.evaluate.rows import FILE, Row, Rows
from audiotok.sources import Item, open_source

ROWS = [
    {"path": f"{name}.flac", "domain": domain, "language": language, "duration": seconds}
    for name, domain, language, seconds in (
        ("a", "speech", "en", 1.0),
        ("b", "speech", "fr", 2.0),
        ("c", "music", None, 3.0),
        ("d", "speech", "it", 4.0),
        ("e", "audio", None, 5.0),
    )
]


def chosen(where=None, longer_than=0.0, limit=None, seed=0, rows=ROWS):
    found = choose(open_source(rows), where or {}, longer_than=longer_than, limit=limit, seed=seed)
    return "".join(item.id.removesuffix(".flac") for item in found)


def test_items_are_chosen_by_columns_and_length():
    assert chosen() == "abcde"
    assert chosen({"domain": "speech"}) == "abd"
    assert chosen({"domain": "speech", "language": ["it", "en"]}) == "ad"
    assert chosen(longer_than=2.0) == "cde"
    assert chosen({"domain": ["speech", "music"]}, longer_than=1.5) == "bcd"


def test_an_item_whose_length_nobody_knows_is_read_to_say_why():
    assert chosen(longer_than=100.0, rows=[*ROWS, {"path": "missing.flac", "domain": "speech"}]) == "missing"


def test_a_sample_is_in_order_and_the_same_for_a_seed():
    some = chosen(limit=3)
    assert some == "".join(sorted(some)) == chosen(limit=3)
    assert len(some) == 3
    assert len({chosen(limit=3, seed=seed) for seed in range(20)}) > 5
    assert chosen(limit=5) == chosen(limit=9) == "abcde"
    counts = {name: sum(name in chosen(limit=2, seed=seed) for seed in range(200)) for name in "abcde"}
    assert all(50 < count < 110 for count in counts.values())  # 80 on the average, with a deviation of 7


def test_what_is_listed_twice_is_one_item_unless_it_differs():
    assert chosen(rows=[*ROWS, dict(ROWS[0])]) == "abcde"
    with pytest.raises(InputError, match="two items called 'a.flac': give each an id of its own"):
        chosen(rows=[*ROWS, {**ROWS[0], "language": "ru"}])


def test_examples_are_of_each_group_in_turn():
    items = [Item(f"{domain}{i}", "", columns={"domain": domain}) for domain in ("speech", "music") for i in range(9)]
    items.append(Item("odd", ""))
    found = choose_examples(items, "domain", 5, seed=0)
    assert [label_of(item, "domain") for item in found] == ["speech", "music", "all", "speech", "music"]
    assert len({item.id for item in found}) == 5
    assert choose_examples(items, "domain", 0, seed=0) == []
    assert choose_examples([], "domain", 3, seed=0) == []


def test_a_row_comes_back_as_it_was(tmp_path):
    tokens = np.array([[0, 1, 70_000], [3, 2, 1]])
    row = Row("a", "", "", 1.5, 12.0, 0.25, 0.5, {"stoi": 0.1 + 0.2, "snr": float("inf")}, {"sdr": "why"}, tokens, b"f")
    with closing(Rows(tmp_path)) as rows:
        rows.add("x 1", [row])
        rows.add("y", [Row("a", not_coded="broken")])
    with closing(Rows(tmp_path)) as rows:
        found = rows.row("x 1", "a")
        assert found is not None
        assert np.array_equal(found.tokens, tokens)
        assert {**vars(found), "tokens": 0} == {**vars(row), "tokens": 0}
        assert rows.of("x 1")["a"].values == row.values
        assert rows.of("x 1")["a"].flac is None
        assert rows.with_audio("x 1") == {"a"}
        assert rows.of("y")["a"].not_coded == "broken"
        assert rows.row("x", "a") is None


def test_values_are_added_to_a_row_and_not_lost(tmp_path):
    tokens = np.array([[1, 2]])
    with closing(Rows(tmp_path)) as rows:
        rows.add("x", [Row("a", unreadable="away")])
        rows.add(
            "x", [Row("a", seconds=1.0, values={"stoi": 0.5}, reasons={"pesq_wb": "no"}, tokens=tokens, flac=b"1")]
        )
        rows.add(
            "x", [Row("a", seconds=1.0, values={"pesq_wb": 2.0, "stoi": 0.5}, reasons={"snr": "no"}, tokens=tokens)]
        )
        found = rows.row("x", "a")
    assert found is not None
    assert (found.unreadable, found.seconds, found.flac) == ("", 1.0, b"1")
    assert np.array_equal(found.tokens, tokens)
    assert found.values == {"stoi": 0.5, "pesq_wb": 2.0}
    assert found.reasons == {"snr": "no"}


@pytest.mark.parametrize("failure", [{"unreadable": "away"}, {"not_coded": "no memory"}])
def test_what_fails_later_says_so_beside_what_there_was_until_it_succeeds(tmp_path, failure):
    coded = Row("a", seconds=1.0, bits=8.0, values={"stoi": 0.5}, tokens=np.array([[1, 2]]), flac=b"1")
    with closing(Rows(tmp_path)) as rows:
        rows.add("x", [coded])
        rows.add("x", [Row("a", **failure)])
        found = rows.row("x", "a")
        rows.add("x", [Row("a", seconds=1.0, bits=8.0, values={"snr": 9.0})])
        again = rows.row("x", "a")
    assert found is not None
    assert {**vars(found), "tokens": 0} == {**vars(coded), **failure, "tokens": 0}
    assert again is not None
    assert (again.unreadable, again.not_coded, again.values) == ("", "", {"stoi": 0.5, "snr": 9.0})


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"something else, of some length" * 100)
    with pytest.raises(CheckpointError, match="holds no rows of an evaluation, or is broken"):
        Rows(tmp_path)


def test_a_file_that_cannot_be_opened_says_so(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(OSError, match=f"cannot open .*{FILE}: unable to open database file"):
        Rows(tmp_path)


def test_facts_and_studies_are_json(tmp_path):
    with closing(Rows(tmp_path)) as rows:
        rows.set_fact("run", {"seed": 1})
        rows.add_study("x", "cost", {"memory": None})
    with closing(Rows(tmp_path)) as rows:
        assert (rows.fact("run"), rows.fact("walk")) == ({"seed": 1}, None)
        assert (rows.study("x", "cost"), rows.study("y", "cost")) == ({"memory": None}, None)
    with closing(sqlite3.connect(tmp_path / FILE)) as base:
        assert json.loads(base.execute("SELECT value FROM facts").fetchone()[0]) == {"seed": 1}
