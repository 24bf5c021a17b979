"""Codes under small changes of the audio: a tokenizer whose changes are known, and the default on speech."""

import json

import pytest
import torch
from torch import Tensor

import audiotok
from audiotok import Spec, Tokenizer
from audiotok.errors import InputError
from audiotok.evaluate.robustness import CodeChanges, code_changes, merge_changes, parity_rows
from audiotok.testing import parity

CHANGES = [
    "shift by 1 sample",
    "shift by 1/8 hop",
    "shift by 1/4 hop",
    "shift by 1/2 hop",
    "noise at 40 dB",
    "noise at 30 dB",
    "gain of -6 dB",
    "gain of -3 dB",
    "gain of +3 dB",
]


class Watcher(Tokenizer):
    """Frames of 16 samples. Codebooks: nothing; the sign of the first sample; its level; the level of the last one."""

    family = "watcher"

    def __init__(self) -> None:
        super().__init__(Spec("watcher", sample_rate=1600, hop_length=16, codebook_sizes=(1, 2, 201, 201)))
        self.seen: list[Tensor] = []

    def _config(self) -> dict[str, object]:
        return {}

    def _encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.extend(wav[:, 0])
        frames = torch.nn.functional.pad(wav[:, 0], (0, -wav.shape[2] % 16)).unflatten(1, (-1, 16))
        first, last = frames[..., 0], frames[..., -1]
        levels = [(100 + 100 * one).round().long() for one in (first, last)]
        return torch.stack([torch.zeros_like(levels[0]), (first > 0).long(), *levels], 1), {}


def staircase(frames: int) -> Tensor:
    """[1, T] of 16 samples of one level, then 16 of another, of alternating signs, up to 0.4."""
    levels = torch.tensor([0.2, -0.4, 0.4, -0.2]).repeat(frames)[:frames]
    return levels.repeat_interleave(16)[None]


def test_shares_are_those_that_the_audio_was_made_for():
    found = {one.change: one for one in code_changes(Watcher(), staircase(41)[:, :-8], key="a")}
    assert list(found) == CHANGES
    for change in CHANGES:
        assert found[change].frames == 40
        assert found[change].shares[0] == 0
        assert found[change].share == sum(found[change].different) / 160
    for change in CHANGES[:4]:  # the first sample of a hop stays on its stair, the last one comes from the next
        assert found[change].different == (0, 0, 0, 40)
    for change in CHANGES[6:]:
        assert found[change].different == (0, 0, 40, 40)
    assert found["noise at 40 dB"].shares[1] == 0
    assert 0 < found["noise at 40 dB"].share < found["noise at 30 dB"].share


def test_the_audio_is_changed_as_it_says():
    tokenizer, wav = Watcher(), staircase(301)
    code_changes(tokenizer, wav, key="a")
    plain, *changed = tokenizer.seen
    samples = wav.shape[1] - 8
    assert torch.equal(plain, wav[0, :samples])
    for shift, row in zip((1, 2, 4, 8), changed[:4], strict=True):
        assert torch.equal(row, wav[0, shift : shift + samples])
    for decibels, row in zip((40, 30), changed[4:6], strict=True):
        noise = row - plain
        ratio = 10 * torch.log10(plain.square().mean() / noise.square().mean())
        assert float(ratio) == pytest.approx(decibels, abs=0.3)
    for decibels, row in zip((-6, -3, 3), changed[6:], strict=True):
        torch.testing.assert_close(row, plain * 10 ** (decibels / 20))


def test_loud_audio_is_brought_down_so_that_gain_does_not_clip():
    tokenizer = Watcher()
    code_changes(tokenizer, 2.5 * staircase(20), key="a")
    assert float(tokenizer.seen[0].abs().max()) == pytest.approx(10 ** (-3 / 20))
    assert float(tokenizer.seen[-1].abs().max()) == pytest.approx(1)


def test_noise_belongs_to_the_item():
    first, again, other = Watcher(), Watcher(), Watcher()
    for tokenizer, key in ((first, "a"), (again, "a"), (other, "b")):
        code_changes(tokenizer, staircase(20), key=key)
    assert torch.equal(first.seen[5], again.seen[5])
    noises = [tokenizer.seen[5] - tokenizer.seen[0] for tokenizer in (first, other)]
    assert abs(float(torch.corrcoef(torch.stack(noises))[0, 1])) < 0.2


def test_silence_is_as_robust_as_can_be():
    found = code_changes(Watcher(), torch.zeros(1, 400), key="a")
    assert sum(sum(one.different) for one in found) == 0


def test_audio_of_another_rate_is_resampled_first():
    tokenizer = Watcher()
    found = code_changes(tokenizer, staircase(40), 800, key="a")
    assert found[0].frames == 80  # 1280 samples less half a hop
    assert len(tokenizer.seen[0]) == 1272


def test_sums_over_items_do_not_depend_on_who_summed():
    items = [code_changes(Watcher(), staircase(frames)[:, :-3], key=str(frames)) for frames in (9, 20, 31)]
    whole = merge_changes(items)
    parts = [merge_changes(items[:1]), merge_changes(items[1:])]
    travelled = [[CodeChanges.from_dict(json.loads(json.dumps(one.to_dict()))) for one in part] for part in parts]
    assert merge_changes(travelled) == whole
    assert [one.change for one in whole] == CHANGES
    assert whole[0].frames == sum(item[0].frames for item in items)
    assert whole[5].different[2] == sum(item[5].different[2] for item in items)


def test_the_default_changes_more_with_larger_shifts_and_noise(speech):
    tokenizer = audiotok.load("logmel-16khz")
    items = [code_changes(tokenizer, wav, key=str(i)) for i, wav in enumerate(speech)]
    shares = {one.change: one.share for one in merge_changes(items)}
    shifts = [shares[change] for change in CHANGES[:4]]
    assert shifts == sorted(shifts)
    assert 0 < shifts[0] < 0.1 < shifts[3] < 1
    assert shares["noise at 40 dB"] < shares["noise at 30 dB"]
    assert shares["gain of -3 dB"] < shares["gain of -6 dB"]


def test_parity_as_rows_says_what_parity_says(speech):
    tokenizer = audiotok.load("logmel-16khz")
    rows = json.loads(json.dumps(parity_rows(tokenizer, speech)))
    wanted = parity(tokenizer, speech)
    assert [(row["way"], row["codes"], row["different"]) for row in rows] == [
        (one.way, one.codes, one.different) for one in wanted
    ]
    assert all(row["passed"] and row["share"] == 0 for row in rows if row["way"] != "bfloat16")
    assert rows[-1] == {**rows[-1], "way": "bfloat16", "allowed": 1.0, "passed": True}
    assert rows[-1]["share"] > 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="24 samples or more, not 23"):
        code_changes(Watcher(), torch.zeros(1, 23), key="a")
    assert len(code_changes(Watcher(), torch.zeros(1, 24), key="a")) == 9
    with pytest.raises(InputError, match="mono audio, not 2 channels"):
        code_changes(Watcher(), torch.zeros(2, 100), key="a")
    with pytest.raises(InputError, match="of 2 codebooks cannot be added to 1"):
        merge_changes([[CodeChanges("x", 1, (0,))], [CodeChanges("x", 1, (0, 0))]])
    with pytest.raises(InputError, match="no changes of codes"):
        CodeChanges.from_dict({"change": "x"})
