"""A tokenizer that remembers: exactly the codes of the one that does not."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

import audiotok
from audiotok import Codes, Tokenizer
from audiotok.checkpoint import CheckpointWriteError
from audiotok.dataset.cache import CachedTokenizer
from audiotok.errors import InputError

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECOND = 1_800 + 8 * (50 * 8 + 2)  # bytes that a second of the default tokenizer takes


def clips_of(channels: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(channels, size, generator=draw) for size in (16000, 9000, 700, 48000, 1)]


@pytest.fixture(scope="module", params=["default", "codec", "codec with extras"])
def tok(request) -> Tokenizer:
    """Treat as read-only."""
    folder = FIXTURES / "encodec-native"
    if request.param == "default":
        return audiotok.load()
    return audiotok.convert(
        "encodec", folder / ("24k-mono-causal" if request.param == "codec" else "48k-stereo-chunked")
    )


@pytest.fixture(scope="module")
def default() -> Tokenizer:
    """Treat as read-only."""
    return audiotok.load()


def check_same(found: Codes, wanted: Codes) -> None:
    assert (found.spec, found.fingerprint, found.extras.keys()) == (
        wanted.spec,
        wanted.fingerprint,
        wanted.extras.keys(),
    )
    for name in ("tokens", "lengths", "num_samples"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    for name, value in wanted.extras.items():
        assert found.extras[name].dtype == value.dtype
        assert torch.equal(found.extras[name], value)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4),
    max_bytes=st.sampled_from([0, 5_000, 1 << 20]),
    on_disk=st.booleans(),
)
def test_in_any_order_of_hits_and_misses_the_codes_are_the_tokenizers_own(
    tok, tmp_path_factory, batches, max_bytes, on_disk
):
    clips = clips_of(tok.spec.channels)
    folder = tmp_path_factory.mktemp("cache") if on_disk or max_bytes == 0 else None
    cached = CachedTokenizer(tok, max_bytes=max_bytes, folder=folder)
    for batch in batches:
        check_same(cached.encode([clips[i] for i in batch]), tok.encode([clips[i] for i in batch]))
    assert cached.hits + cached.misses == sum(map(len, batches))
    if folder is not None or max_bytes == 1 << 20:
        assert cached.misses == len({i for batch in batches for i in batch})


def test_only_misses_are_encoded_and_in_one_call(default, speech, monkeypatch):
    calls = []
    inner = Tokenizer.encode_rows
    monkeypatch.setattr(default, "encode_rows", lambda rows: calls.append(len(rows)) or inner(default, rows))
    cached = CachedTokenizer(default)
    cached.encode(speech[:1])
    cached.encode([speech[1], speech[0], speech[2], speech[1]])
    cached.encode(speech)
    assert calls == [1, 2]
    assert (cached.hits, cached.misses) == (5, 3)


def test_a_changed_result_does_not_change_what_is_kept(default, speech):
    cached = CachedTokenizer(default)
    for _ in range(3):
        codes = cached.encode(speech)
        check_same(codes, default.encode(speech))
        codes.tokens.fill_(-100)
        codes.num_samples.zero_()


def test_the_same_samples_are_the_same_clip_however_they_come(default, speech):
    whole = (speech[0] * 32768).round().to(torch.int16)
    cached = CachedTokenizer(default)
    codes = cached.encode(whole)
    padded = torch.cat([whole / 32768, torch.ones(1, 99)], dim=1)
    check_same(cached.encode(whole.numpy()), codes)
    check_same(cached.encode(whole[0].double() / 32768), codes)
    check_same(cached.encode(padded[None], lengths=[whole.shape[1]]), codes)
    assert (cached.hits, cached.misses) == (3, 1)
    check_same(cached.encode(padded), default.encode(padded))
    check_same(cached.encode(whole, sample_rate=8000), default.encode(whole, sample_rate=8000))
    assert (cached.hits, cached.misses) == (3, 3)


def test_what_changes_the_tokens_changes_the_key(speech, tmp_path):
    tok = audiotok.load()
    cached = CachedTokenizer(tok, folder=tmp_path)

    def is_hit() -> bool:
        before = cached.hits
        check_same(cached.encode(speech[:1]), tok.encode(speech[:1]))
        return cached.hits > before

    assert [is_hit(), is_hit()] == [False, True]
    tok.use_codebooks(2)
    assert [is_hit(), is_hit()] == [False, True]
    tok.half()
    assert [is_hit(), is_hit()] == [False, True]
    tok.float()
    tok.chunk_seconds = 0.5
    assert [is_hit(), is_hit()] == [False, True]
    tok.load_state_dict({name: value + 0.1 for name, value in tok.state_dict().items()})
    assert [is_hit(), is_hit()] == [False, True]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {audiotok.load().fingerprint, tok.fingerprint}


def test_codes_from_the_cache_bear_the_present_name(default, speech, tmp_path):
    CachedTokenizer(default, folder=tmp_path / "cache").encode(speech)
    default.save(tmp_path / "saved")
    renamed = (tmp_path / "saved" / "config.json").read_text().replace(f'"{default.spec.name}"', '"mine"')
    (tmp_path / "saved" / "config.json").write_text(renamed)
    mine = audiotok.load(tmp_path / "saved")
    cached = CachedTokenizer(mine, folder=tmp_path / "cache")
    check_same(cached.encode(speech), mine.encode(speech))
    assert cached.encode(speech).spec.name == "mine"
    assert cached.misses == 0


def test_memory_holds_what_its_budget_allows_and_forgets_the_least_recently_used(default):
    clips = [0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    cached = CachedTokenizer(default, max_bytes=2 * SECOND)

    def misses(*batch: int) -> int:
        before = cached.misses
        cached.encode(torch.stack([clips[i] for i in batch]))
        return cached.misses - before

    assert [misses(0), misses(1), misses(0), misses(2)] == [1, 1, 0, 1]  # 1 was used before 0
    assert [misses(0), misses(2), misses(1)] == [0, 0, 1]
    assert misses(0, 2) == 1  # 0 went
    small = CachedTokenizer(default, max_bytes=2 * SECOND - 1)
    for i in (0, 1, 0):
        small.encode(clips[i])
    assert small.misses == 3


def test_what_is_kept_is_no_part_of_a_larger_tensor():
    tok = audiotok.load()
    tok.row_by_row = False  # rows share a call, and their tokens its result
    cached = CachedTokenizer(tok)
    cached.encode(torch.stack([clips_of(1)[0], clips_of(1)[0] / 2]))
    kept = list(cached._memory.values())
    assert [codes.tokens.shape for codes in kept] == [(1, 8, 50)] * 2
    assert all(codes.tokens.untyped_storage().nbytes() == codes.tokens.nbytes for codes in kept)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def of_another_clip(path: Path) -> None:
    shutil.copy(next(other for other in path.parents[1].rglob("*.safetensors") if other != path), path)


def of_another_tokenizer(path: Path) -> None:
    Codes(
        torch.zeros(1, 1, 5, dtype=torch.int64), torch.tensor([5]), torch.tensor([5]), audiotok.Spec("x", 1, 1, (9,))
    ).save(path)


@pytest.mark.parametrize("damage", [garbage, empty, cut_short, of_another_clip, of_another_tokenizer, Path.unlink])
def test_a_file_that_is_broken_or_of_another_kind_is_made_again(default, speech, tmp_path, damage: Callable):
    CachedTokenizer(default, folder=tmp_path).encode(speech[:2])
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    assert all(len(path.parent.name) == 2 and path.parents[1].name == default.fingerprint for path in files)
    contents = [path.read_bytes() for path in files]
    damage(files[0])
    cached = CachedTokenizer(default, folder=tmp_path)
    check_same(cached.encode(speech[:2]), default.encode(speech[:2]))
    assert (cached.hits, cached.misses) == (1, 1)
    assert [path.read_bytes() for path in files] == contents
    assert len(list(tmp_path.rglob("*"))) == 2 + len({path.parent for path in files}) + 1  # and nothing is left over


def test_a_folder_that_cannot_be_written_is_an_error(default, speech, tmp_path):
    (tmp_path / default.fingerprint).write_text("in the way")
    with pytest.raises((CheckpointWriteError, OSError), match=str(tmp_path)):
        CachedTokenizer(default, folder=tmp_path).encode(speech)


def test_a_cache_without_memory_or_folder_is_refused(default):
    with pytest.raises(InputError, match="memory or a folder"):
        CachedTokenizer(default, max_bytes=0)


def test_wrong_audio_is_the_tokenizers_own_error_and_nothing_is_kept(default, speech):
    cached = CachedTokenizer(default)
    with pytest.raises(InputError, match="row 1 holds NaN"):
        cached.encode([speech[0], torch.full((9,), torch.nan)])
    assert (cached.hits, cached.misses) == (0, 0)


def test_a_copy_for_another_process_begins_empty(default, speech):
    cached = CachedTokenizer(default)
    cached.encode(speech)
    other = pickle.loads(pickle.dumps(cached))
    assert len(pickle.dumps(cached)) < len(pickle.dumps(default)) + 1000  # what is kept would be 30 kB
    check_same(other.encode(speech), default.encode(speech))
    assert (other.hits, other.misses, cached.hits, cached.misses) == (0, 3, 0, 3)


def test_inside_a_model_it_moves_and_saves_its_tokenizer():
    model = torch.nn.ModuleDict({"tokens": CachedTokenizer(audiotok.load())}).train().half()
    assert not model["tokens"].tokenizer.training
    assert model["tokens"].tokenizer.dtype == torch.float16
    assert all(name.startswith("tokens.tokenizer.") for name in model.state_dict())


def test_in_a_compiled_function_it_runs_as_it_is(default, speech):
    torch._dynamo.reset()
    cached = CachedTokenizer(default)
    compiled = torch.compile(lambda wav: cached.encode(wav).tokens + 1, backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(speech[0]), default.encode(speech[0]).tokens + 1)
    assert (cached.hits, cached.misses) == (1, 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_workers_share_a_folder(default, tmp_path):
    clips = [0.1 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(i % 5)) for i in range(40)]
    cached = CachedTokenizer(default, folder=tmp_path)
    loader = DataLoader(clips, 4, num_workers=2, collate_fn=cached.encode, multiprocessing_context="fork")
    for i, codes in enumerate(loader):
        check_same(codes, default.encode(clips[4 * i : 4 * i + 4]))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    cached.encode(clips)
    assert (cached.hits, cached.misses) == (40, 0)
