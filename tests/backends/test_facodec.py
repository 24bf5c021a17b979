"""FACodec: the codes, speaker vectors and audio of upstream's own code, and what cannot be read is refused."""

import builtins
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import audiotok
from audiotok.backends.facodec import FACodec, read_facodec
from audiotok.backends.facodec_files import published_name
from audiotok.backends.facodec_network import needed
from audiotok.codes import Codes
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.testing import check_tokenizer, parity

from .cases import Case, cases

CASES = {case.name: case for case in cases("facodec")}
SUFFIX = {"v1": "", "v2": "_v2"}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, FACodec]:
    """Treat as read-only."""
    return {name: read_facodec(case.folder) for name, case in CASES.items()}


@pytest.fixture
def tok(tokenizers, case) -> FACodec:
    return tokenizers[case.name]


def upstream(case: Case, tok: FACodec) -> Codes:
    """What upstream made of the input, with its rows of the batch as it had them."""
    tokens = case.array("codes").transpose(0, 1).contiguous()
    return Codes(
        tokens,
        torch.full((len(tokens),), tokens.shape[2]),
        torch.full((len(tokens),), 200 * tokens.shape[2]),
        tok.spec,
        extras={"speaker": case.array("speaker_embedding")},
    )


def positions(case: Case) -> Tensor:
    """Upstream's table of positions."""
    state = torch.load(case.folder / f"ns3_facodec_decoder{SUFFIX[case.name]}.bin", weights_only=True)
    return state["timbre_encoder.position_emb.pe"][:, 0]


def at_position(case: Case, index: int) -> FACodec:
    """A tokenizer that, like upstream, gives every frame of a row the position of the row."""
    tok = read_facodec(case.folder)
    for encoder in (tok.timbre, tok.prosody and tok.prosody.encoder):
        if encoder:
            encoder.position.copy_(positions(case)[index])
    return tok


# ---- equal to upstream -----------------------------------------------------------------------------


def test_codes_and_audio_are_upstreams(case, tok, parity_table):
    wav, wanted = case.array("input"), upstream(case, tok)
    codes = [at_position(case, row).encode(wav[row]) for row in range(len(wav))]
    parity_table.fixture(
        case.id,
        torch.cat([code.tokens for code in codes]),
        wanted.tokens,
        wav=tok.decode(wanted)[:, 0],
        wanted_wav=case.array("recon").reshape(len(wav), -1),
    )
    for row, code in enumerate(codes):
        assert (code.extras["speaker"] - wanted.extras["speaker"][row]).abs().max() < 1e-5


def test_row_0_of_a_batch_is_upstreams_and_every_other_row_is_treated_like_it(case, tok):
    wav, wanted = case.array("input"), upstream(case, tok)
    assert torch.equal(tok.timbre.position, positions(case)[0])
    for row_by_row in (True, False):
        tok.row_by_row = row_by_row
        codes = tok.encode(wav)
        tok.row_by_row = None
        assert torch.equal(codes.tokens[0], wanted.tokens[0])
        for row in range(len(wav)):
            alone = tok.encode(wav[row])
            assert torch.equal(codes.tokens[row], alone.tokens[0])
            assert (codes.extras["speaker"][row] - alone.extras["speaker"][0]).abs().max() < 1e-5


def test_upstreams_row_1_differs_because_of_its_place_in_the_batch(tokenizers):
    case, tok = CASES["v2"], tokenizers["v2"]
    wanted = upstream(case, tok)[1]
    alone = tok.encode(case.array("input")[1])
    # Content hangs on no transformer; prosody does, and detail is what prosody and content leave over.
    assert (alone.tokens != wanted.tokens).sum(2)[0].tolist() == [53, 0, 0, 22, 33, 33]
    assert (alone.extras["speaker"] - wanted.extras["speaker"]).abs().max() > 0.8


