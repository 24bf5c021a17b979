"""SQ-Codec: upstream's integers and audio, and the three levels of the published model."""

import shutil

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import yaml

from audiotok import convert
from audiotok.backends.sqcodec import ScalarQuantizer
from audiotok.errors import CheckpointError, InputError

from .cases import Case, cases

CASES = cases("sqcodec")
CAUSAL = Case("sqcodec", "levels9_causal")


def levels_of(case: Case) -> int:
    return int(case.meta["scalar_levels_per_unit"])


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture
def ternary(tmp_path):
    """The causal network with 18 latent values, read with the published model's three levels."""
    checkpoint = torch.load(CAUSAL.folder / "ckpt_00190000.pth", weights_only=True)
    state = checkpoint["codec_model"]
    generator = torch.Generator().manual_seed(0)
    for name in ("encoder.6.bias", "encoder.6.weight_g", "encoder.6.weight_v", "decoder.0.weight_v"):
        axis = 1 if name.startswith("decoder") else 0
        wide = torch.randn([18 if i == axis else n for i, n in enumerate(state[name].shape)], generator=generator)
        state[name] = wide.abs() if name.endswith("_g") else wide
    torch.save(checkpoint, tmp_path / "ckpt_00190000.pth")
    config = yaml.safe_load((CAUSAL.folder / "config.yaml").read_text())
    config["generator"]["config"]["latent_hidden_dim"] = 18
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return convert("sqcodec", tmp_path, levels=3)


def test_tokens_and_audio_are_upstreams(case, parity_table):
    levels = levels_of(case)
    tok = convert("sqcodec", case.folder, levels=levels)
    wav = case.array("input")[:, None]
    codes = tok.encode(wav)
    recon = case.array("recon")[:, None]
    parity_table.fixture(
        case.id,
        codes.tokens - levels,
        case.array("codes"),
        wav=tok.decode(codes),
        wanted_wav=recon[..., : wav.shape[2]],
        tolerance=case.meta["tolerance"]["recon_abs"],
    )
    torch.testing.assert_close(tok.embed(codes), case.array("quantized"), atol=1e-6, rtol=0)
    torch.testing.assert_close(tok.features(wav)[0], case.array("latent"), atol=2e-4, rtol=0)
    torch.testing.assert_close(
        tok._decode(codes.tokens, {}), recon, atol=1e-4, rtol=0
    )  # upstream's surplus samples too


def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = convert("sqcodec", case.folder, levels=levels_of(case))
    parity_table.conforms(case.id, tok, speech)


def test_the_published_three_levels(ternary, speech, parity_table):
    assert ternary.spec.codebook_sizes == (19683, 19683)
    assert ternary.codebooks[0].shape == (19683, 9)
    parity_table.conforms("sqcodec/three levels", ternary, speech)
    codes = ternary.encode(speech[0][None])
    values = ternary.features(speech[0][None])[0].round()
    assert set(values.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(ternary.embed(codes), values)
    digits = (values + 1).long().view(1, 2, 9, -1)
    assert torch.equal(codes.tokens, sum(digits[:, :, i] * 3**i for i in range(9)))
    looked_up = torch.cat([table[row] for table, row in zip(ternary.codebooks, codes.tokens[0], strict=True)], 1)
    assert torch.equal(looked_up.T, values[0])


@hypothesis.given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=40)
def test_rounding_and_back(steps, group, rows, seed):
    quantizer = ScalarQuantizer(rows * group, steps, group)
    x = 2 * torch.rand(2, rows * group, 5, generator=torch.Generator().manual_seed(seed)) - 1
    tokens = quantizer.encode(x)
    assert tokens.shape == (2, rows, 5)
    assert tokens.max() < quantizer.codebook_sizes[0]
    torch.testing.assert_close(quantizer.decode(tokens), torch.round(x * steps) / steps)
    assert torch.equal(quantizer.encode(quantizer.decode(tokens)), tokens)


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_levels_must_be_given(levels):
    with pytest.raises(InputError, match="needs levels=, one of 3, 5, 9"):
        convert("sqcodec", CAUSAL.folder, levels=levels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample_factors": [2, 4, 4, 10**9]}, "must be a whole number"),
        ({"downsample_factors": [2, 4]}, "2 factors, but 4 kernels"),
        ({"upsample_factors": [5, 4, 4, 3]}, "factors that lead back"),
        ({"latent_hidden_dim": 1000}, "wanted"),
        ({"init_channel": 60000}, "wanted"),
        ({"num_bands": 4}, "wanted one band"),
        ({"res_kernel_size": "7"}, "must be a whole number"),
        ({"causal": False}, ""),
    ],
)
def test_a_config_that_lies_is_refused(tmp_path, change, message):
    shutil.copytree(CAUSAL.folder, tmp_path / "c", ignore=shutil.ignore_patterns("*.npy"))
    config = yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())
    config["generator"]["config"] |= change
    (tmp_path / "c" / "config.yaml").write_text(yaml.safe_dump(config))
    if not message:  # shapes cannot tell
        assert not convert("sqcodec", tmp_path / "c", levels=9).spec.streamable
        return
    with pytest.raises(CheckpointError, match=message):
        convert("sqcodec", tmp_path / "c", levels=9)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights file"):
        convert("sqcodec", tmp_path, levels=9)
    shutil.copy(CAUSAL.folder / "config.yaml", tmp_path)
    torch.save({"model": {}}, tmp_path / "ckpt_1.pth")
    with pytest.raises(CheckpointError, match="wanted weights under codec_model"):
        convert("sqcodec", tmp_path, levels=9)
    data = (CAUSAL.folder / "ckpt_00190000.pth").read_bytes()
    (tmp_path / "ckpt_1.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError):
        convert("sqcodec", tmp_path, levels=9)
    (tmp_path / "config.yaml").write_text("generator: !!python/object/apply:os.system ['true']")
    with pytest.raises(CheckpointError, match="tag"):
        convert("sqcodec", tmp_path, levels=9)
    with pytest.raises(CheckpointError, match="multiple of nine"):
        convert("sqcodec", CAUSAL.folder, levels=3)
