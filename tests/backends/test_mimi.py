"""Mimi: moshi's and transformers' files give upstream's codes, in every way of encoding, and as a stream."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiotok import audio, convert
from audiotok.backends.mimi import Mimi, read_mimi
from audiotok.backends.mimi_config import read_config
from audiotok.backends.mimi_network import SplitRVQ
from audiotok.codes import Codes
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from audiotok.nn.flow import Pieces

from .cases import Case, cases

CASES = {case.name: case for case in cases("mimi")}
SHORT = CASES["tiny-8cb"]  # its context is shorter than its input
LONG = CASES["context-longer-than-input"]
HOP = 1920
FILE = "tokenizer-tiny-checkpoint.safetensors"


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Mimi]:
    """Treat as read-only."""
    return {name: read_mimi(case.folder) for name, case in CASES.items()}


@pytest.fixture
def tok(tokenizers, case) -> Mimi:
    return tokenizers[case.name]


@pytest.fixture(scope="module")
def rows(speech) -> list[Tensor]:
    """Real speech at 24 kHz, 2.7 s, 2.2 s and 1.9 s."""
    return [audio.resample(row, 16000, 24000) for row in speech]


def stream(tok: Mimi, wav: Tensor, sizes: list[int]) -> list[Codes]:
    """Codes of pushes of these sizes, over and over, and of the flush."""
    with tok.stream(len(wav)) as open_stream:
        pieces, at = [], 0
        for size in itertools.cycle(sizes):
            if at >= wav.shape[-1]:
                return [*pieces, open_stream.flush()]
            pieces.append(open_stream.push(wav[..., at : at + size]))
            at += size
    raise AssertionError


# ---- equal to upstream -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["", "hf"])
def test_both_formats_give_moshis_codes_and_audio(case, form, parity_table):
    tok = convert("mimi", case.folder / form)
    wanted, recon = case.array("codes"), case.array("recon")
    parity_table.fixture(
        case.id + ("/hf" if form else ""),
        tok.encode(case.array("input")).tokens,
        wanted,
        wav=tok.decode(wanted),
        wanted_wav=recon,
        tolerance=case.meta["tolerance"]["recon"],
    )


def test_both_formats_hold_the_same_network_bit_for_bit(case, tok):
    other = read_mimi(case.folder / "hf")
    assert other.fingerprint == tok.fingerprint
    for name, value in other.state_dict().items():
        assert torch.equal(value, tok.state_dict()[name]), name


def test_latents_are_moshis(case, tok):
    features, lengths = tok.features(case.array("input"))
    wanted = case.array("latent")
    assert lengths.tolist() == [wanted.shape[2]] * len(wanted)
    torch.testing.assert_close(features, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "count"), [("tiny-8cb", 4), ("context-longer-than-input", 2)])
def test_fewer_codebooks_are_moshis(tokenizers, name, count):
    case, tok = CASES[name], read_mimi(CASES[name].folder).use_codebooks(count)
    wanted = case.array(f"codes_n{count}")
    assert torch.equal(tok.encode(case.array("input")).tokens, wanted)
    assert torch.equal(case.array("codes")[:, :count], wanted)
    torch.testing.assert_close(tok.decode(wanted), case.array(f"recon_n{count}"), atol=1e-5, rtol=0)
    semantic = tok.use_codebooks(1).encode(case.array("input"))
    assert torch.equal(semantic.tokens, wanted[:, :1])
    assert tok.decode(semantic).shape == (len(wanted), 1, case.array("input").shape[1])


def test_transformers_differs_in_the_last_frame_only_which_it_pads_layer_by_layer(case, tok):
    wav, wanted = case.array("input"), case.array("hf_codes")
    assert wav.shape[1] % HOP
    differ = (tok.encode(wav).tokens != wanted).any(1).any(0).nonzero()[:, 0].tolist()
    assert differ == case.meta["hf_whole_differs_from_moshi_whole_at_frames"] == [wanted.shape[2] - 1]


def test_streams_are_those_of_transformers_and_of_moshi_until_its_context_is_full(case, tok):
    wav, wanted = case.array("input"), case.array("hf_codes_streaming")
    frames = wanted.shape[2]
    pieces = stream(tok, wav[:, : frames * HOP], [HOP])
    codes = Codes.join(pieces)
    assert torch.equal(codes.tokens, wanted)
    assert [piece.tokens.shape[2] for piece in pieces] == [1] * frames + [0]  # each with its last sample
    moshi = case.array("codes_streaming")
    differ = (codes.tokens != moshi).any(1).any(0).nonzero()[:, 0].tolist()
    assert differ == case.meta["moshi_streaming_differs_from_whole_at_frames"]
    if not differ:
        with tok.decode_stream(len(wav)) as out:
            decoded = [out.push(piece) for piece in pieces[:-1]]
            assert [one.shape[2] for one in decoded] == [HOP] * frames
            assert out.flush().shape[2] == 0
        torch.testing.assert_close(torch.cat(decoded, 2), case.array("recon_streaming"), atol=1e-5, rtol=0)


def test_entries_are_sums_over_uses(case, tok):
    tensors = load_file(case.folder / FILE)
    for row, table in enumerate(tok.codebooks):
        root = f"quantizer.rvq_{'rest' if row else 'first'}.vq.layers.{max(0, row - 1)}._codebook."
        uses = tensors[root + "cluster_usage"].clamp(min=1e-5)
        assert torch.equal(table, tensors[root + "embedding_sum"] / uses[:, None])
    assert len(tok.codebooks) == tok.spec.num_codebooks


# ---- streams and pieces ----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1919, 1], [137, 5000, 1, 2400], [12345], [960]])
def test_pushes_of_any_size_give_the_codes_of_the_whole(tokenizers, rows, sizes):
    for tok in tokenizers.values():
        for row in (rows[0], rows[1][:, : 20 * HOP]):
            whole = tok.encode([row])
            codes = Codes.join(stream(tok, row[None], sizes))
            assert torch.equal(codes.tokens, whole.tokens)
            assert codes.num_samples.tolist() == whole.num_samples.tolist()


def test_single_samples_can_be_pushed(tokenizers, rows):
    wav = rows[0][None, :, 9000 : 9000 + HOP + 7]
    codes = Codes.join(stream(tokenizers["tiny-8cb"], wav, [1]))
    assert torch.equal(codes.tokens, tokenizers["tiny-8cb"].encode(wav).tokens)


def test_a_stream_of_several_rows(tokenizers, rows):
    tok, wav = tokenizers["tiny-8cb"], torch.stack([row[:, :30000] for row in rows])
    codes = Codes.join(stream(tok, wav, [4000]))
    assert torch.equal(codes.tokens, tok.encode(wav).tokens)


@pytest.mark.parametrize("size", [1, 3, 11])
def test_codes_decode_as_a_stream_as_they_do_whole(tokenizers, rows, size):
    for tok in tokenizers.values():
        codes = tok.encode([rows[0]])
        starts = range(0, int(codes.lengths), size)
        pieces = [codes.slice((at + 0.25) / 12.5, (at + size - 0.25) / 12.5) for at in starts]
        with tok.decode_stream() as out:
            wav = torch.cat([*(out.push(piece) for piece in pieces), out.flush()], 2)
        torch.testing.assert_close(wav, tok.decode(codes), atol=1e-5, rtol=0)


def test_long_audio_goes_in_pieces_and_holds_no_more_than_the_context(rows, monkeypatch):
    tok = read_mimi(SHORT.folder)
    wav = torch.cat([*rows, *rows], 1)  # 13.6 s: 340 frames of the transformer, whose context is 20
    whole = tok.encode([wav])
    audio_out = tok.decode(whole)
    monkeypatch.setattr("audiotok.nn.causal_transformer._BLOCK", 16)
    kept: list[int] = []
    keep = Pieces.keep

    def watched(self: Pieces, layer: object, value: object) -> None:
        kept.append(sum(one.shape[2] for one in value if isinstance(one, Tensor)) if isinstance(value, tuple) else 0)
        keep(self, layer, value)

    monkeypatch.setattr(Pieces, "keep", watched)
    for seconds in (0.08, 1.0, 5.0):
        tok.chunk_seconds = seconds
        assert torch.equal(tok.encode([wav]).tokens, whole.tokens)
        torch.testing.assert_close(tok.decode(whole), audio_out, atol=1e-5, rtol=0)
    assert max(kept) == 2 * 19


# ---- a tokenizer like any other --------------------------------------------------------------------


def test_conformance_and_parity_on_real_speech(case, rows, parity_table):
    tok = read_mimi(case.folder)
    assert "stream" in parity_table.conforms(case.id, tok, rows)
    found = parity_table.ways[case.id]
    assert {way: found[way].different for way in ("batch", "padded", "chunked", "streamed")} == {
        "batch": 0,
        "padded": 0,
        "chunked": 0,
        "streamed": 0,
    }


def test_batches_are_their_rows(case):
    tok, wav = read_mimi(case.folder), case.array("input")
    tok.row_by_row, tok.max_padding = False, 1.0
    parts = [wav[0, :41], wav[0, : 3 * HOP], wav[-1, 7000:], wav[0]]
    batch, latents = tok.encode(parts), tok.features(parts)[0]
    for i, part in enumerate(parts):
        alone = tok.encode(part)
        assert torch.equal(batch[i].tokens, alone.tokens)
        frames = int(alone.lengths)
        torch.testing.assert_close(latents[i : i + 1, :, :frames], tok.features(part)[0], atol=1e-5, rtol=0)


def test_facts_of_the_tokenizer(tokenizers):
    tok = tokenizers["tiny-8cb"]
    spec = tok.spec
    assert (spec.name, spec.sample_rate, spec.hop_length, spec.frame_rate) == ("mimi", 24000, HOP, 12.5)
    assert (spec.codebook_sizes, spec.channels) == ((64,) * 8, 1)
    assert (spec.streamable, spec.nested, spec.batching, spec.decodable) == (True, True, "mask", True)
    assert [tok.num_frames(samples) for samples in (1, HOP, HOP + 1, 45313)] == [1, 1, 2, 24]
    assert (tok.config.context, tok.config.heads, tok.config.layers, tok.config.hidden) == (20, 4, 2, 64)
    assert tok.provenance["license"] == "cc-by-4.0"
    assert tok.provenance["converted_from"]["file"] == FILE
    assert len(tok.provenance["converted_from"]["sha256"]) == 64


def test_half_a_network_is_enough_for_half_the_work(case, tok):
    wav = case.array("input")
    codes = tok.encode(wav)
    encoder, decoder = (read_mimi(case.folder).use_mode(mode) for mode in ("encode", "decode"))
    assert torch.equal(encoder.encode(wav).tokens, codes.tokens)
    assert torch.equal(decoder.decode(codes), tok.decode(codes))
    assert torch.equal(Codes.join(stream(encoder, wav, [5000])).tokens, codes.tokens)
    for call in (lambda: encoder.decode(codes), lambda: decoder.stream(), lambda: encoder.decode_stream()):
        with pytest.raises(UnsupportedError, match="was loaded with mode="):
            call()


def test_the_split_quantizer_adds_two_of_the_same_vectors(tokenizers):
    quantizer = tokenizers["tiny-8cb"].quantizer
    x = torch.randn(2, 32, 9)
    tokens = quantizer.encode(x)
    semantic, acoustic = quantizer.semantic, quantizer.acoustic
    assert torch.equal(tokens, torch.cat([semantic.encode(x), acoustic.encode(x)], 1))
    sides = torch.cat([semantic.decode(tokens[:, :1]), acoustic.decode(tokens[:, 1:])])
    torch.testing.assert_close(quantizer.decode(tokens), sides[:2] + sides[2:], atol=1e-6, rtol=0)
    assert torch.equal(quantizer.decode(tokens[:, :1]), semantic.decode(tokens[:, :1]))
    assert quantizer.encode(x, 3).shape == (2, 3, 9)
    assert quantizer.encode(x[..., :0]).shape == (2, 8, 0)
    assert quantizer.decode(tokens[..., :0]).shape == (2, 32, 0)
    with pytest.raises(InputError, match="num_codebooks must be from 1 to 8, not 9"):
        quantizer.encode(x, 9)
    with pytest.raises(InputError, match="wants"):
        quantizer.encode(x[:, :31])
    with pytest.raises(InputError, match="tokens run from"):
        quantizer.decode(tokens + 64)


def test_the_split_quantizer_passes_gradients_in_training():
    quantizer = SplitRVQ(12, (16,) * 4, semantic=1, codebook_dim=6).train()
    x = torch.randn(3, 12, 20, requires_grad=True)
    found = quantizer(x)
    assert torch.equal(found.tokens, quantizer.encode(x))
    torch.testing.assert_close(found.quantized, quantizer.decode(found.tokens), atol=1e-5, rtol=0)
    (found.quantized.square().mean() + found.loss).backward()
    for value in (x, *(part.project_in.weight for part in (quantizer.semantic, quantizer.acoustic))):
        assert value.grad is not None
        assert bool(value.grad.any())


# ---- reading ---------------------------------------------------------------------------------------


def copied(case: Case, target: Path, form: str = "") -> Path:
    ignored = shutil.ignore_patterns("*.npy", "hf", "meta.json")
    return Path(shutil.copytree(case.folder / form, target / "copy", ignore=ignored))


def test_the_file_alone_and_its_config_by_name(tmp_path):
    folder = copied(SHORT, tmp_path)
    wanted = read_mimi(SHORT.folder).fingerprint
    assert read_mimi(folder / FILE).fingerprint == wanted
    (folder / "moshi_mimi_config.json").rename(tmp_path / "sizes.json")
    assert read_mimi(folder / FILE, config=tmp_path / "sizes.json").fingerprint == wanted
    with pytest.raises(CheckpointError, match=r"in_proj_weight is \[96, 32\] .*wanted \[1536, 512\]"):  # as published
        read_mimi(folder)


def test_moshis_weights_are_found_beside_the_language_model(tmp_path):
    folder = copied(SHORT, tmp_path)
    save_file({"text_emb.weight": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "moshi"}))
    assert read_mimi(folder).fingerprint == read_mimi(SHORT.folder).fingerprint
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match="model_type is 'moshi', but only 'mimi'"):
        read_mimi(folder)


def test_the_published_sizes_need_no_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mimi"}))
    for described in (read_config(None, moshi=True), read_config(tmp_path / "config.json", moshi=False)):
        network = described.network
        assert (described.sample_rate, described.codebooks, described.codebook_size) == (24000, 32, 2048)
        assert (network.seanet.dimension, network.seanet.filters, network.seanet.ratios) == (512, 64, (8, 6, 5, 4))
        assert (network.heads, network.layers, network.hidden, network.context) == (8, 8, 2048, 250)
        assert (network.stride, network.semantic, network.codebook_dim) == (2, 1, 256)
        assert (network.max_period, network.epsilon) == (10000.0, 1e-5)


def test_configs_of_older_transformers_say_the_same(tmp_path):
    folder = copied(SHORT, tmp_path, "hf")
    facts = json.loads((folder / "config.json").read_text())
    theta = facts.pop("rope_parameters")["rope_theta"]
    facts |= {"rope_theta": theta, "frame_rate": facts.pop("_frame_rate"), "rope_scaling": None, "head_dim": None}
    (folder / "config.json").write_text(json.dumps(facts))
    assert read_mimi(folder).fingerprint == read_mimi(SHORT.folder).fingerprint


def test_weights_in_half_precision_are_widened_before_anything_is_computed(tmp_path):
    folder = copied(SHORT, tmp_path)
    tensors = {name: value.bfloat16() for name, value in load_file(folder / FILE).items()}
    save_file(tensors, folder / FILE)
    tok = read_mimi(folder)
    assert {value.dtype for value in tok.state_dict().values()} == {torch.float32}
    sums, uses = (
        tensors[f"quantizer.rvq_first.vq.layers.0._codebook.{part}"] for part in ("embedding_sum", "cluster_usage")
    )
    assert torch.equal(tok.codebooks[0], sums.float() / uses.float().clamp(min=1e-5)[:, None])


def set_to(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.clear(), r"config\.json"),
        (lambda state: state.pop("downsample.conv.conv.conv.weight"), "no weights 'downsample.conv.weight'"),
        (lambda state: state.pop("quantizer.rvq_rest.vq.layers.6._codebook.cluster_usage"), "cluster_usage"),
        (lambda state: state.pop("decoder_transformer.transformer.layers.1.layer_scale_2.scale"), "mlp_layer_scale"),
        (set_to("extra.weight", torch.zeros(1)), "no part of the network takes: extra.weight"),
        (set_to("quantizer.rvq_rest.vq.layers.7._codebook.embedding_sum", torch.zeros(64, 16)), "no part of the"),
        (set_to("encoder.model.0.conv.conv.weight", torch.zeros(4, 1, 9)), r"\[4, 1, 9\] torch.float32, wanted"),
        (set_to("decoder.model.2.convtr.convtr.weight", torch.zeros(64, 32, 10)), "wanted a kernel of 16"),
        (set_to("decoder.model.2.convtr.convtr.weight", torch.zeros(64)), "wanted a kernel of 16"),
        (
            set_to("encoder_transformer.transformer.layers.0.self_attn.in_proj_weight", torch.zeros(95, 32)),
            r"in_proj_weight is \[95, 32\] torch.float32, wanted \[96, 32\] numbers",
        ),
        (set_to("quantizer.rvq_first.input_proj.weight", torch.zeros(16, 32, 3)), r"wanted \[16, 32\] numbers"),
        (set_to("quantizer.rvq_first.vq.layers.0._codebook.cluster_usage", torch.ones(63)), r"\[63\]"),
        (set_to("quantizer.rvq_first.vq.layers.0._codebook.cluster_usage", torch.ones(64).int()), "int32"),
    ],
)
def test_weights_of_anything_else_are_refused(tmp_path, edit, message):
    folder = copied(SHORT, tmp_path)
    tensors = load_file(folder / FILE)
    edit(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(CheckpointError, match=message):
        read_mimi(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_filters": 10**9}, "num_filters must be a whole number from 1 to 16384, not 1000000000"),
        ({"num_filters": 8}, "wanted"),
        ({"num_filters": 0}, "num_filters must be"),
        ({"num_filters": 16384, "upsampling_ratios": [2] * 64}, "grow to .* channels"),
        ({"upsampling_ratios": [8, 6, 5, 10**9]}, "upsampling_ratios must be a whole number"),
        ({"upsampling_ratios": "8654"}, "upsampling_ratios must be a list"),
        ({"compress": 100}, "cannot be divided by 100"),
        ({"hidden_size": 10**9}, "hidden_size must be"),
        ({"hidden_size": 64, "upsample_groups": 64, "head_dim": 16}, "wanted"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 3}, "has no weights"),
        ({"num_hidden_layers": 1}, "no part of the network takes"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 6}, "5 heads must share 32 channels"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, but only 4"),
        ({"num_quantizers": 10**9}, "num_quantizers must be"),
        ({"num_quantizers": 7}, "no part of the network takes"),
        ({"num_semantic_quantizers": 8}, "8 of 8 codebooks are semantic"),
        ({"codebook_size": 1 << 20}, r"wanted \[1048576, 16\] numbers"),
        ({"codebook_dim": "16"}, "codebook_dim must be"),
        ({"vector_quantization_hidden_dimension": 8}, "vector_quantization_hidden_dimension is 8, but only 16"),
        ({"sliding_window": True}, "sliding_window must be"),
        ({"num_residual_layers": 100}, "num_residual_layers must be"),
        ({"dilation_growth_rate": 10**6}, "dilation_growth_rate must be"),
        ({"_frame_rate": 10.0}, "10.0 frames/s are no whole fraction of 25.0"),
        ({"_frame_rate": 25.0}, "frame_rate must be a number from"),
        ({"norm_eps": float("nan")}, "norm_eps must be a number"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "no such rotary positions"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta must be a number"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling"),
        ({"pad_mode": "reflect"}, "pad_mode is 'reflect', but only 'constant'"),
        ({"use_causal_conv": False}, "use_causal_conv"),
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"model_type": "encodec"}, "model_type is 'encodec'"),
    ],
)
def test_a_config_that_lies_is_refused(tmp_path, change, message):
    folder = copied(SHORT, tmp_path, "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        read_mimi(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("seanet", {"pad_mode": "reflect"}, "seanet.pad_mode is 'reflect'"),
        ("seanet", {"true_skip": False}, "seanet.true_skip"),
        ("seanet", {"n_filters": 10**9}, "num_filters must be"),
        ("transformer", {"context": None}, "sliding_window must be"),
        ("transformer", {"gating": "silu"}, "transformer.gating"),
        ("transformer", {"num_heads": 3}, "3 heads must share 32 channels"),
        ("quantizer", {"n_q": 9}, "has no weights"),
    ],
)
def test_a_config_of_moshi_that_lies_is_refused(tmp_path, part, change, message):
    folder = copied(SHORT, tmp_path)
    config = json.loads((folder / "moshi_mimi_config.json").read_text())
    config[part] |= change
    (folder / "moshi_mimi_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_mimi(folder)


class Trap:
    """An object whose unpickling creates a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_broken_and_hostile_files_are_refused_and_nothing_in_them_runs(tmp_path):
    folder = copied(SHORT, tmp_path)
    whole = (folder / FILE).read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (folder / FILE).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"tokenizer-tiny"):
            read_mimi(folder)
    torch.save({"quantizer.rvq_first.x": Trap(tmp_path / "mark")}, folder / FILE)
    with pytest.raises(CheckpointError, match=r"tokenizer-tiny"):
        read_mimi(folder)
    assert not (tmp_path / "mark").exists()
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match="holds no weights file"):
        read_mimi(folder)
    hf = copied(LONG, tmp_path / "hf", "hf")
    (hf / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_mimi(hf)
