import copy

import pytest

from audiotok.testing import parity


def test_the_table_shows_the_figures_of_testing(run, model, small, clips, speech):
    wanted = parity(small, speech)
    files = [path for path in clips if path.stem in ("speech_en_1", "speech_fr_2", "speech_it_2")]
    found = run("parity", model, *files, "--json").json
    assert found["tokenizer"] == "logmel-k32x3"
    assert [(way["way"], way["codes"], way["different"]) for way in found["ways"]] == [
        (way.way, way.codes, way.different) for way in wanted
    ]
    ways = {way["way"]: way for way in found["ways"]}
    assert ways.keys() >= {"again", "batch", "padded", "order", "chunked", "saved", "bfloat16"}
    assert ways["padded"] | {"codes": 0} == {
        "way": "padded",
        "codes": 0,
        "different": 0,
        "share": 0.0,
        "allowed": 0.0,
        "passed": True,
    }
    assert found["failed"] == []


def test_the_table_for_people(run, model, clip):
    result = run("parity", model, clip, "--seconds", 1)
    lines = result.text.splitlines()
    assert result.code == 0
    assert lines[0] == "logmel-k32x3, 1 files, 1.0 s"
    assert lines[1].split() == ["way", "codes", "differ", "share", "allowed"]
    assert lines[2].split()[-4:] == ["150", "0", "0.000%", "0.000%"]
    assert lines[8].startswith("bfloat16  with weights in bfloat16")


@pytest.mark.parametrize(("declared", "code"), [(0.0, 1), (1.0, 0)])
def test_1_when_pieces_change_more_than_is_declared(run, small, clips, monkeypatch, declared, code):
    wrong = copy.deepcopy(small)
    wrong.context, wrong.chunk_miss_rate = (0, 0), declared  # looks at less than its window does
    monkeypatch.setattr("audiotok.cli.parity.load_tokenizer", lambda _: wrong)
    result = run("parity", "wrong", *clips[:4])
    assert result.code == code
    assert ("chunked: more codes differ than logmel-k32x3 may change" in result.err) == bool(code)


def test_files_that_cannot_be_read_are_reported(run, model, tree):
    result = run("parity", model, tree, "--seconds", 0.5, "--json")
    assert result.code == 1
    assert len(result.json["failed"]) == 5
    assert all(way["passed"] for way in result.json["ways"])
    result = run("parity", model, tree / "corrupt.wav")
    assert (result.code, "none of the 1 files can be read" in result.err) == (2, True)


def test_wrong_usage_is_2(run, model, clip):
    assert run("parity", model).code == 2
    result = run("parity", model, clip, "--seconds", "0")
    assert (result.code, "wanted seconds above 0, not '0'" in result.err) == (2, True)
    assert run("parity", "nonsense", clip).code == 3
