import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest

import audiotok


def rows(out):
    return {row["id"]: row for row in pyarrow.parquet.read_table(out / "data").to_pylist()}


@pytest.fixture
def folder(clips, tmp_path):
    for i, clip in enumerate(clips[:4]):
        (tmp_path / "audio" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / "audio" / str(i % 2) / clip.name)
    return tmp_path / "audio"


def test_a_folder_of_audio_to_a_folder_of_tokens(run, model, folder, tmp_path):
    result = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", "--num-workers", 1)
    assert (result.code, result.out) == (0, b"")
    assert result.err.startswith(f"{tmp_path}/out: 4 items, ")
    tok = audiotok.load(model)
    for name, row in rows(tmp_path / "out").items():
        assert np.array_equal(np.reshape(row["tokens"], row["shape"]), tok.encode_file(folder / name).tokens[0])
    again = run("tokenize", folder, "--model", model, "--out", tmp_path / "out")
    assert again.code == 0
    assert again.err == f"{tmp_path}/out: 4 items, nothing was left to do\n"
    refused = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", "--no-resume")
    assert refused.code == 2
    assert "was begun already" in refused.err


def test_failed_items_make_exit_code_1_unless_told_otherwise(run, model, folder, tmp_path):
    (folder / "bad.flac").write_bytes(b"")
    result = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", "--num-workers", 0)
    assert result.code == 1
    assert result.err.endswith(f"1 of 5 items failed: {tmp_path}/out/errors.jsonl says why\n")
    error = json.loads((tmp_path / "out" / "errors.jsonl").read_text())
    assert (error["id"], error["error"]) == ("bad.flac", "AudioFileError")
    quiet = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", "--ignore-errors", "--quiet")
    assert quiet.code == 0
    assert quiet.err == f"1 of 5 items failed: {tmp_path}/out/errors.jsonl says why\n"


def test_json_has_the_report(run, model, folder, tmp_path):
    result = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", "--num-codebooks", 1, "--json")
    facts = result.json
    assert (facts["items"], facts["rows"], facts["failed"], facts["finished"]) == (4, 4, 0, True)
    assert {row["shape"][0] for row in rows(tmp_path / "out").values()} == {1}
    assert facts["hours"] > 0
    assert 0 <= facts["share_waiting"] <= 1


def test_several_sources_are_joined_and_long_ones_cut(run, model, folder, clip, tmp_path):
    out = tmp_path / "out"
    result = run("tokenize", folder / "0", clip, "--model", model, "--out", out, "--max-seconds", "0.4", "--quiet")
    assert (result.code, result.err) == (0, "")
    names = list(rows(out))
    assert len({name.split("#")[0] for name in names}) == 3
    assert all(row["duration"] <= 0.4 for row in rows(out).values())


def test_two_devices_share_the_work(run, model, folder, tmp_path):
    assert run("tokenize", folder, "--model", model, "--out", tmp_path / "one").code == 0
    assert run("tokenize", folder, "--model", model, "--out", tmp_path / "two", "--device", "cpu", "cpu").code == 0
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert {name: row["tokens"] for name, row in one.items()} == {name: row["tokens"] for name, row in two.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-seconds", "-3"], "wanted seconds above 0"),
        (["--num-workers", "-1"], "wanted a whole number of at least 0"),
        (["--shard-size", "many"], "wanted a size like"),
        (["--device", "gpu:9"], "gpu:9"),
    ],
)
def test_wrong_options(run, model, folder, tmp_path, options, message):
    result = run("tokenize", folder, "--model", model, "--out", tmp_path / "out", *options)
    assert result.code == 2
    assert message in result.err


def test_a_source_that_does_not_exist(run, model, tmp_path):
    result = run("tokenize", tmp_path / "nothing", "--model", model, "--out", tmp_path / "out")
    assert (result.code, "no such file or folder" in result.err) == (2, True)
    assert not (tmp_path / "out").exists()
