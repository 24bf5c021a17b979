"""ESC against upstream's own output, and the promises of the interface."""

import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import audiotok
from audiotok.backends.esc import ESC, read_esc
from audiotok.backends.esc_config import ESCConfig
from audiotok.backends.esc_network import spectrum_of, unfold, wav_of
from audiotok.errors import CheckpointError, InputError, UnsupportedError

from .cases import Case, cases

CASES = cases("esc")
FEWER_STREAMS = {"conv_6streams": 3, "swin_6streams": 2}  # in recon_fewer_streams.npy

PUBLISHED = ESCConfig(
    backbone="transformer",
    widths=(45, 72, 96, 144, 192, 384),
    depth=2,
    heads=(3, 6, 12, 24, 24),
    window=4,
    mlp_ratio=4.0,
    patch=(3, 2),
    overlap=2,
    groups=3,
    codebook_size=1024,
    codebook_dims=(8,) * 6,
    cosine=True,
    bins=192,
    sample_rate=16000,
    window_length=320,
    stft_hop=80,
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, ESC]:
    return {case.name: read_esc(case.folder) for case in CASES}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def tok(case: Case, tokenizers: dict[str, ESC]) -> ESC:
    return tokenizers[case.name]


def upstream_tokens(case: Case) -> Tensor:
    """[B, streams · groups, F] of upstream's [B, streams, groups, F]."""
    return case.array("codes").flatten(1, 2)


def test_the_fixtures_are_there():
    assert [case.name for case in CASES] == ["conv_6streams", "swin_6streams"]


# ---- equal to upstream -----------------------------------------------------------------------------


def test_codes_and_audio_are_upstreams(case, tok, parity_table):
    wanted, recon = upstream_tokens(case), case.array("recon")
    tokens = tok.encode(case.array("input")).tokens
    wav = tok.decode(wanted)[:, 0]
    assert wav.shape[1] == wanted.shape[2] * 320 == recon.shape[1] + 80  # upstream stops a hop of the transform earlier
    parity_table.fixture(
        case.id,
        tokens,
        wanted,
        wav=wav[:, : recon.shape[1]],
        wanted_wav=recon,
        tolerance=case.meta["tolerance"]["recon_abs"],
    )


def test_features_begin_with_upstreams_latent(case, tok):
    features, lengths = tok.features(case.array("input"))
    wanted = case.array("latent")
    if wanted.dim() == 3:  # [B, frequency · time, C]
        wanted = wanted.unflatten(1, (2, -1)).permute(0, 3, 1, 2)
    coarsest = unfold(features[:, : tok.quantizer.dims[0]], overlap=2, height=2)
    assert coarsest.shape == wanted.shape
    assert float((coarsest - wanted).abs().max()) <= case.meta["tolerance"]["latent_abs"]
    assert lengths.tolist() == [case.array("codes").shape[3]] * len(features)


def test_fewer_streams_decode_and_encode_as_upstreams(case, tok):
    rows = 3 * FEWER_STREAMS[case.name]
    wanted = case.array("recon_fewer_streams")
    wav = tok.decode(upstream_tokens(case)[:, :rows])[:, 0, : wanted.shape[1]]
    assert float((wav - wanted).abs().max()) <= 1e-4
    fewer = read_esc(case.folder).use_codebooks(rows).encode(case.array("input"))
    assert torch.equal(fewer.tokens, upstream_tokens(case)[:, :rows])
    assert torch.equal(tok.decode(fewer), tok.decode(tok.encode(case.array("input")).truncate(rows)))


def test_published_sizes_give_the_published_number_of_weights():
    counts = []
    for depth in (2, 4):  # ESC-Base and ESC-Large
        config = ESCConfig.from_dict({**PUBLISHED.to_dict(), "depth": depth})
        with torch.device("meta"):
            state = ESC(config.spec("esc"), config).state_dict()
        ours = {
            name: value.numel()
            for name, value in state.items()
            if not name.endswith((".project_in.bias", ".project_out.bias"))
        }
        tables = sum(value.shape[0] * 49 for name, value in state.items() if name.endswith(".position_bias"))
        counts.append(tables + sum(count for name, count in ours.items() if not name.endswith(".position_bias")))
    assert counts == [8386373, 15580931]  # upstream's README: 8.39 M and 15.58 M
    spec = PUBLISHED.spec("esc")
    assert (spec.frame_rate, spec.bitrate_bps, spec.truncate(3).bitrate_bps) == (50.0, 9000.0, 1500.0)


