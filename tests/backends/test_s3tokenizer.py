import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

import audiotok
from audiotok.backends.s3tokenizer import read_s3tokenizer
from audiotok.backends.s3tokenizer_network import log_mel
from audiotok.errors import CheckpointError, InputError, UnsupportedError
from tests.onnx_writer import model, node, tensor_proto
from tests.parity_table import ParityTable

from .cases import Case, cases

CASES = cases("s3tokenizer")
V1_50HZ, V1_25HZ, V2 = (Case("s3tokenizer", name) for name in ("v1-50hz", "v1-25hz", "v2-25hz"))
RATES = {"v1-50hz": 50, "v1-25hz": 25, "v2-25hz": 25}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def weights_of(case: Case) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(next(case.folder.glob("*.pt")), weights_only=True)
    return state


def config_of(case: Case) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((case.folder / "config.json").read_text())
    return config


def rows_of(case: Case) -> list[Tensor]:
    lengths = case.array("num_samples").tolist()
    return [row[None, :length] for row, length in zip(case.array("input"), lengths, strict=True)]


def valid(values: Tensor, lengths: Tensor) -> list[Tensor]:
    return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]


def write(folder: Path, state: dict[str, Tensor], config: dict[str, Any] | None, file: str = "model.pt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / file)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# ---- the same as upstream ----------------------------------------------------------------------------


@every_case
def test_codes_of_a_batch_and_of_single_rows_are_upstreams(case: Case, parity_table: ParityTable) -> None:
    tok = read_s3tokenizer(case.folder)
    wanted = valid(case.array("codes"), case.array("code_lengths"))
    codes = tok.encode(case.array("input"), lengths=case.array("num_samples"))
    assert codes.lengths.tolist() == case.array("code_lengths").tolist()
    found = valid(codes.tokens[:, 0], codes.lengths)
    parity_table.fixture(case.id, torch.cat(found), torch.cat(wanted))
    for i, row in enumerate(rows_of(case)):
        assert torch.equal(tok.encode([row]).tokens[0], case.array(f"codes_single_{i}"))
    tok.row_by_row, tok.max_padding = False, 1.0  # one padded call
    assert torch.equal(tok.encode(rows_of(case)).tokens, codes.tokens)


@every_case
def test_log_mel_frames_are_upstreams(case: Case) -> None:
    wanted = valid(case.array("mel").transpose(1, 2), case.array("mel_lengths"))
    for row, mel in zip(rows_of(case), wanted, strict=True):
        found = log_mel(row[0])
        assert found.shape == (128, row.shape[1] // 160) == mel.t().shape
        assert (found - mel.t()).abs().max() < 5e-5


@every_case
@pytest.mark.parametrize("row_by_row", [True, False])
def test_hidden_states_are_upstreams(case: Case, row_by_row: bool) -> None:
    tok = read_s3tokenizer(case.folder)
    tok.row_by_row, tok.max_padding = row_by_row, 1.0
    features, lengths = tok.features(rows_of(case))
    assert lengths.tolist() == case.array("code_lengths").tolist()
    wanted = valid(case.array("hidden"), case.array("code_lengths"))
    for i, hidden in enumerate(wanted):
        assert (features[i, :, : len(hidden)].t() - hidden).abs().max() < case.meta["tolerance"]["hidden"]
        assert not features[i, :, len(hidden) :].any()


@every_case
def test_conformance_on_speech(case: Case, speech: list[Tensor], parity_table: ParityTable) -> None:
    tok = read_s3tokenizer(case.folder)
    parity_table.conforms(case.id, tok, speech)
    assert {way for way, one in parity_table.ways[case.id].items() if one.different} <= {"bfloat16"}


@every_case
def test_what_it_is(case: Case) -> None:
    tok = audiotok.convert("s3tokenizer", case.folder)
    rate = RATES[case.name]
    assert tok.spec.name == f"s3tokenizer-{case.name}"
    assert (tok.spec.sample_rate, tok.spec.frame_rate, tok.spec.num_codebooks) == (16000, rate, 1)
    assert tok.spec.codebook_sizes == (config_of(case)["n_codebook_size"],)
    assert (tok.spec.batching, tok.spec.decodable, tok.context) == ("mask", False, None)
    assert tok.provenance["converted_from"]["file"] == next(case.folder.glob("*.pt")).name
    samples = [1, 200, 201, 319, 320, 321, 479, 480, 639, 640, 641, 799, 800, 801, 16000]
    mel_frames = [max(count, 201) // 160 for count in samples]
    wanted = [-(-count // (100 // rate)) for count in mel_frames]
    wavs = [torch.sin(torch.arange(count) / 9) for count in samples]
    assert tok.encode(wavs).lengths.tolist() == wanted
    with pytest.raises(UnsupportedError, match="only encodes"):
        tok.decode(tok.encode(wavs[-1]))


def test_tokens_are_embedded_as_entries_or_levels() -> None:
    first, last = torch.tensor([[[0, 5]]]), torch.tensor([[[6560, 1]]])
    v1, v2 = read_s3tokenizer(V1_25HZ.folder), read_s3tokenizer(V2.folder)
    entries = weights_of(V1_25HZ)["quantizer._codebook.embed"]
    assert torch.equal(v1.codebooks[0], entries)
    assert torch.equal(v1.embed(first)[0].t(), entries[[0, 5]])
    assert v2.codebooks[0].shape == (6561, 8)
    assert v2.embed(first)[0].t().tolist() == [[-1] * 8, [1, 0, *[-1] * 6]]  # 5 = 2 + 1 · 3: lowest digit first
    assert v2.embed(last)[0].t().tolist() == [[1] * 8, [0, *[-1] * 7]]


# ---- which network it is -----------------------------------------------------------------------------


def test_neither_names_of_files_nor_of_folders_decide(tmp_path: Path) -> None:
    for case, wrong in ((V1_25HZ, "speech_tokenizer_v2_25hz"), (V1_50HZ, "v3"), (V2, "speech_tokenizer_v1")):
        folder = write(tmp_path / wrong, weights_of(case), {**config_of(case), "name": wrong}, f"{wrong}.pt")
        tok = read_s3tokenizer(folder / f"{wrong}.pt")
        assert tok.spec.name == f"s3tokenizer-{case.name}"
        assert torch.equal(tok.encode(rows_of(case)[:1]).tokens[0], case.array("codes_single_0"))


def test_a_state_dict_of_v1_without_its_rate_needs_it(tmp_path: Path) -> None:
    config = config_of(V1_50HZ)
    del config["stride"]
    folder = write(tmp_path, weights_of(V1_50HZ), config)
    with pytest.raises(InputError, match=r"does not hold its rate: give frame_rate=50 or frame_rate=25"):
        read_s3tokenizer(folder)
    wav = rows_of(V1_50HZ)[:1]
    assert torch.equal(read_s3tokenizer(folder, frame_rate=50).encode(wav).tokens[0], V1_50HZ.array("codes_single_0"))
    slow = audiotok.convert("s3tokenizer", folder, frame_rate=25)
    assert (slow.spec.frame_rate, slow.encode(wav).lengths.tolist()) == (25, [35])
    with pytest.raises(InputError, match="must be 25 or 50 Hz, not 12"):
        read_s3tokenizer(folder, frame_rate=12)
    with pytest.raises(InputError, match="gives 25 frames a second, not frame_rate=50"):
        read_s3tokenizer(V1_25HZ.folder, frame_rate=50)
    with pytest.raises(InputError, match="gives 25 frames a second, not frame_rate=50"):
        read_s3tokenizer(V2.folder, frame_rate=50)


def test_v2_needs_no_config_and_half_weights_will_do(tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in weights_of(V2).items()}
    tok = read_s3tokenizer(write(tmp_path, halves, {"model_type": "cosyvoice"}))  # a config of something else
    assert (tok.spec.name, tok.dtype) == ("s3tokenizer-v2-25hz", torch.float32)
    assert tok.codebooks[0].shape == (6561, 8)


def test_v3_is_v2_with_twelve_blocks(tmp_path: Path, speech: list[Tensor]) -> None:
    state = {name: value for name, value in weights_of(V2).items() if ".blocks." not in name}
    for i in range(12):
        blocks = ((name, value) for name, value in weights_of(V2).items() if f".blocks.{i % 2}." in name)
        state |= {name.replace(f".blocks.{i % 2}.", f".blocks.{i}."): value for name, value in blocks}
    tok = read_s3tokenizer(write(tmp_path, state, None))
    assert tok.spec.name == "s3tokenizer-v3-25hz"
    wav = speech[0][0]
    assert torch.equal(tok.encode(wav).tokens[0, 0], reference(state, config_of(V2), reference_mel(wav)))
    assert not torch.equal(tok.encode(wav).tokens, read_s3tokenizer(V2.folder).encode(wav).tokens)


# ---- long audio --------------------------------------------------------------------------------------


def reference_mel(wav: Tensor) -> Tensor:
    """[M, 128] of wav [T]: transformers' filter bank over one transform of everything, in float64."""
    spectrum = torch.stft(
        wav.double(), 400, 160, window=torch.hann_window(400).double(), pad_mode="reflect", return_complex=True
    )[:, :-1]
    bank = torch.from_numpy(mel_filter_bank(201, 128, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney"))
    mel = (bank.t().double() @ spectrum.abs() ** 2).clamp(min=1e-10).log10()
    return ((torch.maximum(mel, mel.max() - 8) + 4) / 4).t()


def reference(state: dict[str, Tensor], config: dict[str, Any], mel: Tensor) -> Tensor:
    """Tokens [F] of mel [M, 128]: the network written out once more, without masks, in float64."""
    weights = {name.removeprefix("encoder."): value.double() for name, value in state.items()}
    stride = config["stride"]

    def affine(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].t() + weights.get(f"{name}.bias", 0.0)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = mel.double().t()[None]
    for name, step in (("conv1", stride), ("conv2", 2)):
        x = functional.gelu(functional.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], step, padding=1))
    x = x[0].t()
    frames, heads = len(x), config["n_audio_head"]
    if "positional_embedding" in weights:
        x = x + weights["positional_embedding"][:frames]
    width = x.shape[1] // heads
    angles = torch.arange(frames)[:, None] * (1 / 10000.0 ** (torch.arange(32) / 32))  # float32, as upstream's
    turns = torch.polar(torch.ones(frames, 32).double(), angles.double())
    for i in range(sum(name.endswith("attn.key.weight") for name in weights)):
        block = f"blocks.{i}"
        y = norm(x, f"{block}.attn_ln")
        query, key, value = (affine(y, f"{block}.attn.{part}") for part in ("query", "key", "value"))
        mixed = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            q, k = query[:, part], key[:, part]
            if "positional_embedding" not in weights:  # pairs as complex numbers
                q, k = (
                    torch.view_as_real(torch.complex(one[:, :32], one[:, 32:]) * turns).transpose(1, 2).flatten(1)
                    for one in (q, k)
                )
            mixed.append(torch.softmax(q @ k.t() / width**0.5, dim=1) @ value[:, part])
        x = x + affine(torch.cat(mixed, 1), f"{block}.attn.out")
        if f"{block}.attn.fsmn_block.weight" in weights:
            padded = functional.pad(value.t(), (15, 15)).unfold(1, 31, 1)  # [D, F, 31]
            x = x + value + (padded * weights[f"{block}.attn.fsmn_block.weight"]).sum(2).t()
        x = x + affine(functional.gelu(affine(norm(x, f"{block}.mlp_ln"), f"{block}.mlp.0")), f"{block}.mlp.2")
    if "quantizer._codebook.embed" in weights:
        return torch.cdist(functional.normalize(x), weights["quantizer._codebook.embed"]).argmin(1)
    digits = (affine(x, "quantizer._codebook.project_down").tanh() * 0.9990000128746033).round() + 1
    return (digits @ 3.0 ** torch.arange(8).double()).long()


def upstream_windows(state: dict[str, Tensor], config: dict[str, Any], mel: Tensor) -> list[int]:
    """Tokens of s3tokenizer 0.3.0: windows of 3000 frames as long as one begins before the end, 2 s cut at joints."""
    rate = 50 // config["stride"]
    pieces = [reference(state, config, mel[first : first + 3000]).tolist() for first in range(0, len(mel), 2600)]
    found: list[int] = []
    for i, piece in enumerate(pieces):
        found += piece[2 * rate if i else 0 : len(piece) if i == len(pieces) - 1 else -2 * rate]
    return found


def long_table(case: Case) -> dict[str, Tensor]:
    """The weights of a case, with as many positions as 30 s need."""
    state = weights_of(case)
    table = state.get("encoder.positional_embedding")
    if table is not None:
        noise = torch.randn(1500, table.shape[1], generator=torch.Generator().manual_seed(1))
        state["encoder.positional_embedding"] = noise * table.std()
    return state


def spoken(speech: list[Tensor], samples: int) -> Tensor:
    once = torch.cat([row[0] for row in speech])
    pieces = [once * (0.5 + 0.5 * torch.rand((), generator=torch.Generator().manual_seed(i))) for i in range(16)]
    return torch.cat(pieces)[:samples]


@every_case
def test_long_audio_has_upstreams_codes(case: Case, speech: list[Tensor], tmp_path: Path) -> None:
    state, config = long_table(case), {**config_of(case), "n_audio_ctx": 1500}
    tok = read_s3tokenizer(write(tmp_path, state, config))
    wavs = [spoken(speech, mel_frames * 160 + 99) for mel_frames in (3000, 3001, 5997)]
    for wav in wavs:
        mel = reference_mel(wav)
        wanted = upstream_windows(state, config, mel) if len(mel) > 3000 else reference(state, config, mel).tolist()
        codes = tok.encode(wav)
        assert len(wanted) == codes.tokens.shape[2] == tok.num_frames(len(wav)) == -(-len(mel) // tok.mel_stride)
        assert codes.tokens[0, 0].tolist() == wanted
    tok.row_by_row, tok.max_padding = False, 1.0  # windows of several rows in one call
    batch = tok.encode([*wavs, wavs[0][:16000]])
    for i, wav in enumerate(wavs):
        assert torch.equal(batch[i].tokens, tok.encode(wav).tokens)
    assert torch.equal(batch[3].tokens, tok.encode(wavs[0][:16000]).tokens)


def test_a_short_last_window_loses_no_tokens(speech: list[Tensor]) -> None:
    """s3tokenizer 0.3.0 begins one more window where the last has reached the end, and drops 2 s of both."""
    tok, state, config = read_s3tokenizer(V2.folder), weights_of(V2), config_of(V2)
    for mel_frames, lost in ((5200, 0), (5201, 50), (5300, 50), (5480, 30), (5596, 1), (5597, 0), (5600, 0)):
        wav = spoken(speech, mel_frames * 160)
        wanted = upstream_windows(state, config, reference_mel(wav))
        found = tok.encode(wav).tokens[0, 0].tolist()
        assert len(found) == tok.num_frames(len(wav)) == len(wanted) + lost
        kept = len(wanted) if not lost else 1300 + -(-(mel_frames - 5200) // 4) - 50  # up to where 0.3.0 leaves off
        assert found[:kept] == wanted[:kept]


def test_codes_at_the_joints_of_windows_are_upstreams(speech: list[Tensor]) -> None:
    tokens = read_s3tokenizer(V2.folder).encode(spoken(speech, 5997 * 160 + 99)).tokens[0, 0].tolist()
    assert len(tokens) == 1500
    # what s3tokenizer 0.3.0 itself gave for this audio
    assert tokens[696:704] == [3981, 5140, 3520, 4090, 6394, 4036, 6287, 6361]
    assert tokens[1346:1354] == [242, 971, 5179, 6393, 5448, 2614, 3342, 2642]


def test_windows_cover_every_frame_once() -> None:
    for tok in (read_s3tokenizer(V2.folder), read_s3tokenizer(V1_50HZ.folder)):
        for mel_frames in (1, 2, 599, 601, 2999, 3000, 3001, 5199, 5201, 5600, 5601, 12345):
            end = 0
            for first, last, start, stop in tok._windows(mel_frames):
                assert first <= start == end < stop <= last <= first + tok._window
                end = stop
            assert end == -(-mel_frames // tok.mel_stride)


def test_a_short_position_table_shortens_the_windows(speech: list[Tensor]) -> None:
    tok = read_s3tokenizer(V1_25HZ.folder)  # 300 positions, 12 s
    wav = spoken(speech, 20 * 16000)
    codes = tok.encode(wav)
    assert codes.tokens.shape == (1, 1, 500)
    state, config = weights_of(V1_25HZ), config_of(V1_25HZ)
    mel = reference_mel(wav)
    assert codes.tokens[0, 0, :250].tolist() == reference(state, config, mel[:1200])[:250].tolist()
    assert codes.tokens[0, 0, 450:].tolist() == reference(state, config, mel[1600:])[50:].tolist()


# ---- ONNX --------------------------------------------------------------------------------------------

# How the published files name the weights of the two convolutions.
CONVS = {
    "v1-50hz": [f"onnx::Conv_{number}" for number in range(1519, 1523)],
    "v1-25hz": [f"encoders.conv{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")],
    "v2-25hz": [f"onnx::Conv_{number}" for number in range(2216, 2220)],
}


def onnx_of(
    case: Case, state: dict[str, Tensor], *, epsilon: float = 1e-5, stride: int = 0, spelt: bool | None = None
) -> bytes:
    """The graph as torch exports CosyVoice's module, as far as weights are used in it: nodes named by modules, most
    weights numbered, linear weights transposed. Before opset 17 (`spelt`, v1) norms are spelt out. s3tokenizer 0.3.0
    reads these very bytes to the state dict that they were made of."""
    spelt = case.name.startswith("v1") if spelt is None else spelt
    stride = stride or config_of(case)["stride"]
    weights = {name.removeprefix("encoder."): value for name, value in state.items()}
    nodes: list[bytes] = []
    tensors: list[bytes] = []
    number = 3000

    def stored(tensor: Tensor, op: str, name: str = "") -> str:
        nonlocal number
        number += 1
        name = name or f"onnx::{op}_{number}"
        tensors.append(tensor_proto(name, tensor))
        return name

    def affine(name: str, path: str) -> None:
        weight = stored(weights[f"{name}.weight"].t(), "MatMul")
        nodes.append(node("MatMul", f"{path}/MatMul", ["x", weight], [f"{path}/MatMul_output_0"]))
        if f"{name}.bias" in weights:
            bias = stored(weights[f"{name}.bias"], "Add")
            nodes.append(node("Add", f"{path}/Add", [bias, f"{path}/MatMul_output_0"], ["x"]))

    def norm(name: str, path: str, epsilon: float) -> None:
        if not spelt:
            inputs = [stored(weights[f"{name}.{kind}"], "LayerNormalization") for kind in ("weight", "bias")]
            nodes.append(
                node("LayerNormalization", f"{path}/LayerNormalization", ["x", *inputs], ["x"], epsilon=epsilon)
            )
            return
        constant = f"{path}/Constant_1_output_0"
        nodes.append(node("Constant", f"{path}/Constant", [], [f"{path}/two"], value=torch.tensor(2.0)))
        nodes.append(node("Pow", f"{path}/Pow", ["x", f"{path}/two"], ["x"]))
        nodes.append(node("Constant", f"{path}/Constant_1", [], [constant], value=torch.tensor(epsilon)))
        nodes.append(node("Add", f"{path}/Add", ["x", constant], ["x"]))
        nodes.append(node("Mul", f"{path}/Mul", ["x", stored(weights[f"{name}.weight"], "Mul")], ["x"]))
        nodes.append(node("Add", f"{path}/Add_1", ["x", stored(weights[f"{name}.bias"], "Add")], ["x"]))

    for i, step in ((1, stride), (2, 2)):
        names = CONVS[case.name][2 * i - 2 : 2 * i]
        kinds = zip(("weight", "bias"), names, strict=True)
        inputs = [stored(weights[f"conv{i}.{kind}"], "Conv", name) for kind, name in kinds]
        nodes.append(
            node("Conv", f"/conv{i}/Conv", ["x", *inputs], ["x"], kernel_shape=[3], strides=[step], pads=[1, 1])
        )
    if "positional_embedding" in weights:
        table = stored(weights["positional_embedding"], "Slice", "encoders.positional_embedding")
        nodes.append(node("Slice", "/Slice", [table, "from", "to"], ["x"]))
    for i in range(sum(name.endswith("attn.key.weight") for name in weights)):
        norm(f"blocks.{i}.attn_ln", f"/blocks.{i}/attn_ln", epsilon)
        for part in ("query", "key", "value"):
            affine(f"blocks.{i}.attn.{part}", f"/blocks.{i}/attn/{part}")
        memory = f"blocks.{i}.attn.fsmn_block"
        if f"{memory}.weight" in weights:
            kernel = stored(weights[f"{memory}.weight"], "Conv", f"{memory}.weight")
            nodes.append(node("Conv", f"/blocks.{i}/attn/fsmn_block/Conv", ["x", kernel], ["x"], strides=[1]))
        nodes.append(node("MatMul", f"/blocks.{i}/attn/MatMul", ["q", "k"], ["x"]))
        affine(f"blocks.{i}.attn.out", f"/blocks.{i}/attn/out")
        norm(f"blocks.{i}.mlp_ln", f"/blocks.{i}/mlp_ln", 1e-5)
        for part in ("mlp.0", "mlp.2"):
            affine(f"blocks.{i}.{part}", f"/blocks.{i}/mlp/{part}")
    if "quantizer._codebook.embed" in weights:
        book = stored(weights["quantizer._codebook.embed"].t(), "MatMul")
        path = "/quantizer/rq/model/layers.0/_codebook"
        nodes.append(node("MatMul", f"{path}/MatMul", ["x", book], ["x"]))
        nodes.append(node("Pow", f"{path}/Pow_1", [book, "two"], ["x"]))
    else:
        down = stored(weights["quantizer._codebook.project_down.weight"].t(), "MatMul", "onnx::MatMul_2536")
        bias = stored(weights["quantizer._codebook.project_down.bias"], "Add", "quantizer.project_in.bias")
        nodes.append(node("MatMul", "/quantizer/project_in/MatMul", ["x", down], ["projected"]))
        nodes.append(node("Add", "/quantizer/project_in/Add", [bias, "projected"], ["x"]))
    return model(nodes, tensors)


def write_onnx(folder: Path, case: Case, data: bytes) -> Path:
    """With the one fact that weights of so small networks do not tell."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speech_tokenizer.onnx").write_bytes(data)
    config = {name: config_of(case)[name] for name in ("n_audio_state", "n_audio_head")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@every_case
@pytest.mark.parametrize("spelt", [True, False])
def test_onnx_with_the_published_names_gives_the_same_tokenizer(case: Case, spelt: bool, tmp_path: Path) -> None:
    folder = write_onnx(tmp_path, case, onnx_of(case, weights_of(case), spelt=spelt))
    tok, wanted = read_s3tokenizer(folder), read_s3tokenizer(case.folder)
    assert tok.spec == wanted.spec
    assert tok.state_dict().keys() == wanted.state_dict().keys()
    for name, value in wanted.state_dict().items():
        assert torch.equal(tok.state_dict()[name], value), name
    codes = tok.encode(case.array("input"), lengths=case.array("num_samples"))
    for i in range(len(rows_of(case))):
        assert torch.equal(codes[i].tokens[0], case.array(f"codes_single_{i}"))
    assert tok.provenance["converted_from"]["file"] == "speech_tokenizer.onnx"


def test_heads_of_64_need_no_config(tmp_path: Path) -> None:
    (tmp_path / "anything.onnx").write_bytes(onnx_of(V2, weights_of(V2)))
    tok = read_s3tokenizer(tmp_path / "anything.onnx")
    assert torch.equal(tok.encode(rows_of(V2)[:1]).tokens[0], V2.array("codes_single_0"))


def test_rate_and_epsilon_are_read_off_the_nodes(tmp_path: Path) -> None:
    data = onnx_of(V1_50HZ, weights_of(V1_50HZ), stride=2, epsilon=1e-3)
    tok = read_s3tokenizer(write_onnx(tmp_path / "a", V1_50HZ, data))
    assert tok.spec.name == "s3tokenizer-v1-25hz"
    assert tok._config()["attention_norm_eps"] == pytest.approx(1e-3)
    assert tok._config()["mlp_norm_eps"] == pytest.approx(1e-5)
    data = onnx_of(V2, weights_of(V2), epsilon=1e-3)
    tok = read_s3tokenizer(write_onnx(tmp_path / "b", V2, data))
    tok.save(tmp_path / "saved")
    saved = audiotok.load(tmp_path / "saved")
    wanted, usual = tok.features(rows_of(V2))[0], read_s3tokenizer(V2.folder).features(rows_of(V2))[0]
    assert torch.equal(saved.features(rows_of(V2))[0], wanted)
    assert 1e-3 < (wanted - usual).abs().max() < 1


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: without(state, "encoder.blocks.1.attn.out.bias"), "missing .*blocks.1.attn.out.bias"),
        (lambda state: state | {"encoder.blocks.0.attn.key.bias": torch.zeros(64)}, "unknown .*attn.key.bias"),
        (lambda state: state | {"encoder.conv1.weight": torch.zeros(64, 80, 3)}, r"conv1.weight is \[64, 80, 3\]"),
    ],
)
def test_onnx_of_another_network_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    folder = write_onnx(tmp_path, V2, onnx_of(V2, change(weights_of(V2))))
    with pytest.raises(CheckpointError, match=words):
        read_s3tokenizer(folder)


def test_onnx_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([], [tensor_proto("w", torch.ones(2))]))
    with pytest.raises(CheckpointError, match=r"model\.onnx: wanted two convolutions, .* it is no S3Tokenizer"):
        read_s3tokenizer(path)
    path.write_bytes(onnx_of(V2, weights_of(V2))[:-1000])
    with pytest.raises(CheckpointError, match="wanted an ONNX file"):
        read_s3tokenizer(path)
    path.write_bytes(onnx_of(V2, weights_of(V2), stride=3))
    with pytest.raises(CheckpointError, match=r"found strides \[\(3,\), \(2,\)\]"):
        read_s3tokenizer(path)
    twice = [tensor_proto("a", torch.ones(4, 4)), tensor_proto("b", torch.zeros(4, 4))]
    uses = [node("MatMul", "/blocks.0/attn/query/MatMul", ["x", name], ["y"]) for name in "ab"]
    path.write_bytes(model(uses, twice))
    with pytest.raises(CheckpointError, match=r"different weights for encoder\.blocks\.0\.attn\.query\.weight"):
        read_s3tokenizer(path)


# ---- broken and hostile files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_audio_state", 10**9),
        ("n_audio_layer", 10**9),
        ("n_audio_layer", "3"),
        ("n_audio_ctx", 10**12),
        ("n_codebook_size", -1),
        ("n_mels", None),
        ("n_audio_head", 10**9),
        ("n_audio_head", 0),
        ("n_audio_head", 5),
        ("n_audio_head", 4.0),
        ("stride", 3),
        ("stride", True),
        ("stride", "2"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    folder = write(tmp_path, weights_of(V1_25HZ), {**config_of(V1_25HZ), name: value})
    with pytest.raises(CheckpointError):
        read_s3tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {}, "it has no quantizers"),
        (lambda state: state | {"quantizer._codebook.project_down.weight": torch.zeros(8, 32)}, "it has two quant"),
        (lambda state: without(state, "encoder.conv1.weight"), "wanted encoder.conv1.weight with 3 axes, found noth"),
        (lambda state: state | {"encoder.conv1.weight": torch.zeros(32)}, r"with 3 axes, found \[32\]"),
        (lambda state: state | {"encoder.conv1.weight": torch.zeros(0, 128, 3)}, "from 1 to 65536, not 0"),
        (lambda state: without(state, "encoder.positional_embedding"), "wanted encoder.positional_embedding"),
        (lambda state: without(state, "encoder.blocks.2.mlp.0.weight"), "missing .*blocks.2.mlp.0.weight"),
        (lambda state: state | {"encoder.blocks.9999.x": torch.zeros(1)}, "n_audio_layer is 3"),
        (lambda state: state | {"encoder.extra": torch.zeros(1)}, "unknown .*encoder.extra"),
        (lambda state: state | {"encoder.conv2.bias": torch.zeros(31)}, r"conv2.bias is \[31\]"),
        (lambda state: state | {"encoder.conv2.bias": "text"}, "wanted tensors by name"),
        (lambda state: state | {"encoder.conv2.bias": torch.zeros(32, dtype=torch.int64)}, "wanted .* numbers"),
        (lambda state: list(state.values()), "wanted tensors by name"),
    ],
)
def test_weights_that_make_no_network_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    folder = write(tmp_path, change(weights_of(V1_25HZ)), config_of(V1_25HZ))
    with pytest.raises(CheckpointError, match=words):
        read_s3tokenizer(folder)


def test_too_many_blocks_and_too_few_positions_are_refused(tmp_path: Path) -> None:
    state, config = weights_of(V2), None
    folder = write(tmp_path / "a", state | {"encoder.blocks.9999.x": torch.zeros(1)}, config)
    with pytest.raises(CheckpointError, match="layers must be a whole number from 1 to 256, not 10000"):
        read_s3tokenizer(folder)
    short = weights_of(V1_25HZ) | {"encoder.positional_embedding": torch.zeros(100, 32)}
    folder = write(tmp_path / "b", short, {**config_of(V1_25HZ), "n_audio_ctx": 100})
    with pytest.raises(CheckpointError, match="100 positions are fewer than windows overlap"):
        read_s3tokenizer(folder)
    folder = write(tmp_path / "c", weights_of(V2), {**config_of(V2), "n_audio_head": 2})
    with pytest.raises(CheckpointError, match="rotations need heads of 64, but 64 dimensions have 2 heads"):
        read_s3tokenizer(folder)
    folder = write(tmp_path / "d", weights_of(V1_25HZ), None)
    with pytest.raises(CheckpointError, match="a config.json beside it must give n_audio_head"):
        read_s3tokenizer(folder, frame_rate=25)
    folder = write(tmp_path / "e", weights_of(V2), {**config_of(V2), "stride": 1})
    with pytest.raises(CheckpointError, match="are of different rates"):
        read_s3tokenizer(folder)


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no S3Tokenizer file"):
        read_s3tokenizer(tmp_path / "nowhere")
    whole = next(V2.folder.glob("*.pt"))
    (tmp_path / "model.pt").write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(CheckpointError):
        read_s3tokenizer(tmp_path)
    shutil.copy(whole, tmp_path / "model.pt")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_s3tokenizer(tmp_path)
    (tmp_path / "config.json").unlink()
    for name in ("speech_tokenizer_v3.onnx", "speech_tokenizer_v3.batch.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds several S3Tokenizer files .*: name the one to read"):
        read_s3tokenizer(tmp_path)
    assert read_s3tokenizer(tmp_path / "model.pt").spec.name == "s3tokenizer-v2-25hz"


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "the-payload-ran"
    torch.save({**weights_of(V2), "trap": Trap(mark)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="was not followed"):
        read_s3tokenizer(tmp_path)
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(CheckpointError):
        read_s3tokenizer(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", 10**9), ("size", 10**9), ("heads", 3), ("stride", 1), ("positions", 64), ("mlp_norm_eps", 9)],
)
def test_a_saved_config_that_lies_is_refused(name: str, value: int, tmp_path: Path) -> None:
    read_s3tokenizer(V2.folder).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        audiotok.load(tmp_path)
