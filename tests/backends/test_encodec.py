"""EnCodec: the package's, audiocraft's and transformers' files give upstream's codes, in every way of encoding."""

import json
import shutil

import pytest
import torch

from audiotok import audio, convert
from audiotok.codes import Codes
from audiotok.errors import CheckpointError, CodesMismatchError, InputError, UnsupportedError

from .cases import Case, cases

CASES = [*cases("encodec-native"), *cases("audiocraft-encodec")]
FOLDERS = [(case, form) for case in CASES for form in ("", "hf") if (case.folder / form).exists()]
PLAIN = Case("encodec-native", "24k-mono-causal")
STEREO = Case("encodec-native", "48k-stereo-chunked")
AUDIOCRAFT = Case("audiocraft-encodec", "musicgen-32k-like")


def rows_of(case: Case) -> torch.Tensor:
    wav = case.array("input")
    return wav[:, None] if wav.dim() == 2 else wav


@pytest.mark.parametrize(("case", "form"), FOLDERS, ids=lambda value: value.id if isinstance(value, Case) else value)
def test_every_format_gives_upstreams_codes_and_audio(case, form, parity_table):
    tok = convert("encodec", case.folder / form)
    codes = tok.encode(rows_of(case))
    recon = case.array("recon")
    wav = tok.decode(codes)
    parity_table.fixture(
        case.id + ("/hf" if form else ""),
        codes.tokens,
        case.array("codes"),
        wav=wav,
        wanted_wav=recon.reshape(len(wav), wav.shape[1], -1)[..., : wav.shape[2]],
        tolerance=case.meta["tolerance"]["recon"],
    )
    whole = tok.decode(codes.tokens) if not tok.required_extras else wav
    torch.testing.assert_close(
        whole, recon.reshape(len(wav), wav.shape[1], -1)[..., : whole.shape[2]], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_latents_are_upstreams(case):
    tok = convert("encodec", case.folder)
    features, lengths = tok.features(rows_of(case))
    wanted = case.array("latent")
    assert lengths.tolist() == [features.shape[2]] * len(features)
    torch.testing.assert_close(features[:, :, : wanted.shape[2]], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("case", "file", "count"),
    [(PLAIN, "codes_bw0.9", 2), (STEREO, "codes_bw1.8", 2), (AUDIOCRAFT, "codes_n2", 2)],
)
def test_fewer_codebooks_by_number_and_by_bandwidth(case, file, count):
    tok = convert("encodec", case.folder)
    whole = tok.encode(rows_of(case))
    wanted = case.array(file)
    assert torch.equal(tok.use_codebooks(count).encode(rows_of(case)).tokens, wanted)
    assert torch.equal(whole.truncate(count).tokens, wanted)
    if "bw" in file:
        assert tok.use_bandwidth(float(file.rpartition("bw")[2])).spec.num_codebooks == count
        recon = case.array(file.replace("codes", "recon"))
        found = tok.decode(tok.encode(rows_of(case)))
        torch.testing.assert_close(found, recon.view(*found.shape[:2], -1)[..., : found.shape[2]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_conformance_and_parity_on_real_speech(case, speech, parity_table):
    tok = convert("encodec", case.folder)
    rows = [audio.resample(row, 16000, tok.spec.sample_rate)[:, : 2 * tok.spec.sample_rate] for row in speech]
    rows = [row.expand(tok.spec.channels, -1) * torch.tensor([[1.0], [0.5]])[: tok.spec.channels] for row in rows]
    parity_table.conforms(case.id, tok, rows)


def test_what_the_specs_say():
    mono, stereo = convert("encodec", PLAIN.folder).spec, convert("encodec", STEREO.folder).spec
    assert (mono.streamable, mono.batching, mono.frame_rate, mono.segmented) == (True, "mask", 75.0, False)
    assert (stereo.streamable, stereo.batching, stereo.channels, stereo.segmented) == (False, "bucket", 2, True)
    assert not convert("encodec", AUDIOCRAFT.folder).spec.streamable


@pytest.mark.parametrize("samples", [1, 100, 160, 161, 300, 320, 321, 14400, 14401, 14256 + 14400, 14256 + 161, 28800])
def test_segments_of_every_length_come_back(samples):
    """Upstream fails where the last segment ends before the one that it overlaps."""
    tok = convert("encodec", STEREO.folder)
    wav = rows_of(STEREO)[..., :samples]
    codes = tok.encode(wav)
    assert codes.extras["segment_frames"].sum() == codes.lengths
    decoded = tok.decode(codes)
    assert decoded.shape == wav.shape
    assert decoded.isfinite().all()


def test_segments_are_upstreams():
    tok = convert("encodec", STEREO.folder)
    codes = tok.encode(rows_of(STEREO))
    assert codes.extras["segment_frames"].tolist() == [STEREO.array("frame_lengths").tolist()]
    torch.testing.assert_close(codes.extras["scale"], STEREO.array("scales").view(1, -1), atol=1e-6, rtol=0)


def test_rows_with_unlike_segments_share_a_batch():
    tok, wav = convert("encodec", STEREO.folder), rows_of(STEREO)[0]
    rows = [wav, wav[:, :9000], wav[:, 500:21000]]
    batch = tok.encode(rows)
    audio_out = tok.decode(batch)
    for i, row in enumerate(rows):
        alone = tok.encode([row])
        assert torch.equal(batch[i].tokens, alone.tokens)
        torch.testing.assert_close(audio_out[i : i + 1, :, : row.shape[1]], tok.decode(alone), atol=1e-5, rtol=0)


def test_segmented_codes_cannot_be_cut_and_need_their_scales():
    tok = convert("encodec", STEREO.folder)
    codes = tok.encode(rows_of(STEREO))
    with pytest.raises(UnsupportedError, match="cannot be cut in time"):
        codes.slice(0, 0.1)
    with pytest.raises(InputError, match="needs scale, segment_frames beside the tokens"):
        tok.decode(codes.tokens)
    with pytest.raises(CodesMismatchError, match="cannot be joined in time"):
        Codes.join([codes, codes])


def test_streams_take_pieces_and_report(speech):
    tok = convert("encodec", PLAIN.folder)
    wav = audio.resample(speech[0], 16000, 24000)[None]
    whole = tok.encode(wav)
    with tok.stream() as stream:
        pieces = [stream.push(wav[..., start : start + 1920]) for start in range(0, wav.shape[2], 1920)]
        assert stream.report.pushes == len(pieces)
        assert stream.report.waiting_seconds < 1 / 75
        codes = Codes.join([*pieces, stream.flush()])
    assert torch.equal(codes.tokens, whole.tokens)
    assert codes.num_samples.tolist() == [wav.shape[2]]
    assert stream.report.audio_seconds == pytest.approx(wav.shape[2] / 24000)
    assert 0 < stream.report.latency_seconds <= stream.report.slowest_seconds <= stream.report.compute_seconds
    pieces = [whole.slice((start + 0.25) / 75, (start + 4.75) / 75) for start in range(0, whole.tokens.shape[2], 5)]
    with tok.decode_stream() as out:
        decoded = [*(out.push(piece) for piece in pieces), out.flush()]
    torch.testing.assert_close(torch.cat(decoded, 2), tok.decode(whole), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="has ended"):
        out.push(pieces[0])
    with pytest.raises(InputError, match="has ended"):
        stream.push(wav)
    with pytest.raises(UnsupportedError, match="does not stream"):
        convert("encodec", AUDIOCRAFT.folder).stream()


def test_streams_refuse_what_they_cannot_take():
    tok = convert("encodec", PLAIN.folder)
    with tok.stream(2) as stream:
        with pytest.raises(InputError, match=r"pieces \[2, 1, T\]"):
            stream.push(torch.zeros(5))
        with pytest.raises(InputError, match="NaN"):
            stream.push(torch.full((2, 1, 5), torch.nan))
        with pytest.raises(InputError, match="nothing was pushed"):
            stream.flush()
    with tok.decode_stream() as out, pytest.raises(CodesMismatchError):
        out.push(tok.encode(rows_of(PLAIN)[:1]).truncate(1))


def test_half_a_network_is_enough_for_half_the_work():
    tok = convert("encodec", PLAIN.folder)
    codes = tok.encode(rows_of(PLAIN))
    wav = tok.decode(codes)
    encoder = convert("encodec", PLAIN.folder).use_mode("encode")
    decoder = convert("encodec", PLAIN.folder).use_mode("decode")
    assert torch.equal(encoder.encode(rows_of(PLAIN)).tokens, codes.tokens)
    assert torch.equal(decoder.decode(encoder.encode(rows_of(PLAIN))), wav)
    assert sum(p.numel() for p in encoder.parameters()) < 0.6 * sum(p.numel() for p in tok.parameters())
    for call in (lambda: encoder.decode(codes), lambda: decoder.encode(rows_of(PLAIN)), lambda: encoder.save("x")):
        with pytest.raises(UnsupportedError, match="was loaded with mode="):
            call()


def test_published_file_names_need_no_config(tmp_path):
    source = next(STEREO.folder.glob("*.th"))
    shutil.copy(source, tmp_path / "other.th")
    with pytest.raises(CheckpointError, match="its name is of no published model"):
        convert("encodec", tmp_path)
    (tmp_path / "other.th").rename(tmp_path / "encodec_24khz-d7cc33bc.th")
    with pytest.raises(CheckpointError, match="no part of the network takes"):  # it is the other model's
        convert("encodec", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": [8, 5, 4, 10**9]}, "ratios must be a whole number"),
        ({"ratios": "8542"}, "ratios must be a list"),
        ({"n_filters": 10**7}, "filters must be a whole number"),
        ({"n_filters": 8192}, "wanted"),
        ({"dimension": -3}, "dimension must be a whole number"),
        ({"model_norm": "batch"}, "no such normalisation"),
        ({"segment": "long"}, "segments must be numbers"),
        ({"overlap": 1.5, "segment": 1.0}, "no such segments"),
        ({"sample_rate": None}, "sample_rate must be"),
        ({"n_residual_layers": 2}, "has no weights"),
    ],
)
def test_a_config_that_lies_is_refused(tmp_path, change, message):
    shutil.copytree(PLAIN.folder, tmp_path / "c", ignore=shutil.ignore_patterns("*.npy", "hf"))
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        convert("encodec", tmp_path / "c")


def _audiocraft(tmp_path, **change: object):
    found = torch.load(AUDIOCRAFT.folder / "compression_state_dict.bin", weights_only=True)
    torch.save({**found, **change}, tmp_path / "compression_state_dict.bin")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xp.cfg": 3}, "xp.cfg must be YAML text"),
        ({"xp.cfg": "a: !!python/object/apply:os.system ['true']"}, "tag"),
        ({"xp.cfg": "compression_model: dac"}, "has no encodec.autoencoder"),
        ({"xp.cfg": "compression_model: ${a}\na: ${b}\nb: ${a}"}, "refers to itself"),
        ({"pretrained": "facebook/encodec_32khz"}, "only the name of another model"),
        ({"best_state": [1]}, "wanted tensors by name"),
        ({"best_state": {}}, "holds no codebooks"),
    ],
)
def test_an_audiocraft_file_of_another_kind_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        convert("encodec", _audiocraft(tmp_path, **change))


def test_unknown_weights_are_refused(tmp_path):
    state = torch.load(AUDIOCRAFT.folder / "compression_state_dict.bin", weights_only=True)["best_state"]
    with pytest.raises(CheckpointError, match="no part of the network takes: extra.weight"):
        convert("encodec", _audiocraft(tmp_path, best_state={**state, "extra.weight": torch.zeros(1)}))