# ---- streams ---------------------------------------------------------------------------------------


def test_streams_stay_whole(tokenizers):
    tok, codes = read_esc(CASES[1].folder), tokenizers["swin_6streams"].encode(CASES[1].array("input"))
    assert tok.spec.row_levels == tuple(row // 3 for row in range(18))
    for cut in (
        lambda: tok.use_codebooks(4),
        lambda: codes.truncate(2),
        lambda: tok.decode(codes.tokens[:, :5]),
    ):
        with pytest.raises(InputError, match="take 3, 6, 9, 12, 15, 18 of them"):
            cut()
    assert tok.use_bandwidth(2.0).spec.num_codebooks == 6  # 0.9 kbit/s a stream
    assert tok.use_bandwidth(0.1).spec.num_codebooks == 3


def test_codebooks_are_one_table_per_row(tok, case):
    tables = tok.codebooks
    config = yaml.safe_load((case.folder / "config.yaml").read_text())["model"]
    assert [tuple(table.shape) for table in tables] == [
        (config["codebook_size"], dim) for dim in config["codebook_dims"] for _ in range(3)
    ]


# ---- lengths ---------------------------------------------------------------------------------------


def test_any_length_is_filled_up_to_the_next_that_upstream_takes():
    frames = {1: 1, 239: 1, 240: 1, 399: 1, 400: 2, 559: 2, 560: 2, 719: 2, 720: 3, 12720: 40, 16000: 50, 159920: 500}
    assert {count: PUBLISHED.num_frames(count) for count in frames} == frames
    for count in range(1, 3000):
        padded = PUBLISHED.padded_samples(count)
        patches = (1 + padded // 80) // 2
        assert patches % 2 == 0
        assert patches // 2 == PUBLISHED.num_frames(count)
        assert padded == count or (padded % 320 == 240 and padded - count < 320)
        if padded > count > 240:  # only because upstream does not take it
            assert (1 + count // 80) // 2 % 2 == 1


def test_zeros_at_the_end_are_those_of_the_length_in_between(tok, speech):
    for count in (100, 500, 5000, 5500):
        row = speech[0][:, 4000 : 4000 + count]
        padded = torch.nn.functional.pad(row, (0, tok.config.padded_samples(count) - count))
        assert torch.equal(tok.encode([row]).tokens, tok.encode([padded]).tokens)


def test_the_end_that_upstream_leaves_out_is_in_the_spectrum(speech):
    """The 80 samples after the last frame's centre come back from the transform as exactly as those before it."""
    wav = speech[0][:, 4000:12000]
    back = wav_of(spectrum_of(wav, PUBLISHED)[..., :96], PUBLISHED)
    assert back.shape == (1, 24 * 320)
    assert float((back - wav[:, :7680]).abs().max()) <= 1e-6


def test_bare_tokens_decode_to_whole_frames(tok, case):
    wav = tok.decode(upstream_tokens(case)[0, :, :7])
    assert wav.shape == (1, 1, 7 * 320)
    assert int((wav[..., -80:] != 0).sum()) == 80


# ---- batches and pieces ----------------------------------------------------------------------------


def test_a_batch_equals_its_rows(tokenizers):
    tok, wav = read_esc(CASES[1].folder), CASES[1].array("input")
    tok.row_by_row = False
    assert torch.equal(tok.encode(wav).tokens, torch.cat([tok.encode(row[None]).tokens for row in wav]))


def test_context_is_that_of_the_layers(tokenizers):
    swin, conv = tokenizers["swin_6streams"], tokenizers["conv_6streams"]
    assert (swin.config.grid, swin.context, swin.decode_context) == (2, (7040, 6480), 14)
    assert (conv.config.grid, conv.context, conv.decode_context) == (1, (5440, 80), 12)


def test_nothing_beyond_the_context_is_seen(tok, speech):
    wav = speech[0][:, :32000]
    frame, (left, right) = 50, tok.context
    first, stop = frame * 320 - left, (frame + 1) * 320 + right
    other = wav.flip(1)
    other[:, first:stop] = wav[:, first:stop]
    assert torch.equal(tok.encode([wav]).tokens[0, :, frame], tok.encode([other]).tokens[0, :, frame])


def test_long_audio_in_pieces_is_what_it_is_whole(tok, speech):
    wav = torch.cat(speech[:2], 1)
    codes = tok.encode([wav])
    audio = tok.decode(codes)
    for seconds in (0.25, 1.0):
        with pieces_of(tok, seconds):
            assert torch.equal(tok.encode([wav]).tokens, codes.tokens)
            assert float((tok.decode(codes) - audio).abs().max()) <= 1e-5


def test_pieces_with_too_little_context_would_show(tok, speech):
    """The check above has power."""
    codes = tok.encode([speech[0]])
    audio = tok.decode(codes)
    with pieces_of(tok, 0.33, context=(640, 80), decode_context=2):
        assert int((tok.encode([speech[0]]).tokens != codes.tokens).sum()) > 20
        assert float((tok.decode(codes) - audio).abs().max()) > 1e-2


@contextmanager
def pieces_of(tok: ESC, seconds: float, **others: object) -> Iterator[None]:
    before = {name: getattr(tok, name) for name in ("chunk_seconds", *others)}
    assert before["chunk_seconds"] == 10.0
    vars(tok).update(chunk_seconds=seconds, **others)
    try:
        yield
    finally:
        vars(tok).update(before)


# ---- the interface ---------------------------------------------------------------------------------


def test_it_is_a_tokenizer(tok, case, speech, parity_table):
    rows = [row[:, 6000 : 24000 - 1234 * i] for i, row in enumerate(speech)]
    parity_table.conforms(case.id, tok, rows)


def test_half_of_it_is_enough_for_one_way(case, tok, tmp_path):
    tok.save(tmp_path)
    encoder, decoder = (audiotok.load(tmp_path, mode=mode) for mode in ("encode", "decode"))
    codes = encoder.encode(case.array("input"))
    assert torch.equal(codes.tokens, upstream_tokens(case))
    assert torch.equal(decoder.decode(codes), tok.decode(codes))
    with pytest.raises(UnsupportedError, match="mode="):
        encoder.decode(codes)


def test_a_spec_of_other_sizes_is_refused():
    with pytest.raises(InputError, match="must be those of its network"), torch.device("meta"):
        ESC(ESCConfig.from_dict({**PUBLISHED.to_dict(), "overlap": 4}).spec("esc"), PUBLISHED)


# ---- the reader ------------------------------------------------------------------------------------


def test_convert_names_the_file_and_takes_it_alone(case, tok):
    found = audiotok.convert("esc", case.folder / "model.pth", name="mine")
    assert found.spec.name == "mine"
    assert (found.fingerprint, found.provenance["converted_from"]["file"]) == (tok.fingerprint, "model.pth")
    assert tok.spec.name == {"conv_6streams": "esc-5.03kbps", "swin_6streams": "esc-5.4kbps"}[case.name]


def test_a_bare_state_dict_is_read(case, tok, tmp_path):
    shutil.copy(case.folder / "config.yaml", tmp_path)
    checkpoint = torch.load(case.folder / "model.pth", weights_only=True)
    assert {"optimizer_state_dict", "step"} <= checkpoint.keys()
    torch.save(checkpoint["model_state_dict"], tmp_path / "model.pth")
    assert read_esc(tmp_path).fingerprint == tok.fingerprint


def broken(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], name: str = "swin_6streams") -> Path:
    """A copy of a fixture with other weights."""
    folder = next(case.folder for case in CASES if case.name == name)
    shutil.copy(folder / "config.yaml", tmp_path)
    state = torch.load(folder / "model.pth", weights_only=True)["model_state_dict"]
    change(state)
    torch.save({"model_state_dict": state}, tmp_path / "model.pth")
    return tmp_path


ATTENTION = "encoder.pre_nn.swint_blocks.1.attn."
NORM = "decoder.blocks.2.blocks.2."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.post_nn.swint_blocks.0.mlp.linear_1.weight"), "post_nn.swint_blocks.0.mlp.linear_1"),
        (lambda s: s.pop("quantizers.3.up_projs.1.weight"), "quantizers.3.up_projs.1.weight"),
        (lambda s: s.update({"encoder.extra": torch.zeros(1)}), "encoder.extra"),
        (lambda s: s.update({"quantizers.0.vqs.0.embedding.weight": torch.zeros(64, 15)}), r"\[64, 15\]"),
        (lambda s: s.update({"quantizers.0.down_projs.0.weight": torch.zeros(())}), r"project_in.weight is \[\]"),
        (lambda s: s.update({"encoder.patch_embed.proj.bias": torch.zeros(12, dtype=torch.int64)}), "int64"),
        (lambda s: s.update({"ft.window": torch.hamming_window(320)}), "ft.window is not a Hann window"),
        (lambda s: s.update({"ift.window": torch.hann_window(400)}), "ift.window is not a Hann window"),
        (lambda s: s[ATTENTION + "relative_position_index"].add_(1), "must be int64 in 0..48"),
        (lambda s: s.update({ATTENTION + "relative_position_bias_table": torch.zeros(48, 3)}), r"\[48, 3\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_esc(broken(tmp_path, change))
    assert "model.pth" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(NORM + "running_var"), "decoder.blocks.2.blocks.2.running_var"),
        (lambda s: s.update({NORM + "running_mean": torch.zeros(1)}), "decoder.blocks.2.blocks.2 does not fit"),
        (
            lambda s: s.update({"decoder.blocks.2.blocks.1.conv.weight": torch.zeros(12)}),
            "does not fit the convolution",
        ),
        (lambda s: s.pop("encoder.blocks.0.blocks.0.block.5.weight"), "encoder.blocks.0.blocks.0.block.5.weight"),
    ],
)
def test_convolutions_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        read_esc(broken(tmp_path, change, "conv_6streams"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"h_dims": [10**9] * 6}, "widths of an ESC cannot be"),
        ({"h_dims": [12, 18, 24, 24, 32, 65535]}, "heads that divide the widths"),
        ({"swin_depth": 10**6}, "depth of an ESC cannot be"),
        ({"swin_depth": 60000}, "at most 64"),
        ({"swin_depth": 4}, "swint_blocks.2"),
        ({"group_size": 65}, "at most 64"),
        ({"group_size": 4}, "quantizers.0.down_projs.3"),
        ({"codebook_size": 65000}, r"wanted \[65000, 16\]"),
        ({"codebook_dims": [8] * 5}, "6 codebook_dims"),
        ({"codebook_dims": [53, 16, 8, 8, 6, 6]}, "codebook_dims other than"),
        ({"max_streams": 5}, "max_streams is 5, but must be 6"),
        ({"in_dim": 1}, "in_dim is 1, but must be 2"),
        ({"in_freq": 190}, "bins that 96 divides"),
        ({"window_size": 1000}, "a window of 2 to 16"),
        ({"win_len": float("nan")}, "win_len, hop_len and sr"),
        ({"hop_len": 10}, "a window of 2 hops"),
        ({"mlp_ratio": True}, "mlp_ratio of an ESC cannot be"),
        ({"l2norm": "yes"}, "cosine of an ESC cannot be"),
        ({"patch_size": [3]}, "a patch of bins and frames"),
        ({"backbone": "mamba"}, "backbone of an ESC cannot be"),
        ({"backbone": "convolution"}, "has no weights 'encoder.pre_nn.conv.weight'"),
        ({"backbone": "convolution", "kernel_size": [3, 3]}, "kernel_size is"),
        ({"num_rvqs": 6}, "an ESC has no num_rvqs"),
    ],
)
def test_sizes_that_make_no_such_network_are_refused(tmp_path, values, message):
    folder = CASES[1].folder
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"].update(values)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(folder / "model.pth", tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read_esc(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name: rvq+swinT\nmodel: {}", "only csvq"),
        ("model_name: csvq+swinT", "wanted the network's sizes"),
        ("model: !!python/object/apply:os.system [true]", "tag"),
        ("model_name: csvq+swinT\nmodel: {}", r"wanted \[49, 12\] and \[16, 16\]"),  # the published sizes
    ],
)
def test_another_config_is_refused(tmp_path, text, message):
    shutil.copy(CASES[1].folder / "model.pth", tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_esc(tmp_path)


class Call:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a pickle ran",)


def test_broken_and_hostile_files_are_refused(tmp_path, capsys):
    folder = CASES[1].folder
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_esc(tmp_path)
    shutil.copy(folder / "config.yaml", tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        read_esc(tmp_path)
    data = (folder / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        read_esc(tmp_path)
    (tmp_path / "model.pth").write_bytes(pickle.dumps({"model_state_dict": Call()}))
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        read_esc(tmp_path)
    torch.save({"model_state_dict": [1, 2]}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="tensors by name"):
        read_esc(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_saved_config_that_lies_is_refused(tok, tmp_path):
    tok.save(tmp_path)
    path = tmp_path / "config.json"
    for old, new in ((f'"groups": {tok.config.groups}', '"groups": 0'), ('"overlap": 2', '"overlap": 4')):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=r"config\.json"):
            audiotok.load(tmp_path)
        path.write_text(text)
    assert math.isclose(audiotok.load(tmp_path).spec.frame_rate, 50.0)
