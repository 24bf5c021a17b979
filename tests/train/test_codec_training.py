"""Training of codecs: losses fall, a killed run goes on exactly, processes agree, collapse is recovered from."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.checkpoint import read_safetensors
from audiotok.codec import Codec, CodecConfig, CodecNetwork
from audiotok.errors import AudiotokError, FitError, InputError
from audiotok.nn.conv import Conv
from audiotok.nn.spectra import MultiScaleMel
from audiotok.train import CodecTraining, train_codec
from audiotok.train.codec import _CodecRun

AUDIO = Path(__file__).parents[1] / "data" / "audio"
SPEECH = sorted(AUDIO.glob("speech_*.flac"))
TINY = CodecConfig.from_dict(
    {
        "latent": 8,
        "network": {"width": 24, "hidden": 48, "encoder_blocks": [0, 1], "decoder_blocks": [1, 1]},
        "quantizer": {"num_codebooks": 2, "codebook_size": 16, "dropout": 0.5},
    }
)
SHORT = CodecTraining.from_dict(
    {
        "steps": 6,
        "batch_size": 2,
        "segment_seconds": 0.2,
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "warmup_steps": 2,
        "quantize_from": 2,
        "adversarial_from": 4,
        "discriminators": {"periods": [2], "windows": [256], "channels": 2, "shrink": 64, "edges": [0, 1]},
        "augmentation": {"gain_db": [-6, 6], "mix": 0.3},
        "log_every": 2,
        "validate_every": 3,
        "save_every": 3,
        "validation_items": 2,
        "validation_seconds": 1.0,
        "samples": 1,
    }
)


def train(out, training=SHORT, source=SPEECH, config=TINY, **options):
    options = {"device": "cpu", "progress": False, "num_workers": 0, "tensorboard": False, **options}
    return train_codec(config, source, out, training=training, **options)


def run_of(out, training=SHORT, source=SPEECH, config=TINY):
    """A run that is ready to train."""
    return _CodecRun(
        config,
        training,
        source,
        out,
        valid=None,
        init=None,
        name="one",
        resume=True,
        device="cpu",
        memory_bytes=1 << 30,
        num_workers=0,
        tensorboard=False,
        progress=False,
    )


def python(code, out, **environment):
    """A process of its own; it knows this module as `here`, and its folder as `out`."""
    head = (
        "import os, signal, sys, torch; from pathlib import Path; from tests.train import test_codec_training as here;"
    )
    head += "out = Path(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_processes(code, out):
    """What two processes of one training print last, as JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    running = [python(code, out, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    said = [one.communicate() for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    return [json.loads(text.splitlines()[-1]) for text, _ in said]


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "speed"} for line in lines]


def weights_of(folder):
    return read_safetensors(folder / "model.safetensors")


def assert_same_weights(folder, other):
    mine, theirs = weights_of(folder), weights_of(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six steps, uninterrupted."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(out)


def test_the_losses_fall_on_real_audio(tmp_path):
    training = replace(SHORT, steps=80, batch_size=4, quantize_from=20, adversarial_from=40, log_every=10)
    report = train(tmp_path, replace(training, validate_every=80, save_every=80), source=AUDIO)
    assert report.metrics["mel"] < 0.6 * report.before["mel"]
    assert report.metrics["stoi"] > report.before["stoi"] + 0.15
    lines = [line for line in log_of(tmp_path) if "mel" in line]
    assert lines[-1]["mel"] < 0.8 * lines[0]["mel"]
    assert lines[-1]["stft"] < 0.8 * lines[0]["stft"]
    assert lines[-1]["discriminator"] < lines[4]["discriminator"]
    assert min(lines[-1]["codebooks"]["usage"]) > 0.9
    tokenizer = audiotok.load(tmp_path)
    wav, distance = audiotok.audio.load(SPEECH[0])[0], MultiScaleMel(16000)
    made = tokenizer.decode(tokenizer.encode(wav))[0]
    assert float(distance(made, wav)) < 0.5 * float(distance(torch.zeros_like(wav), wav))


def test_a_run_ends_in_a_tokenizer(whole):
    out, report = whole
    tokenizer = audiotok.load(out)
    assert (tokenizer.spec.name, tokenizer.spec.codebook_sizes, tokenizer.spec.hop_length) == (out.name, (16, 16), 320)
    codes = tokenizer.encode_file(SPEECH[0])
    wav, _ = audiotok.audio.load(SPEECH[0])
    assert tokenizer.decode(codes).shape == (1, 1, wav.shape[1])
    assert tokenizer.provenance["steps"] == report.steps == 6
    assert (report.items, report.items_failed, report.items_held_out, report.resumed_from) == (10, 0, 1, 0)
    lines = log_of(out)
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6, 6]
    assert "commitment" in lines[1]
    assert [("discriminator" in line, "adversarial" in line) for line in lines if "mel" in line] == [
        (False, False),
        (False, False),
        (True, True),
    ]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_losses_and_weights(whole, tmp_path):
    out, _ = whole
    died = python(
        """
        step, count = torch.optim.AdamW.step, iter(range(1000))
        def dying(*args, **kwargs):
            if next(count) == 5:  # in the middle of step 5, after the log's line of step 4
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)
        torch.optim.AdamW.step = dying
        here.train(out)
        """,
        tmp_path,
    )
    died.communicate()
    assert died.returncode == -signal.SIGKILL
    assert [line["step"] for line in log_of(tmp_path)] == [0, 2, 3, 4]
    (tmp_path / "checkpoints" / "step-000000005.tmp").mkdir()  # and another died while it wrote
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "me')
    torch.manual_seed(99)  # a new process begins elsewhere
    report = train(tmp_path)
    assert report.resumed_from == 3
    assert log_of(tmp_path) == log_of(out)
    assert_same_weights(tmp_path, out)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000003", "step-000000006"]


def test_a_run_killed_between_its_last_checkpoint_and_the_result_writes_the_result(whole, tmp_path):
    out, report = whole
    shutil.copytree(out, tmp_path / "run")
    shutil.copy(out / "config.json", tmp_path / "run" / "model.safetensors")  # something else
    for path in (tmp_path / "run" / "checkpoints").glob("*/training.json"):
        facts = json.loads(path.read_text())
        assert facts["data"].pop("validation") is None
        path.write_text(json.dumps(facts))  # as of a version that did not know it
    again = train(tmp_path / "run", config=TINY, name=out.name)
    assert (again.resumed_from, again.steps, again.metrics) == (6, 6, report.metrics)
    assert log_of(tmp_path / "run") == log_of(out)
    assert_same_weights(tmp_path / "run", out)
    assert audiotok.load(tmp_path / "run").fingerprint == audiotok.load(out).fingerprint


def test_two_processes_have_the_same_weights_and_codebooks(tmp_path):
    code = """
        run = here.run_of(out)
        run.train(None)
        state = {name: value.double().sum().item() for name, value in run.step.plain.state_dict().items()}
        drawn = run.data.crops.draw(0, 2, process=run.run.accelerator.process_index).double().sum().item()
        told = run.run.gathered([f"of {run.run.accelerator.process_index}", "of both"])
        print(here.json.dumps([run.run.accelerator.num_processes, drawn, told, state]))
    """
    (count, drawn, told, one), (_, other_drawn, also_told, other) = two_processes(code, tmp_path)
    assert count == 2
    assert told == also_told == ["of 0", "of both", "of 1"]
    assert drawn != other_drawn  # crops of its own
    assert {"quantizer.layers.0.books.0.entries", "quantizer.layers.1.books.0.uses"} <= one.keys()
    assert one == other
    assert audiotok.load(tmp_path).provenance["steps"] == 6
    assert train(tmp_path, replace(SHORT, steps=7)).resumed_from == 6  # by one process alone


def test_half_precision_trains(tmp_path):
    training = "here.replace(here.SHORT, steps=5, precision='bf16', samples=0)"
    done = python(f"here.train(out, {training})", tmp_path)
    assert (done.communicate()[1], done.returncode) == ("", 0)
    losses = [line["mel"] for line in log_of(tmp_path) if "mel" in line]
    assert losses[-1] < losses[0]


def test_a_network_that_gives_magnitudes_trains_without_making_waves(tmp_path, monkeypatch):
    values = TINY.to_dict()
    values["network"] |= {"phase": "griffin-lim", "iterations": 2}
    config = CodecConfig.from_dict(values)
    training = replace(SHORT, steps=40, adversarial_from=-1, validate_every=40, save_every=40)
    asked = []
    forward = CodecNetwork.forward
    monkeypatch.setattr(
        CodecNetwork,
        "forward",
        lambda self, wav, **more: asked.append((self.training, more)) or forward(self, wav, **more),
    )
    report = train(tmp_path, training, config=config)
    assert all(more == {"synthesize": False} for is_training, more in asked if is_training)
    assert report.metrics["mel"] < 0.8 * report.before["mel"]
    lines = [line for line in log_of(tmp_path) if "mel" in line]
    assert "time" not in lines[0]
    assert lines[-1]["stft"] < 0.8 * lines[0]["stft"]
    with pytest.raises(InputError, match="gives magnitudes has no wave to judge: adversarial_from must be -1"):
        train(tmp_path / "judged", config=config)


@pytest.mark.parametrize("kind", ["gvq", "fsq", "msrvq", "csrvq", "pq"])
def test_every_quantizer_trains(tmp_path, kind):
    config = CodecConfig.from_dict(
        {**TINY.to_dict(), "quantizer": {"kind": kind, "num_codebooks": 2, "codebook_size": 16}}
    )
    report = train(tmp_path, replace(SHORT, steps=3, quantize_from=1, adversarial_from=-1, samples=0), config=config)
    assert report.metrics["mel"] < report.before["mel"]
    tokenizer = audiotok.load(tmp_path)
    codes = tokenizer.encode_file(SPEECH[0])
    assert tokenizer.decode(codes).shape[2] == codes.num_samples[0]


def test_the_first_codebook_learns_from_a_teacher(tmp_path):
    training = replace(SHORT, steps=60, teacher="logmel-16khz", adversarial_from=-1, validate_every=60, save_every=60)
    train(tmp_path, training)
    lines = [line["distillation"] for line in log_of(tmp_path) if "distillation" in line]
    assert lines[-1] < 0.8 * lines[0]


def test_a_run_begins_with_the_weights_of_another_or_of_a_tokenizer(whole, tmp_path):
    out, report = whole
    shutil.copytree(out, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("checkpoints", "log.jsonl"))
    training = replace(SHORT, steps=2, quantize_from=0)
    for number, init in enumerate((out, tmp_path / "tokenizer")):
        begun = train(tmp_path / str(number), training, init=init)
        assert begun.before == report.metrics
        assert begun.resumed_from == 0
    wide = CodecConfig.from_dict({**TINY.to_dict(), "latent": 16})
    with pytest.raises(InputError, match="is of another codec: .* there"):
        train(tmp_path / "wide", training, init=out, config=wide)
    more = CodecConfig.from_dict({**TINY.to_dict(), "quantizer": {"num_codebooks": 3, "codebook_size": 16}})
    for init in (out, tmp_path / "tokenizer"):  # what is there fits, but it is not all
        with pytest.raises(InputError, match=r"quantizer.layers.2\S* is not there, .* here"):
            train(tmp_path / "more", training, init=init, config=more)
    audiotok.load("logmel-16khz").save(tmp_path / "logmel")
    with pytest.raises(InputError, match="holds a logmel-kmeans tokenizer, and a codec begins with a codec's weights"):
        train(tmp_path / "other", training, init=tmp_path / "logmel")


def test_a_run_out_of_time_saves_and_is_gone_on_with(whole, tmp_path):
    out, _ = whole
    report = train(tmp_path, max_seconds=1e-6)
    assert report.steps == 2
    assert audiotok.load(tmp_path).provenance["steps"] == 2
    assert train(tmp_path).resumed_from == 2
    assert log_of(tmp_path) == log_of(out)


def test_samples_are_written_and_checkpoints_rotated(whole):
    out, _ = whole
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000000003", "step-000000006"]
    names = ["00_original.flac", *(f"00_step-{step:09d}.flac" for step in (0, 3, 6))]
    assert sorted(path.name for path in (out / "samples").iterdir()) == names
    assert len({audiotok.audio.load(out / "samples" / name)[0].shape for name in names}) == 1


def test_tensorboard_gets_losses_codebooks_validation_and_audio(tmp_path):
    train(tmp_path, replace(SHORT, steps=3), tensorboard=True)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    for tag in (b"train/mel", b"codebooks/perplexity/1", b"validation/si_snr", b"samples/00"):
        assert tag in data


def test_a_bad_file_is_skipped_and_listed(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    report = train(
        tmp_path / "run", replace(SHORT, steps=1, samples=0), source=[*SPEECH, tmp_path / "bad.wav"], valid=SPEECH[:1]
    )
    assert (report.items, report.items_failed, report.items_held_out) == (11, 1, 1)
    assert len(report.failed) == 1
    assert "bad.wav" in report.failed[0]
    with pytest.raises(FitError, match="none of 1 items"):
        train(tmp_path / "none", source=[tmp_path / "bad.wav"])


def test_a_checkpoint_of_another_training_is_refused(whole, tmp_path):
    out, _ = whole
    with pytest.raises(InputError, match="holds a training: name another folder, or resume it"):
        train(out, resume=False)
    with pytest.raises(InputError, match="another batch_size"):
        train(out, replace(SHORT, batch_size=3))
    with pytest.raises(InputError, match="another latent"):
        train(out, config=CodecConfig.from_dict({**TINY.to_dict(), "latent": 16}))
    with pytest.raises(InputError, match="another audio"):
        train(out, source=SPEECH[:3])
    with pytest.raises(InputError, match="another validation .None, now"):  # other items would be held out
        train(out, valid=SPEECH[:1])
    train(tmp_path, replace(SHORT, steps=1, samples=0), valid=SPEECH[:1])
    with pytest.raises(InputError, match="another validation .*, now None"):
        train(tmp_path, replace(SHORT, steps=2))


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
    training = replace(SHORT, learning_rate=1e30, save_every=1, log_every=50, optimizer="adamw", warmup_steps=0)
    with pytest.raises(AudiotokError, match="loss is not finite: lower learning_rate"):
        train(tmp_path, training)
    kept = max((tmp_path / "checkpoints").iterdir())
    state = read_safetensors(kept / "state.safetensors")
    assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())


def collapsed(folder, config, *, constant):
    """A tokenizer whose entries are all one vector; its encoder may give nothing else."""
    torch.manual_seed(0)
    network = CodecNetwork(config)
    wav = torch.stack([audiotok.audio.load(path)[0][:, :16000] for path in SPEECH[:4]])
    with torch.no_grad():
        last = [layer for layer in network.encoder.modules() if isinstance(layer, Conv)][-1]
        if constant:
            last.weight.zero_()
            last.bias.normal_()
        mean = network.encode(wav).mean((0, 2))
        for stage, layer in enumerate(network.quantizer.layers):
            layer.book().entries.copy_(mean.expand(16, 8) if stage == 0 else torch.zeros(16, 8))
    Codec.of(network, "collapsed").save(folder)
    return folder


@pytest.mark.parametrize("constant", [False, True])
def test_a_run_that_starts_collapsed_recovers(tmp_path, constant):
    training = replace(
        SHORT, steps=80, batch_size=4, segment_seconds=0.4, quantize_from=0, adversarial_from=-1, log_every=1
    )
    training = replace(training, validate_every=80, save_every=80)
    values = TINY.to_dict()
    values["quantizer"]["decay"] = 0.9  # an entry is found dead in tens of steps, not hundreds
    config = CodecConfig.from_dict(values)
    init = collapsed(tmp_path / "collapsed", config, constant=constant)
    report = train(tmp_path / "run", training, config=config, init=init)
    books = [line["codebooks"] for line in log_of(tmp_path / "run") if "codebooks" in line]
    assert books[0]["perplexity"] == [1.0, 1.0]
    assert books[0]["dead"] == [15, 15]
    assert min(books[-1]["usage"]) == 1.0
    assert min(books[-1]["perplexity"]) > 6
    assert max(sum(one["revived"]) for one in books) >= 15
    assert report.metrics["mel"] < 0.8 * report.before["mel"]
