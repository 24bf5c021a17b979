"""TiCodec: frame codes, global codes and audio equal upstream's; global books are found under both of their names."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import audiotok
from audiotok.backends.ticodec import GlobalEncoder, read_ticodec
from audiotok.codes import Codes
from audiotok.errors import CheckpointError, InputError

from .cases import Case, cases

CASES = cases("ticodec")
CASE = CASES[0]


@pytest.fixture(scope="module")
def tok():
    """The fixture's. Treat as read-only."""
    return read_ticodec(CASE.folder)


@pytest.fixture
def folder(tmp_path):
    """A copy of the fixture's two files, to be spoiled."""
    for name in (CASE.meta["checkpoint"], CASE.meta["config"]):
        shutil.copy(CASE.folder / name, tmp_path / name)
    return tmp_path


def parts_of(folder):
    return torch.load(folder / CASE.meta["checkpoint"], weights_only=True)


def save_parts(folder, parts):
    torch.save(parts, folder / CASE.meta["checkpoint"])


def reconfigure(folder, **values):
    path = folder / CASE.meta["config"]
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def upstream_codes(case, spec):
    """The fixture's codes in our layout."""
    tokens = case.array("codes").transpose(1, 2)  # theirs is [B, F, K]
    lengths = torch.full((len(tokens),), tokens.shape[2])
    extras = {"global_codes": case.array("global_codes")[:, 0]}  # theirs is [B, 1, N]
    return Codes(tokens, lengths, lengths * spec.hop_length, spec, extras=extras)


# ---- the same as upstream --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_codes_and_audio_are_upstreams(case: Case, parity_table):
    tok = read_ticodec(case.folder)
    wanted, found = upstream_codes(case, tok.spec), tok.encode(case.array("input"))
    assert torch.equal(found.extras["global_codes"], wanted.extras["global_codes"])
    assert found.extras["global_codes"].shape == (1, case.meta["global_codes"])
    wav = tok.decode(wanted)[:, 0]
    parity_table.fixture(case.id, found.tokens, wanted.tokens, wav=wav, wanted_wav=case.array("recon"), tolerance=1e-4)


def test_latents_are_upstreams(tok):
    latent, _ = tok.features(CASE.array("input"))
    torch.testing.assert_close(latent, CASE.array("latent"), rtol=0, atol=2e-4)


# ---- a tokenizer like any other --------------------------------------------------------------------


def test_it_keeps_the_promises_of_the_interface(tok, speech, parity_table):
    rows = [audiotok.audio.resample(row, 16000, 24000) for row in speech]
    assert len(parity_table.conforms(CASE.id, tok, rows)) == 10


def test_rows_of_a_batch_keep_their_own_global_codes(tok, speech):
    rows = [audiotok.audio.resample(row, 16000, 24000)[:, :24000] for row in speech]
    alone = [tok.encode([row]) for row in rows]
    together = read_ticodec(CASE.folder)
    together.row_by_row = False
    codes = together.encode(rows)
    assert codes.extras["global_codes"].shape == (3, 4)
    assert codes.extras["global_codes"].unique(dim=0).shape[0] > 1
    for one, row in zip(alone, codes, strict=True):
        assert torch.equal(one.tokens, row.tokens)
        assert torch.equal(one.extras["global_codes"], row.extras["global_codes"])
    wav = together.decode(codes)
    for i, one in enumerate(alone):
        assert float((wav[i] - tok.decode(one)[0]).abs().max()) < 1e-5