# Upstream's own code (commit aac16b7), run on the first samples of one row of the fixture alone: of each row of codes
# the sum of code f times f + 1, the first three values of the speaker vector, and the peak of the decoded audio.
ALONE = [
    ("v1", 0, 12345, [23242, 27701, 21352, 32015, 27044, 25679], [-0.328345, 0.781610, 0.661587], 0.709142),
    ("v1", 0, 152, [27, 30, 2, 28, 1, 30], [-1.971303, -0.429807, -0.053756], 0.721871),
    ("v2", 1, 24000, [116279, 274880, 205694, 202856, 251052, 224208], [0.582594, 0.218451, 0.931561], 0.812056),
    ("v2", 0, 13151, [33740, 70117, 69836, 71185, 53869, 78222], [-0.424401, 0.511813, 0.160098], 0.830329),
    ("v2", 0, 413, [65, 119, 94, 144, 117, 97], [-2.292508, 0.515868, -1.456255], 0.491861),
]


@pytest.mark.parametrize(("name", "row", "samples", "sums", "speaker", "peak"), ALONE)
def test_rows_alone_and_odd_lengths_are_upstreams(tokenizers, name, row, samples, sums, speaker, peak):
    tok = tokenizers[name]
    codes = tok.encode(CASES[name].array("input")[row, :samples])
    weights = torch.arange(1, codes.tokens.shape[2] + 1)
    assert (codes.tokens[0] * weights).sum(1).tolist() == sums
    assert codes.extras["speaker"][0, :3].tolist() == pytest.approx(speaker, abs=1e-5)
    whole = replace(codes, num_samples=200 * codes.lengths)
    assert float(tok.decode(whole).abs().max()) == pytest.approx(peak, abs=1e-4)


def test_latents_and_prosody_features_are_upstreams(case, tok):
    wav, latent = case.array("input"), case.array("latent")
    features, lengths = tok.features(wav)
    dim = latent.shape[1]
    assert lengths.tolist() == [latent.shape[2]] * len(wav)
    assert (features[:, :dim] - latent).abs().max() < 2e-4
    assert features.shape[1] == {"v1": dim, "v2": 2 * dim}[case.name]
    if tok.prosody is not None:
        assert (tok.prosody.log_mel(wav[:, None]) - case.array("prosody_feature")).abs().max() < 2e-4


def test_decoding_without_detail_is_upstreams(case):
    tok = read_facodec(case.folder)
    wanted = upstream(case, tok)
    with_detail = tok.embed(wanted)
    tok.use_detail = False
    recon = case.array("recon_no_residual").reshape(len(wanted), -1)
    assert (tok.decode(wanted)[:, 0] - recon).abs().max() < 1e-4
    groups = torch.split(wanted.tokens, [1, 2, 3], dim=1)
    parts = [quantizer.decode(part) for quantizer, part in zip(tok.quantizers, groups, strict=True)]
    assert torch.equal(tok.embed(wanted), parts[0] + parts[1])
    assert torch.allclose(with_detail, sum(parts), atol=1e-6)


# ---- a tokenizer like any other --------------------------------------------------------------------


def test_it_keeps_every_promise_of_the_interface_on_real_speech(tok, speech):
    rows = [row[:, 8000:end] for row, end in zip(speech, (17000, 15077, 14001), strict=True)]
    assert {"batches", "lengths", "decode", "copies"} <= set(check_tokenizer(tok, rows))


def test_parity_on_real_speech(case, tok, speech, parity_table):
    found = parity(tok, speech)
    parity_table.parity(case.id, found)
    assert {one.way: one.different for one in found if one.way != "bfloat16"} == dict.fromkeys(
        ("again", "batch", "padded", "order", "chunked", "saved"), 0
    )


