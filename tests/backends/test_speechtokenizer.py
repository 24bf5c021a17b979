"""SpeechTokenizer: the published format gives upstream's codes and audio, in every way of encoding."""

import json
import pickle
import shutil

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from audiotok import convert
from audiotok.errors import CheckpointError, UnsupportedError

from .cases import Case, cases

CASES = cases("speechtokenizer")
SMALL = Case("speechtokenizer", "hop240_q4_same_dim")


def tokens_of(case: Case) -> Tensor:
    """Upstream's codes [K, B, F] as ours."""
    return case.array("codes").transpose(0, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_codes_and_audio_are_upstreams(case, parity_table):
    tok = convert("speechtokenizer", case.folder)
    parity_table.fixture(
        case.id,
        tok.encode(case.array("input")).tokens,
        tokens_of(case),
        wav=tok.decode(tokens_of(case)),
        wanted_wav=case.array("recon")[:, None],
        tolerance=case.meta["tolerance"]["recon_abs"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_latents_are_upstreams(case):
    tok = convert("speechtokenizer", case.folder)
    features, lengths = tok.features(case.array("input"))
    assert lengths.tolist() == [case.meta["codes_shape"][2]] * len(features)
    torch.testing.assert_close(features, case.array("latent"), atol=case.meta["tolerance"]["latent_abs"], rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_first_codebook_and_the_others_decode_as_upstreams_do(case):
    tok = convert("speechtokenizer", case.folder)
    codes = tok.encode(case.array("input"))
    first = tok.decode(codes.tokens[:, :1])
    torch.testing.assert_close(first[:, 0], case.array("recon_first_book"), atol=1e-4, rtol=0)
    assert torch.equal(tok.decode(codes.truncate(1)), first[..., : codes.num_samples[0]])
    others = tok.embed(codes) - tok.embed(codes.truncate(1))
    rest = tok._synthesize(others)
    torch.testing.assert_close(rest[:, 0], case.array("recon_rest_books"), atol=1e-4, rtol=0)
    assert torch.equal(tok.use_codebooks(1).encode(case.array("input")).tokens, codes.tokens[:, :1])


def test_what_upstream_compares_with_hubert_is_the_embedding_of_the_first_codebook():
    """Where both sizes are equal upstream puts no layer between."""
    tok = convert("speechtokenizer", SMALL.folder)
    embedded = tok.embed(tok.encode(SMALL.array("input")).truncate(1))
    assert torch.equal(embedded.transpose(1, 2), SMALL.array("semantic_feature"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = convert("speechtokenizer", case.folder)
    parity_table.conforms(case.id, tok, speech)


def test_what_the_spec_says():
    tok = convert("speechtokenizer", CASES[1].folder)
    spec = tok.spec
    assert (spec.name, spec.sample_rate, spec.hop_length, spec.codebook_sizes) == (
        "speechtokenizer-16khz",
        16000,
        320,
        (64,) * 8,
    )
    assert (spec.nested, spec.batching, spec.streamable) == (True, "mask", False)
    assert [tok.num_frames(samples) for samples in (1, 319, 320, 321, 24123)] == [1, 1, 1, 2, 76]
    with pytest.raises(UnsupportedError, match="does not stream"):
        tok.stream()
    assert convert("speechtokenizer", CASES[1].folder, name="st").spec.name == "st"
    assert [table.shape for table in tok.codebooks] == [(64, 64)] * 8


def test_pieces_of_any_length_give_the_same_codes_and_audio(speech):
    tok = convert("speechtokenizer", SMALL.folder)
    whole = tok.encode(speech[0])
    wav = tok.decode(whole)
    for seconds in (0.015, 0.1, 0.7):
        tok.chunk_seconds = seconds
        assert torch.equal(tok.encode(speech[0]).tokens, whole.tokens)
        torch.testing.assert_close(tok.decode(whole), wav, atol=1e-5, rtol=0)


def test_rows_of_a_padded_batch_do_not_hear_what_lies_behind_their_end():
    """The LSTM runs back from each row's own end."""
    tok = convert("speechtokenizer", SMALL.folder)
    wav = SMALL.array("input")
    rows = [wav, wav[:, :9001], wav[:, 500:10000], wav[:, :1]]
    alone = [tok.encode(row) for row in rows]
    tok.row_by_row, tok.max_padding = False, 1.0
    batch = tok.encode(rows)
    for one, other in zip(batch.unbatch(), alone, strict=True):
        assert torch.equal(one.tokens, other.tokens)
    features, lengths = tok.features(rows)
    for row, length, one in zip(features, lengths, rows, strict=True):
        torch.testing.assert_close(row[None, :, :length], tok.features(one)[0], atol=1e-4, rtol=0)


class Plain:
    """The networks written out, channels first, as a second implementation. It draws weights as it meets them.

    Args:
        config: as published.
    """

    def __init__(self, config: dict) -> None:
        self.config = config
        self.state: dict[str, Tensor] = {}

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            self.state[name] = 0.5 * torch.randn(shape) / max(1, shape[-1] * shape[1] if len(shape) > 1 else 1) ** 0.5
        return self.state[name]

    def conv(self, x: Tensor, name: str, width: int, kernel: int, stride: int = 1, dilation: int = 1) -> Tensor:
        total = (kernel - 1) * dilation + 1 - stride
        frames = -(-x.shape[2] // stride)
        extra = (frames - 1) * stride + (kernel - 1) * dilation + 1 - total - x.shape[2]
        x = functional.pad(x, (total - total // 2, total // 2 + extra), "reflect")
        weight = self.weight(f"{name}.conv.conv.weight", width, x.shape[1], kernel)
        bias = self.weight(f"{name}.conv.conv.bias", width)
        return functional.conv1d(x, weight, bias, stride, 0, dilation)

    def activation(self, x: Tensor, name: str) -> Tensor:
        if self.config["activation"] == "ELU":
            return functional.elu(x)
        alpha = self.weight(f"{name}.alpha", 1, x.shape[1], 1)
        return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)

    def blocks(self, x: Tensor, root: str, at: int) -> tuple[Tensor, int]:
        for layer in range(self.config["n_residual_layers"]):
            name, width = f"{root}.{at}", x.shape[1]
            y = self.activation(x, f"{name}.block.0")
            kernel, dilation = self.config["residual_kernel_size"], self.config["dilation_base"] ** layer
            y = self.conv(y, f"{name}.block.1", width // 2, kernel, dilation=dilation)
            y = self.conv(self.activation(y, f"{name}.block.2"), f"{name}.block.3", width, 1)
            x, at = self.conv(x, f"{name}.shortcut", width, 1) + y, at + 1
        return x, at

    def lstm(self, x: Tensor, name: str, *, both_ways: bool) -> Tensor:
        layer = torch.nn.LSTM(x.shape[1], x.shape[1], self.config["lstm_layers"], bidirectional=both_ways)
        self.state |= {f"{name}.lstm.{part}": value for part, value in layer.state_dict().items()}
        y: Tensor = layer(x.permute(2, 0, 1))[0]
        return y.permute(1, 2, 0) + (torch.cat([x, x], 1) if both_ways else x)

    def encode(self, x: Tensor) -> Tensor:
        root, width = "encoder.model", self.config["n_filters"]
        x, at = self.conv(x, f"{root}.0", width, 7), 1
        for stride in reversed(self.config["strides"]):
            x, at = self.blocks(x, root, at)
            width *= 2
            x = self.conv(self.activation(x, f"{root}.{at}"), f"{root}.{at + 1}", width, 2 * stride, stride)
            at += 2
        x = self.lstm(x, f"{root}.{at}", both_ways=self.config["bidirectional"])
        return self.conv(self.activation(x, f"{root}.{at + 1}"), f"{root}.{at + 2}", self.config["dimension"], 7)

    def decode(self, x: Tensor) -> Tensor:
        root, width = "decoder.model", self.config["n_filters"] << len(self.config["strides"])
        x = self.lstm(self.conv(x, f"{root}.0", width, 7), f"{root}.1", both_ways=False)
        at = 2
        for stride in self.config["strides"]:
            name, width = f"{root}.{at + 1}.convtr.convtr", width // 2
            weight = self.weight(f"{name}.weight", 2 * width, width, 2 * stride)
            x = functional.conv_transpose1d(
                self.activation(x, f"{root}.{at}"), weight, self.weight(f"{name}.bias", width), stride
            )
            x = x[:, :, stride - stride // 2 : x.shape[2] - stride // 2]
            x, at = self.blocks(x, root, at + 2)
        return self.conv(self.activation(x, f"{root}.{at}"), f"{root}.{at + 1}", 1, 7)


@pytest.mark.parametrize("activation", ["ELU", "Snake"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_deeper_networks_and_snake_are_what_is_written_out_here(tmp_path, activation, bidirectional):
    """AnyGPT's network has Snake activations."""
    torch.manual_seed(0)
    config = json.loads((SMALL.folder / "config.json").read_text())
    config |= {"n_residual_layers": 3, "strides": [3, 4, 2], "activation": activation, "bidirectional": bidirectional}
    plain, wav = Plain(config), SMALL.array("input")[:, :5003]
    with torch.no_grad():
        latents = plain.encode(wav[:, None])
        for stage in range(config["n_q"]):
            plain.weight(f"quantizer.vq.layers.{stage}._codebook.embed", 32, 48)
        embedded = torch.randn(1, 48, 20)
        decoded = plain.decode(embedded)
    torch.save(plain.state, tmp_path / "SpeechTokenizer.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tok = convert("speechtokenizer", tmp_path)
    torch.testing.assert_close(tok.features(wav)[0], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tok._synthesize(embedded), decoded, atol=1e-5, rtol=1e-5)
    tok.chunk_seconds, tok.row_by_row, tok.max_padding = 0.05, False, 1.0
    rows, lengths = tok.features([wav, wav[:, :3001]])  # padded
    torch.testing.assert_close(rows[:1], latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows[1:, :, : lengths[1]], tok.features(wav[:, :3001])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tok._synthesize(embedded), decoded, atol=1e-5, rtol=1e-5)  # in pieces


def _folder(tmp_path, **change: object):
    shutil.copytree(SMALL.folder, tmp_path / "c", ignore=shutil.ignore_patterns("*.npy", "meta.json"))
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | change))
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [8, 5, 4, 10**9]}, "strides must be a whole number"),
        ({"strides": [1] * 40}, "the number of channels must be"),
        ({"strides": []}, "strides must be a list"),
        ({"n_filters": 10**7}, "n_filters must be a whole number"),
        ({"n_filters": 4096}, "wanted"),
        ({"dimension": None}, "dimension must be a whole number"),
        ({"dilation_base": 10**6}, "dilation_base must be"),
        ({"n_residual_layers": 2}, "has no weights"),
        ({"activation": "system"}, "activation must be ELU or Snake"),
        ({"activation": "Snake"}, "has no weights 'encoder.layers.1.block.0.alpha'"),
        ({"bidirectional": False}, "holds weights that no part of the network takes"),
        ({"bidirectional": "yes"}, "bidirectional must be true or false"),
        ({"n_q": 10**9}, "n_q must be"),
        ({"n_q": 5}, "has no weights 'quantizer.layers.4.codebook.embed'"),
        ({"n_q": 3}, "no part of the network takes: quantizer.layers.3"),
        ({"codebook_size": 33}, r"entries is \[32, 48\]"),
        ({"sample_rate": 0}, "sample_rate must be"),
    ],
)
def test_a_config_that_lies_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        convert("speechtokenizer", _folder(tmp_path, **change))


def test_files_that_are_missing_broken_or_hostile_are_refused(tmp_path):
    folder = _folder(tmp_path)
    path = folder / "SpeechTokenizer.pt"
    data, state = path.read_bytes(), torch.load(path, weights_only=True)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"SpeechTokenizer\.pt"):
        convert("speechtokenizer", folder)
    torch.save([state], path)
    with pytest.raises(CheckpointError, match="wanted tensors by name, found a list"):
        convert("speechtokenizer", folder)
    torch.save({name: value for name, value in state.items() if name != "decoder.model.1.lstm.bias_hh_l1"}, path)
    with pytest.raises(CheckpointError, match=r"has no weights 'decoder\.layers\.1\.lstm\.bias_hh_l1'"):
        convert("speechtokenizer", folder)
    torch.save(state | {"encoder.model.0.conv.conv.bias": torch.zeros(6)}, path)
    with pytest.raises(CheckpointError, match=r"encoder\.0\.bias is \[6\]"):
        convert("speechtokenizer", folder)
    torch.save(state | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"no part of the network takes: extra\.weight"):
        convert("speechtokenizer", folder)
    path.write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    with pytest.raises(CheckpointError):
        convert("speechtokenizer", folder)
    assert not (tmp_path / "called").exists()
    path.unlink()
    with pytest.raises(CheckpointError, match="holds no weights file"):
        convert("speechtokenizer", folder)


class Calls:
    """What a pickle can do when it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_training_leftovers_are_ignored_and_provenance_is_kept(tmp_path):
    tok = convert("speechtokenizer", SMALL.folder / "SpeechTokenizer.pt")
    assert not any("transform" in name or "cluster_size" in name for name in tok.state_dict())
    assert tok.provenance["license"] == "unknown"
    assert tok.provenance["converted_from"]["file"] == "SpeechTokenizer.pt"
    other = convert("speechtokenizer", _folder(tmp_path, learning_rate=1e-4, distill_loss_lambda=120))
    assert other.fingerprint == tok.fingerprint