def test_global_codes_are_needed_and_matter(tok):
    codes = upstream_codes(CASE, tok.spec)
    wav = tok.decode(codes)
    with pytest.raises(InputError, match="needs global_codes beside the tokens"):
        tok.decode(codes.tokens)
    other = replace(codes, extras={"global_codes": (codes.extras["global_codes"] + 1) % 48})
    assert float((tok.decode(other) - wav).abs().max()) > 0.01
    for bad, message in (
        (torch.full((1, 4), 48), "tokens run from 48 to 48"),
        (torch.zeros(1, 5, dtype=torch.int64), "must have 4 rows"),
        (torch.zeros(1, 4), "must be integers"),
        (torch.zeros(1, 4, 1, dtype=torch.int64), r"global_codes must be \[B, 4\], not \[1, 4, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            tok.decode(replace(codes, extras={"global_codes": bad}))


def test_global_codes_travel_through_files_slices_and_truncation(tok, tmp_path):
    codes = tok.encode(CASE.array("input"))
    codes.save(tmp_path / "a.codes")
    read = Codes.load(tmp_path / "a.codes")
    assert torch.equal(read.extras["global_codes"], codes.extras["global_codes"])
    assert torch.equal(tok.decode(read), tok.decode(codes))
    assert tok.decode(codes.slice(0.1, 0.5)).shape == (1, 1, 31 * 320)
    assert tok.decode(codes.truncate(1)).shape == (1, 1, 19200)


def test_long_codes_decode_in_pieces(tok):
    codes = upstream_codes(CASE, tok.spec)
    pieces = read_ticodec(CASE.folder)
    pieces.chunk_seconds = 20 / 75
    assert pieces.decode_context == 6
    assert float((pieces.decode(codes) - tok.decode(codes)).abs().max()) < 1e-5


def test_every_length_from_one_sample_works(tok):
    for length in (1, 39, 319, 320, 321, 641):
        codes = tok.encode(torch.full((length,), 0.1))
        assert codes.lengths.tolist() == [max(1, length // 320)]
        assert tok.decode(codes).shape == (1, 1, length)


def test_half_of_it_is_enough_for_half_of_the_work(tok):
    codes = tok.encode(CASE.array("input"))
    encoder = read_ticodec(CASE.folder).use_mode("encode")
    found = encoder.encode(CASE.array("input"))
    assert torch.equal(found.tokens, codes.tokens)
    assert torch.equal(found.extras["global_codes"], codes.extras["global_codes"])
    decoder = read_ticodec(CASE.folder).use_mode("decode")
    assert torch.equal(decoder.decode(codes), tok.decode(codes))
    assert (decoder.encoder, decoder.global_encoder, encoder.generator) == (None, None, None)


# ---- reading ---------------------------------------------------------------------------------------


def renamed(parts):
    books = parts["quantizer"]
    return {
        **parts,
        "quantizer": {
            name.replace("quantizer_modules_globaltokens", "quantizer_modules3"): value for name, value in books.items()
        },
    }


def test_global_books_under_their_early_name_are_told_by_their_width(folder, tok):
    save_parts(folder, renamed(parts_of(folder)))
    assert audiotok.convert("ticodec", folder).fingerprint == tok.fingerprint


def test_with_one_residual_stage_the_early_name_leaves_a_gap(folder):
    parts = renamed(parts_of(folder))
    del parts["quantizer"]["quantizer_modules2.0.embedding.weight"]
    save_parts(folder, parts)
    reconfigure(folder, residul_layer=1)
    one = read_ticodec(folder)
    assert (one.spec.num_codebooks, one.global_quantizer.num_codebooks) == (1, 4)


def test_with_four_residual_stages_that_name_is_the_third(folder):
    parts = parts_of(folder)
    generator = torch.Generator().manual_seed(0)
    third, fourth = 0.1 * torch.randn(2, 48, 128, generator=generator)
    parts["quantizer"] |= {
        "quantizer_modules3.0.embedding.weight": third,
        "quantizer_modules4.0.embedding.weight": fourth,
    }
    save_parts(folder, parts)
    reconfigure(folder, residul_layer=4)
    tok = read_ticodec(folder)
    books = [parts["quantizer"][f"quantizer_modules{stage}.0.embedding.weight"] for stage in ("", "2")]
    codes = tok.encode(CASE.array("input"))
    assert torch.equal(codes.tokens[:, :2], CASE.array("codes").transpose(1, 2))
    residual = CASE.array("latent")[0].T.double()  # [F, D]
    for row, book in zip(codes.tokens[0], [*books, third, fourth], strict=True):
        assert torch.equal(torch.cdist(residual, book.double()).argmin(1), row)
        residual = residual - book[row].double()


def test_the_linear_layer_that_upstream_never_calls_may_be_there_or_not(folder, tok):
    parts = parts_of(folder)
    assert parts["encoder"].pop("linear.0.weight").shape == (16, 16)
    parts["encoder"].pop("linear.0.bias")
    save_parts(folder, parts)
    assert read_ticodec(folder).fingerprint == tok.fingerprint


def test_the_file_alone_is_enough_with_a_sample_rate(tok):
    path = CASE.folder / CASE.meta["checkpoint"]
    assert read_ticodec(path, sample_rate=24000).fingerprint == tok.fingerprint
    assert tok.spec.name == "ticodec-24khz-hop320-1g2r4t"
    with pytest.raises(InputError, match="does not say its sample rate"):
        read_ticodec(path)


def test_the_global_encoder_honours_its_stride():
    encoder = GlobalEncoder(4, 6, 8, kernel=4, stride=2)
    lengths = []
    encoder.convs[2].register_forward_hook(lambda _, args, out: lengths.append((args[0].shape[2], out.shape[2])))
    assert encoder(torch.randn(2, 4, 21)).shape == (2, 8)
    assert lengths == [(5, 2)]
    assert encoder(torch.randn(1, 4, 8)).isfinite().all()
    with pytest.raises(InputError, match="not 3 and 2"):
        GlobalEncoder(4, 6, 8, kernel=3, stride=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"residul_layer": 4}, "residul_layer of its configuration is 4, its weights say 2"),
        ({"global_code_num": 8}, "global_code_num of its configuration is 8, its weights say 4"),
        ({"global_feature_conv": [32, 24, 16, 3]}, "global_feature_conv of its configuration is"),
        ({"global_feature_conv": [32, 24, 10**9, 3, 1]}, r"its weights say \[32, 24, 16, 3, 1\]"),
        ({"global_feature_conv": [32, 24, 16, 3, 2]}, "must exceed its stride"),
        ({"global_feature_conv": [32, 24, 16, 3, 10**9]}, "global_conv must be a whole number"),
        ({"global_feature_conv": [32, 24, 16, 3, "1"]}, "global_conv must be a whole number"),
        ({"global_feature_conv": 3}, "global_feature_conv of its configuration is 3"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, values, message):
    reconfigure(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_ticodec(folder)


def test_broken_checkpoints_are_refused(folder, tok):
    whole = parts_of(folder)

    def refused(parts, message):
        save_parts(folder, parts)
        with pytest.raises(CheckpointError, match=message):
            read_ticodec(folder)

    books = {name: value for name, value in whole["quantizer"].items() if "global" not in name}
    refused({**whole, "quantizer": books}, "global_code_num of its configuration is 4, its weights say 0")
    encoder = {name: value for name, value in whole["encoder"].items() if "GlobalToken" not in name}
    refused({**whole, "encoder": encoder}, "global_encoder.convs.0.weight is missing")
    encoder = {name: value for name, value in whole["encoder"].items() if not name.endswith("running_var")}
    refused({**whole, "encoder": encoder}, "missing .*global_encoder.norm.running_var")
    encoder = {**whole["encoder"], "GlobalTokenEncoder.conv.4.weight": torch.ones(15, 24, 3)}
    refused({**whole, "encoder": encoder}, r"its weights say \[32, 24, 15, 3, 1\]")
    path = folder / CASE.meta["checkpoint"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="g_00350000"):
        read_ticodec(folder)


def test_a_network_without_a_place_for_the_global_vector_is_refused(folder):
    """Its width must be the channels of a stage of the generator, here 32, 16, 8 or 4."""
    parts = parts_of(folder)
    cut = {"conv.4.weight": 12, "fn.0.bias": 12, "fn.2.weight": 12, "fn.2.bias": 12}
    cut |= {"fn.2.running_mean": 12, "fn.2.running_var": 12}
    for name, size in cut.items():
        key = f"GlobalTokenEncoder.{name}"
        parts["encoder"][key] = parts["encoder"][key][:size].clone()
    key = "GlobalTokenEncoder.fn.0.weight"
    parts["encoder"][key] = parts["encoder"][key][:12, :12].clone()
    for i in range(4):
        key = f"quantizer_modules_globaltokens.{i}.embedding.weight"
        parts["quantizer"][key] = parts["quantizer"][key][:, :3].clone()
    save_parts(folder, parts)
    reconfigure(folder, global_feature_conv=[32, 24, 12, 3, 1])
    with pytest.raises(CheckpointError, match="no stage of the generator has the 12 channels"):
        read_ticodec(folder)


def test_the_two_families_are_not_mistaken_for_each_other(tmp_path):
    with pytest.raises(CheckpointError, match="unknown .*global_encoder"):
        audiotok.convert("hificodec", CASE.folder)
    plain = cases("hificodec")[0]
    with pytest.raises(CheckpointError, match="global_encoder.convs.0.weight is missing"):
        audiotok.convert("ticodec", plain.folder)