def test_facts_of_the_tokenizer(case, tok):
    spec, meta = tok.spec, case.meta
    entries = [size for size, rows in zip(meta["codebook_entries"], (1, 2, 3), strict=True) for _ in range(rows)]
    assert (spec.name, spec.sample_rate, spec.hop_length) == (
        {"v1": "facodec", "v2": "facodec-v2"}[case.name],
        16000,
        200,
    )
    assert spec.codebook_sizes == tuple(entries)
    assert [list(table.shape) for table in tok.codebooks] == [[size, 8] for size in entries]
    assert (spec.batching, spec.nested, tok.context, tok.required_extras) == ("bucket", False, None, ("speaker",))
    assert tok.min_samples == {"v1": 152, "v2": 413}[case.name]
    assert tok.config.strides == (2, 4, 5, 5)
    assert tok.config.decoder_strides == (5, 5, 4, 2)
    assert tok.config.codebooks == (1, 2, 3)
    assert tok.provenance["license"] == "apache-2.0"
    source = tok.provenance["converted_from"]
    assert source["file"] == f"ns3_facodec_decoder{SUFFIX[case.name]}.bin"
    assert len(source["sha256"]) == len(source["encoder_sha256"]) == 64


def test_num_frames_is_what_the_convolutions_give(tokenizers):
    tok = tokenizers["v1"]
    for samples in [*range(152, 170), *range(340, 420, 3), 1351, 1352, 1399, 1400]:
        assert tok.num_frames(samples) == tok.encoder(torch.zeros(1, 1, samples)).shape[2], samples
    assert [tok.num_frames(samples) for samples in (151, 152, 351, 352, 400)] == [0, 1, 1, 2, 2]


def test_the_receptive_fields_are_exactly_what_gradients_say(tokenizers):
    tok = read_facodec(CASES["v1"].folder).double()
    wav = torch.randn(1, 1, 12000, dtype=torch.float64).requires_grad_()
    tok.encoder(wav)[0, :, 30].sum().backward()
    seen = wav.grad[0, 0].nonzero()[:, 0] - 30 * 200
    assert (int(seen[0]), int(seen[-1])) == needed(tok.encoder, 0, 0) == (-5126, 5277)
    vectors = torch.randn(1, 32, 64, dtype=torch.float64).requires_grad_()
    tok.decoder.stack(vectors)[0, 0, 32 * 200 : 33 * 200].sum().backward()
    frames = vectors.grad[0].abs().sum(0).nonzero()[:, 0] - 32
    assert int(frames[-1]) == -int(frames[0]) == tok.decode_context == 28


def test_long_codes_decode_in_pieces_as_they_do_whole(case, speech):
    tok = read_facodec(case.folder)
    codes = tok.encode(speech[0])
    whole = tok.decode(codes)
    tok.chunk_seconds = 0.3
    calls: list[int] = []
    tok.decoder.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape[2]))
    assert (tok.decode(codes) - whole).abs().max() < 1e-5
    assert len(calls) == 9
    assert max(calls) == 24 + 2 * 28
    assert torch.equal(tok.encode(speech[0]).tokens, codes.tokens)


def test_a_voice_is_converted_by_another_speaker_vector(tok, speech):
    source, target = tok.encode(speech[0]), tok.encode(speech[1])
    converted = replace(source, extras=target.extras)
    assert (tok.decode(converted) - tok.decode(source)).abs().max() > 0.01
    assert tok.decode(converted).shape == (1, 1, speech[0].shape[1])


def test_without_a_fitting_speaker_vector_nothing_is_decoded(tok, speech):
    codes = tok.encode(speech[2])
    with pytest.raises(InputError, match="needs speaker beside the tokens"):
        tok.decode(codes.tokens)
    with pytest.raises(InputError, match=r"needs a speaker vector of floats \[1, 32\], not \[1, 31\]"):
        tok.decode(replace(codes, extras={"speaker": codes.extras["speaker"][:, :31]}))
    with pytest.raises(InputError, match=r"not \[1, 32\] torch.int64"):
        tok.decode(replace(codes, extras={"speaker": codes.extras["speaker"].long()}))
    with pytest.raises(UnsupportedError, match="needs all its 6 codebooks"):
        tok.use_codebooks(3)


