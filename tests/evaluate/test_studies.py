"""What a report says of codes is what the studies of codes give."""

from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch

import audiotok
from audiotok.errors import FitError
from audiotok.evaluate import studies
from audiotok.evaluate.code_statistics import CodeStatistics
from audiotok.evaluate.probe_data import LabelledCodes
from audiotok.evaluate.probes import probe
from audiotok.evaluate.report import SystemFacts
from audiotok.evaluate.robustness import code_changes, merge_changes, parity_rows
from audiotok.evaluate.rows import Row, Rows
from audiotok.evaluate.studies import codes_of, study_codes, study_probes, study_robustness
from audiotok.evaluate.token_lm import token_lm
from audiotok.evaluate.work import Setting
from audiotok.sources import Item, open_source


@pytest.fixture
def rows(small, clips, tmp_path):
    """Rows of four clips in a tokenizer with 3 and with 2 codebooks, and in an anchor; with all that leads to them."""
    short = [clip for clip in clips if clip.stem.startswith("speech") and clip.stem != "speech_en_3"][:4]
    source = open_source([{"path": str(clip), "id": clip.stem, "speaker": f"s{i % 2}"} for i, clip in enumerate(short)])
    items = list(source.items())
    facts = [SystemFacts(f"tok:{k}", "", small.fingerprint, small.spec.truncate(k)) for k in (2, 3)]
    facts.append(SystemFacts("opus:6", "", "", None))
    small.save(tmp_path / "tok")
    with closing(Rows(tmp_path)) as rows:
        for item in items:
            wav, codes = source.read(item, 16000, 1), small.encode(source.read(item, 16000, 1))
            for one in facts:
                tokens = codes.tokens[0, : one.spec.num_codebooks].numpy() if one.spec else None
                rows.add(one.key, [Row(item.id, seconds=wav.shape[1] / 16000, bits=1.0, tokens=tokens)])
        yield rows, facts, items, source


