import shutil

import pytest
import torch

import audiotok
import audiotok.cli
from audiotok import Codes
from audiotok.lm.container import compress_bytes, decompress
from audiotok.lm.entropy import EntropyModel, fit_entropy_model


@pytest.fixture
def codes(run, model, clip, tmp_path):
    """A file of codes of the clip."""
    run("encode", clip, "-o", tmp_path / "a.codes", "--model", model)
    return tmp_path / "a.codes"


@pytest.fixture(scope="session")
def corpus(clips, tmp_path_factory):
    """Two clips of other speech, in a folder."""
    folder = tmp_path_factory.mktemp("corpus")
    for path in clips:
        if path.stem in ("speech_fr_2", "speech_it_2"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def table(run, model, corpus, tmp_path):
    """A table fitted on the corpus."""
    assert run("compress", corpus, "--fit-table", tmp_path / "t.table", "--model", model, "-q").code == 0
    return tmp_path / "t.table"


def test_audio_is_encoded_and_comes_back_as_its_codes(run, model, clip, codes, tmp_path):
    result = run("compress", clip, "-o", tmp_path / "a.atz", "--model", model)
    wanted = audiotok.load(model).encode_file(clip)
    expected = compress_bytes(wanted)[1]
    assert result.code == 0
    assert torch.equal(decompress(tmp_path / "a.atz").tokens, wanted.tokens)
    assert result.err == (
        f"{clip} -> {tmp_path}/a.atz: 2.68 s, 0.7553 kbit/s fixed, {expected.bitrate_bps / 1000:.4g} coded, "
        f"{expected.total_bitrate_bps / 1000:.4g} with headers\n"
    )
    assert result.out == b""
    back = run("decompress", tmp_path / "a.atz", "-o", tmp_path / "b.codes")
    assert back.err == f"{tmp_path}/a.atz -> {tmp_path}/b.codes: 2.68 s, 3 x 135 tokens\n"
    assert (tmp_path / "b.codes").read_bytes() == codes.read_bytes()


def test_json_lines_have_the_facts(run, codes, tmp_path):
    facts = run("compress", codes, "--json", "--coding", "codebook").json
    size = (tmp_path / "a.atz").stat().st_size
    expected = compress_bytes(Codes.load(codes), coding="codebook")[1]
    assert facts == {
        "input": str(codes),
        "output": str(tmp_path / "a.atz"),
        "tokenizer": "logmel-k32x3",
        "coding": "codebook",
        "frames": 135,
        "codebooks": 3,
        "seconds": 2.681,
        "bytes": size,
        "kbps_fixed": round(135 * 15 / 2.681 / 1000, 6),
        "kbps": round(expected.payload_bytes * 8 / 2.681 / 1000, 6),
        "kbps_total": round(size * 8 / 2.681 / 1000, 6),
    }
    codes.unlink()
    assert run("decompress", tmp_path / "a.atz", "--json").json == {
        "input": str(tmp_path / "a.atz"),
        "output": str(codes),
        "tokenizer": "logmel-k32x3",
        "frames": 135,
        "codebooks": 3,
        "seconds": 2.681,
    }


def test_the_tree_of_a_folder_is_mirrored_both_ways(run, model, tree, tmp_path):
    result = run("compress", tree, "-o", tmp_path / "small", "--model", model)
    assert result.code == 1
    assert "5 of 7 failed, 2 done\ntogether 5.36 s, 0.7553 kbit/s fixed, " in result.err
    found = sorted(str(path.relative_to(tmp_path / "small")) for path in (tmp_path / "small").rglob("*.atz"))
    assert found == ["a/b/two.atz", "a/one.atz"]
    (tmp_path / "small" / "bad.atz").write_bytes(b"ATZ\x1a but no more")
    result = run("decompress", tmp_path / "small", "-o", tmp_path / "codes")
    assert result.code == 1
    assert "bad.atz is not a whole file of compressed codes" in result.err
    run("encode", tree / "a", "-o", tmp_path / "wanted", "--model", model)
    for name in ("one", "b/two"):
        wanted = (tmp_path / "wanted" / f"{name}.codes").read_bytes()
        assert (tmp_path / "codes" / "a" / f"{name}.codes").read_bytes() == wanted


def test_a_pipe_all_the_way(run, model, clip, codes, tmp_path):
    small = run("compress", "-", "--model", model, stdin=clip.read_bytes())
    again = run("compress", "-", stdin=codes.read_bytes())
    assert (small.code, again.code, small.out) == (0, 0, again.out)
    back = run("decompress", "-", stdin=small.out)
    assert back.out == codes.read_bytes()
    assert back.err == "standard input -> standard output: 2.68 s, 3 x 135 tokens\n"


def test_standard_input_with_json_writes_no_file(run, codes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = run("compress", "-", "--json", stdin=codes.read_bytes()).json
    assert (facts["output"], facts["frames"]) == (None, 135)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.codes"]


@pytest.mark.parametrize(("option", "value", "count"), [("--num-codebooks", 2, 2), ("--bandwidth", 0.25, 1)])
def test_fewer_codebooks_of_audio_and_of_codes(run, model, clip, codes, tmp_path, option, value, count):
    for source in (clip, codes):
        run("compress", source, "-o", tmp_path / "low.atz", "--model", model, option, value)
        assert torch.equal(decompress(tmp_path / "low.atz").tokens, Codes.load(codes).truncate(count).tokens)


def test_a_table_is_fitted_on_all_inputs(run, model, corpus, tmp_path):
    result = run("compress", corpus, "--fit-table", tmp_path / "new" / "t.table", "--model", model)
    wanted = fit_entropy_model(audiotok.load(model).encode_file(path) for path in sorted(corpus.iterdir()))
    assert EntropyModel.load(tmp_path / "new" / "t.table").checksum == wanted.checksum
    with_pairs = [str(k) for k, pairs in enumerate(wanted.pairs) if pairs is not None]
    assert result.err.endswith(
        f"saved {tmp_path}/new/t.table: counts of {int(wanted.counts[0].sum())} frames, with pairs for codebooks "
        f"{', '.join(with_pairs)}\n"
    )
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["t.table"]
    again = run("compress", corpus, "--fit-table", tmp_path / "new" / "t.table", "--model", model, "--json")
    assert again.lines[-1]["checksum"] == wanted.checksum
    assert sum(line["frames"] for line in again.lines[:-1]) == again.lines[-1]["frames"] == int(wanted.counts[0].sum())


@pytest.mark.parametrize("coding", ["adaptive", "static"])
def test_a_table_is_needed_both_ways(run, model, clip, table, codes, tmp_path, coding):
    small = tmp_path / "a.atz"
    assert run("compress", codes, "--coding", coding, "--table", table).code == 0
    without = run("decompress", small, "-o", tmp_path / "b.codes")
    assert (without.code, "was compressed with the entropy model" in without.err) == (1, True)
    assert run("decompress", small, "-o", tmp_path / "b.codes", "--table", table).code == 0
    assert (tmp_path / "b.codes").read_bytes() == codes.read_bytes()
    table.write_bytes(b"something else")
    assert run("decompress", small, "--table", table).code == 3
    assert run("compress", codes, "--table", table).code == 3


def test_static_coding_without_a_table_fails(run, codes):
    result = run("compress", codes, "--coding", "static")
    assert (result.code, 'coding="static" needs a table' in result.err) == (1, True)


def test_what_exists_is_replaced_only_if_it_is_ours(run, model, corpus, codes, tmp_path):
    for name, arguments, message in (
        ("a.atz", ["compress", codes], "holds no compressed codes"),
        ("b.codes", ["decompress", tmp_path / "b.atz"], "holds no audiotok codes"),
        ("c.table", ["compress", codes, "--fit-table", tmp_path / "c.table"], "holds no table"),
    ):
        run("compress", codes, "-o", tmp_path / "b.atz")
        (tmp_path / name).write_text("precious")
        result = run(*arguments)
        assert result.code in (1, 2)
        assert f"{tmp_path / name} exists and {message}: it is not replaced" in result.err
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
        assert run(*arguments).code == run(*arguments).code == 0


def test_files_that_hold_too_much_are_refused(run, codes, tmp_path):
    run("compress", codes)
    result = run("decompress", tmp_path / "a.atz", "--max-tokens", 404)
    assert (result.code, "it says it holds 405 tokens, more than max_tokens = 404" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "CODES", "-o", "b.wav"], "b.wav ends as audio does: choose an ending like .atz"),
        (["compress", "CODES", "--fit-table", "t", "-o", "b"], "--fit-table writes nothing but the table"),
        (["compress", "CODES", "--fit-table", "t", "--table", "b"], "--fit-table writes nothing but the table"),
        (["compress", "CODES", "-o", "-", "--json"], "--json and -o - would both write to standard output"),
        (["compress", "EMPTY"], "no audio files or files of codes in"),
        (["compress", "CODES", "--coding", "zip"], "invalid choice: 'zip'"),
        (["decompress", "CODES", "-o", "b.flac"], "ends as audio does: decompress to .codes, then audiotok decode"),
        (["decompress", "EMPTY"], "no compressed codes in"),
        (["decompress", "CODES", "--max-tokens", "0"], "wanted a whole number of at least 1"),
        (["decompress"], "the following arguments are required: INPUT"),
    ],
)
def test_wrong_usage_is_2_and_does_nothing(run, codes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    names = {"CODES": codes, "EMPTY": tmp_path / "void"}
    result = run(*(names.get(argument, argument) for argument in arguments))
    assert (result.code, result.out) == (2, b"")
    assert message in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.codes", "void"]


def test_a_file_of_codes_that_is_damaged_is_not_taken_for_audio(run, codes):
    codes.write_bytes(codes.read_bytes()[:100])
    result = run("compress", codes)
    assert (result.code, "wanted a whole safetensors file" in result.err) == (1, True)


def test_nothing_to_count_is_said(run, tmp_path):
    (tmp_path / "a.codes").write_bytes(b"nothing")
    result = run("compress", tmp_path, "--fit-table", tmp_path / "t")
    assert result.code == 2
    assert "there is not a single frame of codes to count" in result.err
    assert not (tmp_path / "t").exists()
