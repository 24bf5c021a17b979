"""Saving and loading folders. The Hub itself is in test_hub_network.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import audiotok
from audiotok.errors import CheckpointError, InputError, UnknownTokenizerError, UnsupportedError


@pytest.fixture
def folder(small, tmp_path) -> Path:
    small.save(tmp_path / "tok")
    return tmp_path / "tok"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def test_a_saved_folder_has_three_plain_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nlicense: "unknown"\nlibrary_name: audiotok\n')
    assert "| frame rate | 50 Hz (hop 320 samples) |" in card
    assert "frames seen" in card


def test_a_loaded_folder_is_the_same_tokenizer(small, folder, speech):
    for name in (folder, f"{folder}"):
        loaded = audiotok.load(name)
        assert loaded.fingerprint == small.fingerprint
        assert (loaded.spec, loaded.provenance) == (small.spec, small.provenance)
        codes = loaded.encode(speech)
        assert torch.equal(codes.tokens, small.encode(speech).tokens)
        assert torch.equal(small.decode(codes), loaded.decode(codes))


def test_saving_twice_writes_the_same_bytes(small, folder, tmp_path):
    audiotok.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_tokenizer_cut_to_fewer_codebooks_is_saved_as_such_with_all_its_weights(small, folder, tmp_path, speech):
    part = audiotok.load(folder, num_codebooks=2)
    part.save(tmp_path / "part")
    again = audiotok.load(tmp_path / "part")
    assert again.spec.num_codebooks == 2
    assert again.fingerprint == small.fingerprint
    assert torch.equal(again.encode(speech).tokens, small.encode(speech).tokens[:, :2])
    assert torch.equal(again.use_codebooks(3).encode(speech).tokens, small.encode(speech).tokens)


def test_relative_and_home_paths_are_folders(folder, monkeypatch, small):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("./tok", "~/tok", "../" + folder.parent.name + "/tok"):
        assert audiotok.load(name).fingerprint == small.fingerprint
    monkeypatch.chdir(folder)
    assert audiotok.load(".").fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("./gone", UnknownTokenizerError, "no such folder"),
        ("a/b/c", InputError, r"neither a Hub repository user/repo nor a path: a folder is written \./a/b/c"),
        ("tok", UnknownTokenizerError, r"a folder is written \./tok"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_write(name, error, message):
    with pytest.raises(error, match=message):
        audiotok.load(name)


def test_arguments_that_do_not_fit(folder):
    with pytest.raises(InputError, match="has 1 to 3 codebooks, not 9"):
        audiotok.load(folder, num_codebooks=9)
    with pytest.raises(UnsupportedError, match="no layers to choose from"):
        audiotok.load(folder, layers=[7])
    with pytest.raises(InputError, match="dtype must be one of float32"):
        audiotok.load(folder, dtype="int8")
    with pytest.raises(InputError, match="dtype must be one of float32"):
        audiotok.load(folder, dtype=torch.int8)
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used here"):
        audiotok.load(folder, device="cuda:99")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audiotok_format": 2}, "has format 2, this audiotok reads 1: upgrade"),
        ({"family": 5}, "'family' must be a str"),
        ({"fingerprint": None}, "'fingerprint' must be a str"),
        ({"spec": None}, "'spec' must be a dict"),
        ({"spec": {"name": "x"}}, "incomplete"),
        ({"config": {"mel": {"colour": 1}}}, "does not describe a tokenizer"),
        ({"config": {"mel": {"n_mels": 10**12}}}, "n_mels must lie in"),
        ({"config": {"mel": {"n_mels": "80"}}}, "does not describe a tokenizer"),
        ({"config": {}}, "does not describe a tokenizer"),
        ({"num_codebooks": 4}, "has 1 to 3 codebooks"),
        ({"num_codebooks": 0}, "has 1 to 3 codebooks"),
    ],
)
def test_a_config_that_makes_no_sense_is_a_checkpoint_error(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        audiotok.load(folder)


def test_a_config_that_lies_about_its_size_costs_no_memory(folder):
    spec = json.loads((folder / "config.json").read_text())["spec"]
    edit(folder, spec={**spec, "codebook_sizes": [2**40] * 3})  # 264 TB of centroids
    with pytest.raises(CheckpointError, match=r"is \[32, 80\], its config says \[1099511627776, 80\]"):
        audiotok.load(folder)


def test_a_family_is_a_name_and_never_a_class_path(folder):
    edit(folder, family="os:system")
    with pytest.raises(UnknownTokenizerError, match="no tokenizer family named 'os:system'"):
        audiotok.load(folder)


def test_missing_and_foreign_files_are_checkpoint_errors(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    first = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != first}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"missing \\['{first}'\\]"):
        audiotok.load(folder)
    save_file({**weights, "more": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unknown \['more'\]"):
        audiotok.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        audiotok.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="was not written by audiotok"):
        audiotok.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError):
        audiotok.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        audiotok.load(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_truncated_weights_are_a_checkpoint_error(folder, keep):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        audiotok.load(folder)


def test_a_hostile_pickle_in_place_of_the_weights_is_refused_and_not_run(folder, tmp_path):
    import pickle

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for name in ("model.safetensors", "config.json"):
        whole = shutil.copytree(folder, tmp_path / f"bad-{name}")
        (whole / name).write_bytes(pickle.dumps(Payload()))
        with pytest.raises(CheckpointError):
            audiotok.load(whole)
    assert not (tmp_path / "ran").exists()


def test_weights_exchanged_after_saving_are_noticed(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, value in weights.items() if value.dim() == 2 and value.numel())
    weights[name][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights are not the ones its config.json was saved with"):
        audiotok.load(folder)


def test_a_tokenizer_cast_to_16_bits_saves_and_loads(folder, tmp_path, speech):
    half = audiotok.load(folder, dtype="float16")
    half.save(tmp_path / "half")
    again = audiotok.load(tmp_path / "half", dtype="float16")
    assert torch.equal(again.encode(speech).tokens, half.encode(speech).tokens)


def test_weights_may_be_loaded_in_another_precision(folder, speech):
    for dtype in ("float16", torch.bfloat16, "float64"):
        tok = audiotok.load(folder, dtype=dtype)
        assert tok.encode(speech[0]).tokens.shape == (1, 3, 135)
        assert tok.decode(tok.encode(speech[0])).dtype == torch.float32
