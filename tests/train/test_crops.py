"""Crops of audio: what they are pieces of, what their draw depends on, domains, augmentation, bad files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import audiotok
from audiotok.errors import FitError, InputError
from audiotok.sources import open_source
from audiotok.train.crops import Augmentation, Crops
from audiotok.train.pool import Pool, hold_out, spread

AUDIO = Path(__file__).parents[1] / "data" / "audio"
SPEECH = sorted(AUDIO.glob("speech_*.flac"))


def pool_of(source, **options):
    opened = open_source(source)
    return Pool(opened, list(opened.items()), sample_rate=16000, **options)


def write(folder, **rows):
    """A manifest of files with these samples; the domain is the name up to "_"."""
    lines = []
    for name, samples in rows.items():
        audiotok.audio.save(folder / f"{name}.wav", torch.as_tensor(samples, dtype=torch.float32), 16000)
        lines.append(f'{{"path": "{name}.wav", "domain": "{name.split("_")[0]}"}}\n')
    (folder / "items.jsonl").write_text("".join(lines))
    return str(folder / "items.jsonl")


@pytest.fixture(scope="module")
def pool():
    return pool_of(SPEECH)


def test_crops_are_pieces_of_the_audio_bit_for_bit(pool):
    wav = Crops(pool, samples=4000, seed=0).draw(3, 6)
    assert (wav.shape, wav.dtype) == ((6, 1, 4000), torch.float32)
    whole = [audiotok.audio.load(path)[0][0] for path in SPEECH]
    for row in wav[:, 0]:
        assert any(bool((one.unfold(0, 4000, 1)[:, :2] == row[:2]).all(1).any()) for one in whole)
        found = [one for one in whole for at in _places(one, row) if torch.equal(one[at : at + 4000], row)]
        assert found


def _places(whole, row):
    return (whole[: len(whole) - 3999] == row[0]).nonzero()[:, 0].tolist()


def test_draws_depend_on_seed_step_process_and_row_alone(pool):
    augmentation = Augmentation((-6, 6), 0.5)
    one = Crops(pool, samples=4000, seed=0, augmentation=augmentation)
    other = Crops(pool_of(SPEECH), samples=4000, seed=0, augmentation=augmentation)
    one.draw(0, 5)
    assert torch.equal(one.draw(7, 4), other.draw(7, 4))
    assert torch.equal(one.draw(7, 4)[:2], other.draw(7, 2))
    again = [other.draw(8, 4), other.draw(7, 4, process=1), Crops(pool, samples=4000, seed=1).draw(7, 4)]
    assert not any(torch.equal(one.draw(7, 4), wav) for wav in again)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_does_not_fit_into_memory_is_read_from_disk_and_is_the_same(pool, num_workers):
    on_disk = pool_of(SPEECH, memory_bytes=1000, num_workers=num_workers)
    assert (pool.in_memory, on_disk.in_memory) == (True, False)
    augmentation = Augmentation((-6, 6), 0.5)
    in_memory, from_disk = (Crops(one, samples=4000, seed=0, augmentation=augmentation) for one in (pool, on_disk))
    for batches in (in_memory.batches(range(5, 9), 3), from_disk.batches(range(5, 9), 3)):
        found = list(batches)
        assert len(found) == 4
        assert all(torch.equal(one.wav, in_memory.draw(step, 3)) for step, one in zip(range(5, 9), found, strict=True))


def test_every_second_is_as_likely_as_any_other(tmp_path):
    source = write(tmp_path, a_1=[0.1] * 3000, a_2=[0.2] * 9000)
    crops = Crops(pool_of(source), samples=100, seed=0)
    values = torch.cat([crops.draw(step, 50)[:, 0, 0] for step in range(40)])
    assert abs(float((values > 0.15).float().mean()) - 0.75) < 0.04  # four standard deviations
    assert crops.seconds == pytest.approx(0.75)


def test_domains_have_their_shares_whatever_their_length(tmp_path):
    source = write(tmp_path, speech_1=[0.1] * 9000, music_1=[0.2] * 2000, noise_1=[0.4] * 8000)
    crops = Crops(pool_of(source), samples=100, seed=0, weights={"music": 3, "speech": 1})
    values = torch.cat([crops.draw(step, 50)[:, 0, 0] for step in range(40)])
    shares = [float(((values - level).abs() < 0.01).float().mean()) for level in (0.1, 0.2, 0.4)]
    assert shares == pytest.approx([0.25, 0.75, 0.0], abs=0.04)


@pytest.mark.parametrize(
    ("padding", "expected"), [("repeat", [1, 2, 3, 1, 2, 3, 1]), ("mirror", [1, 2, 3, 3, 2, 1, 1])]
)
def test_short_items_are_repeated_or_mirrored_from_a_random_place(tmp_path, padding, expected):
    source = write(tmp_path, a=np.array([1, 2, 3]) / 8)
    crops = Crops(pool_of(source), samples=7, seed=0, padding=padding)
    period = expected[:3] if padding == "repeat" else expected[:6]
    rows = {tuple((8 * row).round().int().tolist()) for row in crops.draw(0, 64)[:, 0]}
    wanted = {tuple(period[(first + i) % len(period)] for i in range(7)) for first in range(3)}
    assert rows == wanted
    assert tuple(expected) in rows


def test_a_gain_is_drawn_for_each_crop_and_nothing_exceeds_full_scale(tmp_path):
    source = write(tmp_path, a=[0.25] * 1000)
    crops = Crops(pool_of(source), samples=10, seed=0, augmentation=Augmentation(gain_db=(-6.0, 6.0)))
    decibels = 20 * torch.log10(crops.draw(0, 400)[:, 0, 0] / 0.25)
    assert (float(decibels.min()), float(decibels.max())) == pytest.approx((-6, 6), abs=0.2)
    assert abs(float(decibels.mean())) < 0.7
    loud = Crops(pool_of(source), samples=10, seed=0, augmentation=Augmentation(gain_db=(20.0, 20.0)))
    assert torch.equal(loud.draw(0, 4), torch.ones(4, 1, 10))


def test_crops_are_mixed_at_a_ratio(tmp_path):
    waves = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]).repeat(1, 1000)  # orthogonal
    source = write(tmp_path, a=0.1 * waves[0], b=0.05 * waves[1])
    crops = Crops(pool_of(source), samples=4000, seed=0, augmentation=Augmentation(mix=0.75, mix_snr_db=(10, 10)))
    shares = (crops.draw(0, 200)[:, 0] @ waves.T / 4000).abs()  # [rows, 2]
    mixed = shares[(shares > 1e-3).all(1)]
    assert abs(len(mixed) / 200 - 0.75 / 2) < 0.14  # half of what is mixed is mixed with itself
    ratios = 20 * torch.log10(mixed[:, 0] / mixed[:, 1])
    assert ratios.abs().tolist() == pytest.approx([10] * len(mixed), abs=0.05)
    assert {0.1, 0.05} == {round(float(row.max()), 3) for row in mixed}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_packed_samples_are_those_of_the_file(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("packed")
    samples = np.array(values) / 32768
    source = write(folder, a=samples)
    read = pool_of(source).read(0, 0, len(values))
    assert torch.equal(torch.from_numpy(read), audiotok.audio.load(folder / "a.wav")[0][0])


def test_a_bad_file_is_left_out_and_listed(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    pool = pool_of([*SPEECH[:2], tmp_path / "bad.wav"])
    assert len(pool.items) == 2
    assert len(pool.failed) == 1
    assert "bad.wav: cannot read" in pool.failed[0]
    with pytest.raises(FitError, match="none of 1 items of .* can be used: .*bad.wav"):
        pool_of([tmp_path / "bad.wav"])


@pytest.mark.parametrize("memory_bytes", [10, 1 << 20])
def test_a_file_shorter_than_a_sample_is_listed_too(tmp_path, memory_bytes):
    audiotok.audio.save(tmp_path / "click.wav", torch.ones(1, 1), 48000)  # a third of one at 16 kHz
    pool = pool_of([tmp_path / "click.wav", SPEECH[0]], memory_bytes=memory_bytes)
    assert [Path(item.id).name for item in pool.items] == [SPEECH[0].name]
    assert len(pool.failed) == 1
    assert "click.wav: " in pool.failed[0]


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_lengths_are_the_same_whether_audio_is_decoded_or_not(tmp_path, rate):
    for count in range(20):
        audiotok.audio.save(tmp_path / f"{count:02d}.wav", torch.zeros(2, rate // 2 + count), rate)
    decoded, stated = pool_of(tmp_path), pool_of(tmp_path, memory_bytes=10)
    assert decoded.lengths.tolist() == stated.lengths.tolist()


def test_a_file_that_goes_bad_on_disk_is_replaced_by_another_draw(tmp_path):
    source = write(tmp_path, a_1=[0.1] * 3000, a_2=[0.2] * 3000)
    pool = pool_of(source, memory_bytes=10)
    data = (tmp_path / "a_1.wav").read_bytes()
    (tmp_path / "a_1.wav").write_bytes(data[:100])  # its header is whole, so its length was known
    crops = Crops(pool, samples=100, seed=0)
    good = audiotok.audio.load(tmp_path / "a_2.wav")[0][None, :, :100].repeat(16, 1, 1)
    for wav in (crops.draw(0, 16), *(drawn.wav for drawn in crops.batches(range(0, 1), 16))):
        assert torch.equal(wav, good)
    assert [reason.split(":")[0] for reason in pool.failed] == ["a_1.wav"]
    (tmp_path / "a_2.wav").write_bytes(data[:100])
    with pytest.raises(FitError, match="items drawn one after the other cannot be read"):
        crops.draw(0, 16)


def test_a_few_items_are_held_out_and_never_drawn(tmp_path):
    pool = pool_of(write(tmp_path, **{f"a_{i}": [i / 16] * 300 for i in range(10)}))
    held_out = hold_out(pool.items, 0, share=0.3)
    assert len({item.id for item in held_out}) == 3
    assert hold_out(pool.items, 0, share=0.3) == held_out != hold_out(pool.items, 1, share=0.3)
    assert len(hold_out(pool.items, 0)) == 1
    assert hold_out(pool.items[:4], 0) == []
    names = {item.id for item in held_out}
    crops = Crops(pool, samples=100, seed=0, held_out=names)
    drawn = {f"a_{round(16 * value)}.wav" for value in crops.draw(0, 200)[:, 0, 0].tolist()}
    assert drawn == {item.id for item in pool.items} - names
    assert crops.seconds == pytest.approx(7 * 300 / 16000)


def test_items_are_chosen_from_all_domains(tmp_path):
    source = open_source(write(tmp_path, **{f"{name}_{i}": [0.1] for name in "ab" for i in range(9)}, c_0=[0.1]))
    chosen = spread(list(source.items()), 7, 0, column="domain")
    assert sorted(item.columns["domain"] for item in chosen) == ["a", "a", "a", "b", "b", "b", "c"]
    assert len({item.id for item in chosen}) == 7
    assert spread([], 7, 0, column="domain") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"speech": 1}}, "no item has domain 'speech'; found: no such column"),
        ({"weights": {}}, "weights of domains must be above 0"),
        ({"weights": {"a": -1}}, "weights of domains must be above 0"),
        ({"padding": "zero"}, "padding must be 'repeat' or 'mirror', not 'zero'"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(pool, options, message):
    with pytest.raises(InputError, match=message):
        Crops(pool, **{"samples": 100, "seed": 0, **options})


def test_augmentation_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"gain_db must be a lowest and a highest number, not \(3, 1\)"):
        Augmentation(gain_db=(3, 1))
    with pytest.raises(InputError, match="mix_snr_db must be a lowest and a highest number, not 5"):
        Augmentation(mix_snr_db=5)
    with pytest.raises(InputError, match="mix is a probability from 0 to 1, not 2"):
        Augmentation(mix=2)
