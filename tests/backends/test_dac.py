"""DAC: the package's and transformers' files give upstream's codes; `.dac` files both ways."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from audiotok import audio, convert
from audiotok.backends.dac_files import DacFile, lost_samples
from audiotok.errors import CheckpointError, InputError, UnsupportedError

from .cases import Case, cases

CASES = cases("dac-native")
FORMS = [(case, form) for case in CASES for form in ("", "hf")]
SMALL = Case("dac-native", "16k-like")


def rows_of(case: Case) -> torch.Tensor:
    wav = case.array("input")
    return wav[:, None] if wav.dim() == 2 else wav


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.mark.parametrize(("case", "form"), FORMS, ids=lambda value: value.id if isinstance(value, Case) else value)
def test_both_formats_give_upstreams_codes_and_audio(case, form, parity_table):
    tok, wav = convert("dac", case.folder / form), rows_of(case)
    codes = tok.encode(wav)
    recon = case.array("recon").view(len(wav), 1, -1)
    raw = tok._decode(codes.tokens, {})
    assert raw.shape == recon.shape  # upstream's is some samples short where a rate is odd
    length = min(wav.shape[2], recon.shape[2])
    parity_table.fixture(
        case.id + ("/hf" if form else ""),
        codes.tokens,
        case.array("codes"),
        wav=tok.decode(codes)[..., :length],
        wanted_wav=recon[..., :length],
        tolerance=case.meta["tolerance"]["recon"],
    )
    assert tok.decode(codes).shape == wav.shape
    assert tok.spec.hop_length == case.meta["hop"]


def test_every_step_is_upstreams(case):
    tok, wav = convert("dac", case.folder), rows_of(case)
    features, _ = tok.features(wav)
    torch.testing.assert_close(features, case.array("encoder_out"), atol=2e-4, rtol=0)
    torch.testing.assert_close(tok.embed(tok.encode(wav)), case.array("z"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("case", "count"), [(CASES[0], 3), (CASES[1], 4)])
def test_fewer_codebooks(case, count):
    tok = convert("dac", case.folder)
    wanted = case.array(f"codes_n{count}")
    assert torch.equal(tok.encode(rows_of(case)).truncate(count).tokens, wanted)
    assert torch.equal(tok.use_codebooks(count).encode(rows_of(case)).tokens, wanted)


def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = convert("dac", case.folder)
    rows = [audio.resample(row, 16000, tok.spec.sample_rate) for row in speech]
    parity_table.conforms(case.id, tok, rows)


# ---- .dac files ------------------------------------------------------------------------------------


def test_a_dac_file_of_the_package_decodes_to_its_audio(case):
    tok = convert("dac", case.folder)
    wav = tok.decompress(DacFile.load(case.folder / "long.dac"))
    torch.testing.assert_close(wav, case.array("long_recon")[0], atol=1e-4, rtol=0)
    assert lost_samples(tok) == case.meta["chunked"]["delay"]


def test_compressing_gives_the_packages_codes(case, tmp_path):
    tok, facts = convert("dac", case.folder), case.meta["chunked"]
    file = tok.compress(case.array("long_input"), window_seconds=facts["win_duration"])
    assert torch.equal(file.codes, case.array("long_codes"))
    assert (file.chunk_length, file.padded, file.original_length) == (
        facts["chunk_length"],
        False,
        facts["original_length"],
    )
    assert file.loudness_db[0] == pytest.approx(facts["input_db"], abs=1e-4)
    whole = tok.compress(case.array("long_input"), window_seconds=None, loudness_db=None)
    assert torch.equal(whole.codes, case.array("long_codes_unchunked_no_normalise"))
    assert whole.padded
    file.save(tmp_path / "a.dac")
    read = DacFile.load(tmp_path / "a.dac")
    assert torch.equal(read.codes, file.codes)
    torch.testing.assert_close(tok.decompress(read), case.array("long_recon")[0], atol=1e-4, rtol=0)


def test_a_file_that_we_write_is_one_that_numpy_reads_as_the_package_does(tmp_path):
    tok = convert("dac", SMALL.folder)
    tok.compress(SMALL.array("long_input")[0]).save(tmp_path / "a.dac")
    ours = np.load(tmp_path / "a.dac", allow_pickle=True)[()]
    theirs = np.load(SMALL.folder / "long.dac", allow_pickle=True)[()]
    assert ours.keys() == theirs.keys()
    assert ours["metadata"].keys() == theirs["metadata"].keys()
    assert {k: type(v) for k, v in ours["metadata"].items()} == {k: type(v) for k, v in theirs["metadata"].items()}
    assert np.array_equal(ours["codes"], theirs["codes"])
    assert ours["codes"].dtype == theirs["codes"].dtype == np.uint16


def test_stereo_at_another_rate_comes_back_as_it_was(clips):
    tok = convert("dac", SMALL.folder)
    path = next(path for path in clips if audio.load(path)[0].shape[0] == 2)
    wav, rate = audio.load(path)
    wav = wav[:, : rate * 2]
    found = tok.decompress(tok.compress(wav, rate))
    assert found.shape == wav.shape
    short = tok.decompress(tok.compress(wav[:, :700], rate))  # shorter than loudness can be measured on
    assert short.shape == (2, 700)
    silent = tok.decompress(tok.compress(torch.zeros(800)))
    assert silent.isfinite().all()


def test_a_hostile_dac_file_is_refused_and_does_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    np.save(tmp_path / "a.npy", np.array({"codes": Hostile(), "metadata": {}}, dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError):
        DacFile.load(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_length": 0}, "is no .dac file"),
        ({"chunk_length": "34"}, "is no .dac file"),
        ({"channels": 2}, "contradicts itself"),
        ({"input_db": np.array([np.nan])}, "a loudness of"),
        ({"original_length": -1}, "is no .dac file"),
    ],
)
def test_a_dac_file_that_lies_is_refused(tmp_path, change, message):
    contents = np.load(SMALL.folder / "long.dac", allow_pickle=True)[()]
    contents["metadata"] |= change
    with (tmp_path / "a.dac").open("wb") as handle:
        np.save(handle, np.array(contents, dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=message):
        DacFile.load(tmp_path / "a.dac")


def test_other_dac_files_are_refused(tmp_path):
    data = (SMALL.folder / "long.dac").read_bytes()
    for i, broken in enumerate((b"", data[:100], data[: len(data) // 2], data + b"x", pickle.dumps({"codes": 1}))):
        (tmp_path / f"{i}.dac").write_bytes(broken)
        with pytest.raises(CheckpointError):
            DacFile.load(tmp_path / f"{i}.dac")
    other = DacFile.load(CASES[1].folder / "long.dac")
    with pytest.raises(InputError, match="made by another network"):
        convert("dac", SMALL.folder).decompress(other)
    with pytest.raises(InputError, match="too short for a network that loses 10528"):
        convert("dac", SMALL.folder).compress(torch.ones(16000), window_seconds=0.2)


def test_without_pyloudnorm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyloudnorm", None)
    with pytest.raises(UnsupportedError, match=r"audiotok\[dac\]"):
        convert("dac", SMALL.folder).compress(torch.ones(16000))


# ---- checkpoints that are not to be believed -------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsampling_ratios": [2, 4, 5, 10**9]}, "must be a whole number"),
        ({"downsampling_ratios": [2, 4, 5, 4]}, "differ"),
        ({"encoder_hidden_size": 8192}, "wanted"),
        ({"hidden_size": 7}, "wanted"),
        ({"n_codebooks": 7}, "has no weights"),
        ({"n_codebooks": 5}, "no part of the network takes"),
        ({"n_codebooks": 10**9}, "must be a whole number"),
        ({"codebook_size": None}, "must be a whole number"),
        ({"model_type": "encodec"}, "not of a dac"),
    ],
)
def test_a_config_that_lies_is_refused(tmp_path, change, message):
    shutil.copytree(SMALL.folder / "hf", tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        convert("dac", tmp_path / "c")


def test_other_torch_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    for content in ({"state_dict": {}}, [1], {"metadata": {"kwargs": 3}, "state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="is no DAC checkpoint"):
            convert("dac", path)
    found = torch.load(next(SMALL.folder.glob("*.pth")), weights_only=True)
    del found["state_dict"]["encoder.block.0.weight_g"]
    torch.save(found, path)
    with pytest.raises(CheckpointError, match="half of a weight-norm pair"):
        convert("dac", path)
    path.write_bytes(next(SMALL.folder.glob("*.pth")).read_bytes()[:5000])
    with pytest.raises(CheckpointError):
        convert("dac", path)
    with pytest.raises(CheckpointError, match="holds no weights file"):
        convert("dac", tmp_path / "nothing")