def test_version_2_takes_lengths_that_upstream_cannot(tokenizers):
    """With 152 to 199 samples left over, upstream's spectrogram lacks the frame that its convolutions give."""
    tok, wav = tokenizers["v2"], CASES["v2"].array("input")[0]
    for samples in (2000, 2151, 2152, 2199, 2200):
        codes = tok.encode(wav[:samples])
        assert codes.tokens.shape == (1, 6, 10 if samples < 2152 else 11)
        padded = torch.nn.functional.pad(wav[:samples], (0, 2200 - samples))
        same = torch.equal(codes.tokens[:, 0], tok.encode(padded).tokens[:, 0])
        assert same == (samples >= 2152)


def test_each_half_alone_gives_the_same(tok, case, speech, tmp_path):
    tok.save(tmp_path)
    codes = tok.encode(speech[2])
    encoder = audiotok.load(tmp_path, mode="encode")
    assert torch.equal(encoder.encode(speech[2]).tokens, codes.tokens)
    decoder = audiotok.load(tmp_path, mode="decode")
    assert torch.equal(decoder.decode(codes), tok.decode(codes))
    total = sum(value.numel() for value in tok.state_dict().values())
    shared = sum(value.numel() for value in tok.quantizers.state_dict().values())
    halves = sum(value.numel() for half in (encoder, decoder) for value in half.state_dict().values())
    assert halves == total + shared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 10**9}, "channels of FACodec cannot be 1000000000"),
        ({"channels": 2**13}, "wants at most 65536 channels"),
        ({"layers": 10**9}, "layers of FACodec cannot be 1000000000"),
        ({"strides": [2, 4, 5, "5"]}, "strides of FACodec cannot be"),
        ({"strides": []}, "strides of FACodec cannot be"),
        ({"strides": [200, 1]}, "wants strides of at least 2"),
        ({"decoder_strides": [5, 5, 4, 4]}, "wants the same hop in and out"),
        ({"codebooks": [6]}, "wants two or three groups of codebooks"),
        ({"codebooks": [1, 2, 4]}, "its hop and number of codebooks must be those of the network, 200 and 7"),
        ({"decoder_channels": 15}, "wants at least 1 channel everywhere"),
        ({"kernel": 4}, "wants an odd kernel"),
        ({"heads": 5}, "wants heads that share the latent evenly"),
        ({"window": 0}, "wants a whole spectrogram or none"),
        ({"window": 1025}, "wants a window of at most n_fft"),
        ({"n_fft": 1025}, "wants n_fft above the hop by an even number"),
        ({"dim": 64}, "its config says"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_a_saved_config_that_makes_no_network_is_refused(tokenizers, tmp_path, change, message):
    tokenizers["v2"].save(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match=message):
        audiotok.load(tmp_path)


# ---- published files -------------------------------------------------------------------------------


@pytest.fixture
def both(tmp_path) -> Path:
    """A folder with the files of both versions, as published."""
    for case in CASES.values():
        for path in case.folder.glob("*.bin"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_of_a_folder_with_both_versions_one_is_chosen(both, tokenizers):
    with pytest.raises(InputError, match="holds both versions of FACodec: choose one with version=1 or version=2"):
        read_facodec(both)
    for name, version in (("v1", 1), ("v2", 2)):
        assert read_facodec(both, version=version).fingerprint == tokenizers[name].fingerprint
        for part in ("encoder", "decoder"):
            file = both / f"ns3_facodec_{part}{SUFFIX[name]}.bin"
            assert audiotok.convert("facodec", file).fingerprint == tokenizers[name].fingerprint
    with pytest.raises(InputError, match="FACodec has versions 1 and 2, not 3"):
        read_facodec(both, version=3)
    with pytest.raises(CheckpointError, match=r"wanted a folder, or one of ns3_facodec_encoder\.bin, ns3_"):
        read_facodec(both / "ns3_facodec_encoder_v2.bin", version=1)


def test_the_version_is_read_off_the_weights_and_not_the_name(both, tmp_path, tokenizers):
    for part in ("encoder", "decoder"):
        (both / f"ns3_facodec_{part}_v2.bin").replace(both / f"ns3_facodec_{part}.bin")
    assert read_facodec(both).fingerprint == tokenizers["v2"].fingerprint


def test_options_that_cannot_be_are_refused(both):
    for heads in (0, 5, 2.0, "4"):
        with pytest.raises(InputError, match=f"heads must divide the 32 values of a frame, not be {heads!r}"):
            read_facodec(both, version=1, heads=heads)
    with pytest.raises(InputError, match="sample_rate must be a whole number of at least 1, not 0"):
        read_facodec(both, version=1, sample_rate=0)
    other = read_facodec(both, version=1, heads=8, sample_rate=24000, name="mine")
    assert (other.spec.name, other.spec.sample_rate, other.timbre.layers[0].heads) == ("mine", 24000, 8)


def edited(both: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    """The folder, after `edit` changed the state dict of a file."""
    path = both / f"ns3_facodec_{file}.bin"
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)
    return both


def test_no_detail_books_leave_what_upstream_decodes_without_them(both):
    case = CASES["v2"]

    def drop(state: dict[str, Any]) -> None:
        for name in [name for name in state if name.startswith(("quantizer.2.", "res_"))]:
            del state[name]

    tok = read_facodec(edited(both, "decoder_v2", drop), version=2)
    assert tok.spec.codebook_sizes == (32, 64, 64)
    codes = tok.encode(case.array("input")[0])
    assert torch.equal(codes.tokens[0], case.array("codes")[:3, 0])
    assert (tok.decode(codes)[0, 0] - case.array("recon_no_residual").reshape(2, -1)[0]).abs().max() < 1e-4


def test_heads_of_training_may_be_there_or_not(both, tokenizers):
    def drop(state: dict[str, Any]) -> None:
        for name in [name for name in state if "predictor" in name]:
            del state[name]

    assert read_facodec(edited(both, "decoder", drop), version=1).fingerprint == tokenizers["v1"].fingerprint

    def add(state: dict[str, Any]) -> None:
        state["content_f0_predictor.1.heads.0.weight"] = torch.zeros(1, 32)
        state["prosody_phone_predictor.1.model.0.block.1.weight_g"] = torch.zeros(1, 32)

    assert read_facodec(edited(both, "decoder", add), version=1).fingerprint == tokenizers["v1"].fingerprint


def test_weights_in_half_precision_are_widened(both):
    def halve(state: dict[str, Any]) -> None:
        state.update({name: value.half() for name, value in state.items()})

    tok = read_facodec(edited(both, "encoder", halve), version=1)
    assert {value.dtype for value in tok.state_dict().values()} == {torch.float32}


def test_every_weight_has_a_published_name_of_its_own(case, tok):
    names = [published_name(name) for name in tok.state_dict()]
    assert len(set(names)) == len(names)
    assert published_name("encoder.1.0.2.down") == "block.1.block.0.block.2.downsample.lowpass.filter"
    assert published_name("decoder.stack.1.2.3.weight") == "model.1.block.2.block.3.weight"
    assert published_name("timbre.layers.3.attention_in.bias") == "timbre_encoder.layers.3.self_attn.in_proj_bias"
    assert published_name("quantizers.1.layers.0.project_out.weight") == "quantizer.1.layers.0.out_proj.weight"


def set_to(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            "encoder",
            lambda state: state.pop("block.2.block.1.block.1.bias"),
            r"missing \['block.2.block.1.block.1.bias'\]",
        ),
        (
            "encoder",
            lambda state: state.pop("block.0.weight_g"),
            "half of a weight-norm pair: block.0.weight_v is there",
        ),
        ("encoder", lambda state: state.clear(), "block.0.weight is missing"),
        ("decoder", lambda state: state.clear(), "timbre_encoder.layers.0.ffn.ffn_1.weight is missing"),
        ("decoder", set_to("timbre_linear.bias", torch.zeros(63)), r"timbre_linear.bias gives \[63\].*want \[64\]"),
        ("decoder", set_to("extra.weight", torch.zeros(1)), r"missing \[\], unknown \['extra.weight'\]"),
        (
            "decoder",
            set_to("f0_predictor.model.4.weight", torch.zeros(1)),
            r"unknown \['f0_predictor.model.4.weight'\]",
        ),
        ("decoder", set_to("block.0.bias", torch.zeros(4)), "both hold block.0.bias"),
        ("decoder", set_to("model.0.bias", 3), "wanted tensors of floats by name; model.0.bias is none"),
        ("decoder", set_to("model.0.bias", torch.zeros(48).long()), "model.0.bias is none"),
        ("decoder", set_to("model.0.bias", torch.zeros(48).to_sparse()), "model.0.bias is none"),
        (
            "decoder",
            set_to("model.0.bias", torch.zeros(1).expand(10**12)),
            "wanted tensors that are as large as they say",
        ),
        ("decoder", set_to("timbre_encoder.position_emb.pe", torch.zeros(0, 1, 32)), r"pe gives \[0\]"),
        ("decoder", set_to("quantizer.0.layers.0._codebook.weight", torch.zeros(0, 8)), "none of them 0"),
        ("decoder", set_to("quantizer.0.layers.0._codebook.weight", torch.zeros(8)), "wanted 2 dimensions"),
        ("decoder", set_to("melspec_linear.weight", torch.zeros(32, 20)), "mel_transform.mel_basis is missing"),
        ("encoder", set_to("mel_transform.hann_window", torch.zeros(800)), r"unknown \['mel_transform.hann_window'\]"),
        ("encoder", set_to("block.4.block.4.weight_v", torch.zeros(64, 32, 8)), "wants the same hop in and out"),
        ("encoder", set_to("block.4.block.4.weight_v", torch.zeros(64, 32, 11)), r"weight gives \[64, 32, 11\]"),
        ("encoder", set_to(3, torch.zeros(1)), "wanted tensors by name"),
    ],
)
def test_a_file_of_anything_else_is_refused(both, file, edit, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_facodec(edited(both, file, edit), version=1)
    assert f"ns3_facodec_{file}.bin" in str(caught.value)


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, (str(self.mark), "w")


def test_broken_and_hostile_files_are_refused_and_nothing_in_them_runs(both, tmp_path):
    encoder, decoder = both / "ns3_facodec_encoder.bin", both / "ns3_facodec_decoder.bin"
    torch.save({"block.0.bias": Trap(tmp_path / "mark")}, encoder)
    with pytest.raises(CheckpointError, match=r"encoder\.bin.*a request for .*open, which was not followed"):
        read_facodec(both, version=1)
    assert not (tmp_path / "mark").exists()
    torch.save([torch.zeros(1)], encoder)
    with pytest.raises(CheckpointError, match=r"encoder\.bin: wanted tensors by name, found a list"):
        read_facodec(both, version=1)
    shutil.copy(CASES["v1"].folder / encoder.name, encoder)
    whole = decoder.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        decoder.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"decoder\.bin"):
            read_facodec(both, version=1)
    decoder.unlink()
    with pytest.raises(
        CheckpointError, match=r"wanted ns3_facodec_encoder\.bin and ns3_facodec_decoder\.bin, found no"
    ):
        read_facodec(both, version=1)
    with pytest.raises(CheckpointError, match="wanted a folder, or one of"):
        read_facodec(CASES["v1"].folder / "meta.json")
    with pytest.raises(CheckpointError, match="found no such pair"):
        read_facodec(tmp_path / "nowhere")