@pytest.fixture
def one_thread():
    """Studies are made with one: sums depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_codes_come_back_as_they_were(rows, small):
    kept, facts, items, source = rows
    found = codes_of(kept.row(facts[1].key, items[0].id), facts[1])
    codes = small.encode(source.read(items[0], 16000, 1))
    assert found is not None
    assert torch.equal(found.tokens, codes.tokens)
    assert (found.lengths.tolist(), found.num_samples.tolist()) == (codes.lengths.tolist(), codes.num_samples.tolist())
    assert (found.spec, found.fingerprint) == (codes.spec, codes.fingerprint)
    assert codes_of(kept.row(facts[2].key, items[0].id), facts[2]) is None
    assert codes_of(None, facts[0]) is None


def test_the_statistics_are_of_all_items(rows, small):
    kept, facts, items, source = rows
    wanted = CodeStatistics(small.spec)
    for item in items:
        wanted.add(small.encode(source.read(item, 16000, 1)))
    found = study_codes(kept, facts, items, False)["codes"]
    assert list(found) == ["tok:2", "tok:3"]
    assert found["tok:3"] == {**wanted.summary().to_dict(), "counts": wanted.to_dict()["counts"]}
    assert found["tok:2"]["counts"] == found["tok:3"]["counts"][:2]


def test_without_constriction_there_is_no_adaptive_rate(rows, monkeypatch):
    kept, facts, items, _ = rows
    whole = study_codes(kept, facts, items, False)["codes"]["tok:3"]
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    found = study_codes(kept, facts, items, False)["codes"]["tok:3"]
    assert found == {**whole, "adaptive_bps": None, "adaptive_frames": 0}


def test_robustness_and_parity_are_of_the_widest(rows, small, tmp_path, monkeypatch):
    kept, facts, items, source = rows
    monkeypatch.chdir(tmp_path)
    named = [SystemFacts(one.system.replace("tok", "./tok"), "", one.fingerprint, one.spec) for one in facts]
    setting = Setting(source, tuple(one.system for one in named), 16000, "cpu", 0)
    found = study_robustness(kept, setting, named[:2], items, False)
    wavs = [source.read(item, 16000, 1)[:, : 4 * 16000] for item in items]
    changes = merge_changes(code_changes(small, wav, key=item.id) for wav, item in zip(wavs, items, strict=True))
    assert found["robustness"] == {"./tok:3": [one.to_dict() for one in changes]}
    assert found["parity"] == {"./tok:3": parity_rows(small, [wav[:, : 2 * 16000] for wav in wavs[:3]])}
    monkeypatch.setattr(studies, "code_changes", None)  # what is there is not done again
    assert study_robustness(kept, setting, named[:2], items, False) == found


def test_robustness_is_of_items_from_the_first_to_the_last(rows, tmp_path, monkeypatch):
    kept, facts, _, source = rows
    asked = []
    monkeypatch.setattr(studies, "_robustness", lambda one, setting, items: asked.extend(items) or {"parity": []})
    study_robustness(kept, Setting(source, (), 16000, "cpu", 0), facts, [Item(str(i), "") for i in range(19)], False)
    assert [item.id for item in asked] == ["0", "1", "3", "5", "7", "9", "11", "13", "15", "17"]


def test_items_that_are_too_short_for_it_are_a_reason(rows, tmp_path, monkeypatch):
    kept, facts, items, _ = rows
    monkeypatch.chdir(tmp_path)
    short = open_source([{"path": item.place, "start": 0, "end": 0.03, "id": item.id} for item in items])
    setting = Setting(short, ("./tok",), 16000, "cpu", 0)
    for some in (list(short.items()), []):
        found = study_robustness(kept, setting, [replace(facts[1], system="./tok")], some, False)
        reason = {"./tok": {"reason": f"none of {len(some)} items is as long as two frames, 640 samples"}}
        assert found == {"robustness": reason, "parity": reason}


def test_a_codebook_too_large_for_the_coder_has_statistics(rows):
    kept, facts, items, _ = rows
    whole = study_codes(kept, facts, items, False)["codes"]["tok:3"]
    large = replace(facts[1], spec=replace(facts[1].spec, codebook_sizes=(32, 2**21, 32)))
    found = study_codes(kept, [large], items, False)["codes"]["tok:3"]
    assert (found["adaptive_bps"], found["entropy_bps"]) == (None, whole["entropy_bps"])


def test_an_item_that_could_be_coded_after_all_is_learnt_from(rows, monkeypatch):
    kept, facts, items, _ = rows
    lengths = []
    monkeypatch.setattr(studies, "token_lm", lambda codes: lengths.append(len(codes)) or token_lm(codes, steps=1))
    later = kept.row(facts[0].key, items[0].id)
    with kept._transaction():
        kept._base.execute("DELETE FROM rows WHERE system = ? AND item = ?", (facts[0].key, items[0].id))
    kept.add(facts[0].key, [Row(items[0].id, not_coded="out of memory")])
    for _ in range(2):
        study_probes(kept, facts[:1], items, ["lm"], {}, False)
    kept.add(facts[0].key, [later])
    for _ in range(2):
        study_probes(kept, facts[:1], items, ["lm"], {}, False)
    assert lengths == [3, 4]


@pytest.mark.usefixtures("one_thread")
def test_probes_learn_from_the_codes_of_each_tokenizer(rows, small, monkeypatch):
    kept, facts, items, source = rows
    quick = {"lm": partial(token_lm, steps=2, seeds=(0,)), "probe": partial(probe, steps=2, seeds=(0,))}
    monkeypatch.setattr(studies, "token_lm", quick["lm"])
    monkeypatch.setattr(studies, "probe", quick["probe"])
    found = study_probes(
        kept, facts, items, ["lm", "speaker", "speaker/kind"], {"kind": "(speech|music|effect)"}, False
    )
    assert list(found) == ["probe lm", "probe speaker", "probe speaker/kind"]
    assert all(list(some) == ["tok:2", "tok:3"] for some in found.values())
    codes = [small.encode(source.read(item, 16000, 1)) for item in items]
    assert found["probe lm"]["tok:3"] == quick["lm"](codes).to_dict()
    labelled = [
        LabelledCodes(one, {"speaker": item.columns["speaker"]}) for one, item in zip(codes, items, strict=True)
    ]
    numbers = found["probe speaker"]["tok:3"]
    assert numbers == quick["probe"](labelled, "speaker").to_dict()
    assert "two values of 'kind'" in found["probe speaker/kind"]["tok:3"]["reason"]  # all clips are speech


def test_a_study_that_fails_is_a_reason_and_tried_again(rows, monkeypatch):
    kept, facts, items, _ = rows
    tried = []

    def failing(codes):
        tried.append(len(codes))
        raise FitError("too\nlittle")

    monkeypatch.setattr(studies, "token_lm", failing)
    threads = torch.get_num_threads()
    for _ in range(2):
        assert study_probes(kept, facts[:1], items, ["lm"], {}, False) == {
            "probe lm": {"tok:2": {"reason": "too little"}}
        }
    assert tried == [4, 4]
    assert torch.get_num_threads() == threads


def test_tokens_of_large_codebooks_fit_in_a_row(rows):
    kept, _, items, source = rows
    default = audiotok.load()
    codes = default.encode(source.read(items[0], 16000, 1))
    one = SystemFacts("default", "", default.fingerprint, default.spec)
    kept.add(one.key, [Row("x", seconds=1.0, tokens=codes.tokens[0].numpy())])
    found = codes_of(kept.row(one.key, "x"), one)
    assert found is not None
    assert torch.equal(found.tokens, codes.tokens)
