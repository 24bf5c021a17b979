"""Disentangling heads in a codec's training: they learn, the codec gets what it should, and runs stay exact."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import audiotok
from audiotok.checkpoint import read_json, read_safetensors, write_json
from audiotok.codec import CodecConfig
from audiotok.errors import InputError
from audiotok.sources import Item
from audiotok.train import CodecTraining, HookConfig
from audiotok.train.crops import Augmentation, Crops
from audiotok.train.hooks import HookHeads, check_hooks
from audiotok.train.labels import Labels, classes_of
from audiotok.train.meters import Meters
from tests.train.test_codec_training import (
    SHORT,
    SPEECH,
    TINY,
    log_of,
    python,
    run_of,
    train,
    two_processes,
    weights_of,
)
from tests.train.test_crops import pool_of, write

AUDIO = Path(__file__).parents[1] / "data" / "audio"
VOICES = {"en": "allison", "es": "allison", "fr": "june", "it": "carlo", "ru": "maxim"}
ROWS = [{"path": str(path), "speaker": VOICES[path.stem.split("_")[1]]} for path in SPEECH]
KINDS = [{"path": str(path), "kind": path.stem.split("_")[0]} for path in sorted(AUDIO.glob("[sm]*.flac"))]
HOOKS = (HookConfig("speaker", (0, 1)), HookConfig("pitch", (0, 2), reverse=0.1, weight=0.5))
HOOKED = replace(SHORT, hooks=HOOKS, hook_learning_rate=4e-3, adversarial_from=-1)


def config_of(**quantizer):
    return CodecConfig.from_dict({**TINY.to_dict(), "quantizer": {"codebook_size": 16, **quantizer}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six steps, uninterrupted."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(out, HOOKED, ROWS)


# ---- learning --------------------------------------------------------------------------------------


def test_heads_learn_their_labels_on_real_audio(tmp_path):
    hooks = (HookConfig("kind", (0, 1), weight=2.0), HookConfig("pitch", (0, 2)))
    training = replace(HOOKED, hooks=hooks, steps=60, batch_size=8, segment_seconds=0.4, schedule="constant")
    training = replace(training, log_every=20, save_every=60, validate_every=60, samples=0, hook_learning_rate=3e-3)
    training = replace(training, augmentation=Augmentation())
    report = train(tmp_path, training, KINDS)
    lines = [line for line in log_of(tmp_path) if "mel" in line]
    assert lines[-1]["kind_0-1"] < 0.4 * lines[0]["kind_0-1"]  # from 0.57 to 0.11
    assert lines[-1]["kind_0-1_accuracy"] > 0.9 > 0.8 > lines[0]["kind_0-1_accuracy"]
    assert lines[-1]["pitch_0-2"] < 0.9 * lines[0]["pitch_0-2"]
    assert report.metrics["mel"] < 0.75 * report.before["mel"]  # and the codec is still one


def gradients_of(tmp_path, reverse):
    """Of the first head's loss alone: in the encoder, and in the head."""
    hooks = (replace(HOOKS[0], reverse=reverse),)
    run = run_of(tmp_path / str(reverse), replace(HOOKED, hooks=hooks), ROWS)
    (drawn,) = run.data.crops.batches(range(0, 1), 4)
    losses = {}
    weights = run.step._hooked(drawn.wav, drawn.items, run.step.networks.codec(drawn.wav), losses)
    assert 0 < int(weights["speaker_0-1"]) < 4  # of the others, others are mixed in
    losses["speaker_0-1"].backward()
    network, head = run.step.plain, run.step.networks.hooks
    assert all(one.grad is None for one in network.decoder.parameters())
    return [[one.grad for one in part.parameters()] for part in (network.encoder, head)]


def test_above_zero_the_encoder_gets_the_reversed_gradient_and_the_head_its_own(tmp_path):
    (plain, of_head), (reversed_, of_other) = (gradients_of(tmp_path, reverse) for reverse in (0.0, 0.25))
    assert max(float(one.abs().max()) for one in plain) > 1e-3
    for one, other in zip(plain, reversed_, strict=True):
        torch.testing.assert_close(other, -0.25 * one)
    for one, other in zip(of_head, of_other, strict=True):
        assert torch.equal(one, other)


def test_heads_have_the_learning_rate_that_they_are_given(tmp_path, whole):
    out, _ = whole
    groups = torch.load(out / "checkpoints" / "step-000000006" / "optimizer.bin", weights_only=True)["param_groups"]
    rates = [group["lr"] for group in groups]
    assert rates == pytest.approx([HOOKED.rate_at(5), HOOKED.rate_at(5), 2 * HOOKED.rate_at(5)])
    assert len(groups[-1]["params"]) == 8  # two layers each, with biases


# ---- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_bytes", [1 << 20, 10])
def test_labels_follow_the_crops(tmp_path, memory_bytes):
    levels = {"a": 0.125, "b": 0.25, "c": 0.5}
    source = write(tmp_path, a_1=[0.125] * 300, b_1=[0.25] * 900, c_1=[0.5] * 40, a_2=[0.125] * 500)
    pool = pool_of(source, memory_bytes=memory_bytes)
    assert pool.in_memory == (memory_bytes > 10)
    classes = classes_of(pool.items, ["domain"])
    assert classes == {"domain": ("a", "b", "c")}
    labels = Labels(pool.items, classes, sample_rate=16000, frame_rate=50)
    for mix in (0.0, 0.5):
        crops = Crops(pool, samples=100, seed=0, augmentation=Augmentation(mix=mix, mix_snr_db=(3, 9)))
        known = 0
        for step, drawn in zip(range(3, 9), crops.batches(range(3, 9), 8), strict=True):
            assert torch.equal(drawn.wav, crops.draw(step, 8))
            label = labels.of(drawn.wav, drawn.items, 1, ["domain"])["domain"]
            values = drawn.wav[:, 0, 0].tolist()
            expected = [next((i for i, name in enumerate("abc") if levels[name] == value), -1) for value in values]
            assert label.target.tolist() == expected
            assert label.known.tolist() == [number >= 0 for number in expected]
            known += sum(label.known.tolist())
        assert known == 48 if mix == 0 else 12 < known < 36


def test_the_label_is_that_of_what_was_read_in_place_of_a_bad_file(tmp_path):
    source = write(tmp_path, a_1=[0.125] * 3000, b_1=[0.25] * 3000)
    pool = pool_of(source, memory_bytes=10)
    data = (tmp_path / "a_1.wav").read_bytes()
    (tmp_path / "a_1.wav").write_bytes(data[:100])  # its header is whole, so its length was known
    (drawn,) = Crops(pool, samples=100, seed=0).batches(range(0, 1), 16)
    assert drawn.items.tolist() == [1] * 16
    assert pool.items[1].columns["domain"] == "b"


def test_classes_are_what_the_source_lists_and_values_may_be_missing():
    values = ["x", 3, None, "", math.nan, True, 3, 0.5]
    items = [Item(str(number), "", columns={"voice": value}) for number, value in enumerate(values)]
    items.append(Item("none", ""))
    classes = classes_of(items, ["voice", "pitch"])
    assert classes == {"voice": ("0.5", "3", "True", "x")}
    labels = Labels(items, classes, sample_rate=16000, frame_rate=50)
    found = labels.of(torch.zeros(10, 1, 100), torch.tensor([*range(9), -1]), 1, ["voice"])["voice"]
    assert found.target.tolist() == [3, 1, -1, -1, -1, 2, 1, 0, -1, -1]


def test_pitch_is_that_of_the_audio_and_of_one_voice_alone():
    tone = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000).expand(2, 1, -1)
    labels = Labels([Item("a", "")], {}, sample_rate=16000, frame_rate=50)
    found = labels.of(tone, torch.tensor([0, -1]), 50, ["pitch", "pitch"])["pitch"]
    assert found.target[0, 5:45].tolist() == pytest.approx([200] * 40, rel=0.01)
    assert found.known.tolist() == [True, False]


def test_unknown_labels_count_for_nothing():
    torch.manual_seed(0)
    heads = HookHeads(HOOKS, 8, {"speaker": 3})
    vectors = torch.randn(4, 8, 10, requires_grad=True)
    speaker, hertz = torch.tensor([2, -1, 0, -1]), 100 + 100 * torch.rand(4, 10)

    def said(rows, known):
        masks = [one[:, None].expand(-1, 10) for one in (speaker[rows] >= 0, known[rows])]
        return heads([vectors[rows]] * 2, [speaker[rows], hertz[rows]], masks)

    losses, figures = said([0, 1, 2, 3], torch.tensor([True, False, True, False]))
    alone, alone_figures = said([0, 2], torch.tensor([True] * 4))
    torch.testing.assert_close(losses, alone)
    assert figures == alone_figures
    torch.stack(list(losses.values())).sum().backward()
    assert torch.equal(vectors.grad.abs().sum((1, 2)) > 0, torch.tensor([True, False, True, False]))
    nothing, _ = said([1, 3], torch.tensor([False] * 4))
    assert {name: value.item() for name, value in nothing.items()} == {"speaker_0-1": 0.0, "pitch_0-2": 0.0}
    torch.stack(list(nothing.values())).sum().backward()  # zeros for every weight, as distributed training wants
    assert all(one.grad is not None for one in heads.parameters())


def test_means_are_over_the_rows_whose_label_is_known():
    meters = Meters()
    for value, known in ((1.0, 3), (0.0, 0), (0.5, 1)):
        meters.add({"mel": torch.tensor(value), "accuracy": torch.tensor(value)}, {"accuracy": torch.tensor(known)})
    assert {name: float(value) for name, value in meters.means().items()} == {"mel": 0.5, "accuracy": 0.875}
    never = Meters()
    never.add({"accuracy": torch.tensor(0.0)}, {"accuracy": torch.tensor(0)})
    assert float(never.means()["accuracy"]) == 0


# ---- runs ------------------------------------------------------------------------------------------


def test_a_run_with_heads_ends_in_the_same_kind_of_tokenizer(whole, tmp_path):
    out, _ = whole
    train(tmp_path, replace(HOOKED, hooks=(), hook_learning_rate=0.0), ROWS)
    one, other = weights_of(out), weights_of(tmp_path)
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert not all(torch.equal(one[name], other[name]) for name in one)  # the heads had their say
    lines = [line for line in log_of(out) if "mel" in line]
    names = {"speaker_0-1", "speaker_0-1_accuracy", "pitch_0-2"}
    assert [names <= line.keys() for line in lines] == [False, True, True]
    assert audiotok.load(out).provenance["training"]["hooks"][1] == {
        **{"label": "pitch", "codebooks": [0, 2], "reverse": 0.1, "weight": 0.5}
    }


def test_a_killed_run_goes_on_to_the_same_heads_bit_for_bit(whole, tmp_path):
    out, _ = whole
    died = python(
        """
        from tests.train import test_codec_hooks as hooks
        step, count = torch.optim.AdamW.step, iter(range(1000))
        def dying(*args, **kwargs):
            if next(count) == 4:  # in the middle of step 5
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)
        torch.optim.AdamW.step = dying
        here.train(out, hooks.HOOKED, hooks.ROWS)
        """,
        tmp_path,
    )
    died.communicate()
    assert died.returncode == -signal.SIGKILL
    torch.manual_seed(99)  # a new process begins elsewhere
    assert train(tmp_path, HOOKED, ROWS).resumed_from == 3
    assert log_of(tmp_path) == log_of(out)
    last = Path("checkpoints") / "step-000000006"
    for name in ("model.safetensors", "model_1.safetensors", "state.safetensors"):
        one, other = (read_safetensors(folder / last / name) for folder in (out, tmp_path))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert {"heads.0.classify.weight", "heads.1.read.bias"} <= read_safetensors(
        out / last / "model_1.safetensors"
    ).keys()
    states = [torch.load(folder / last / "optimizer.bin", weights_only=True)["state"] for folder in (out, tmp_path)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_two_processes_in_half_precision_have_the_same_heads(tmp_path):
    code = """
        from tests.train import test_codec_hooks as hooks
        run = here.run_of(out, here.replace(hooks.HOOKED, precision="bf16", samples=0), hooks.ROWS)
        run.train(None)
        state = {name: value.double().sum().item() for name, value in run.step.networks.hooks.state_dict().items()}
        accelerator, classes = run.run.accelerator, run.data.num_classes
        print(here.json.dumps([accelerator.num_processes, accelerator.mixed_precision, classes, state]))
    """
    one, other = two_processes(code, tmp_path)
    assert one == other
    assert one[:3] == [2, "bf16", {"speaker": 4}]
    assert len(one[3]) == 8
    assert {"speaker_0-1", "speaker_0-1_accuracy", "pitch_0-2"} <= log_of(tmp_path)[-2].keys()


def test_heads_are_no_part_of_what_another_run_begins_with(whole, tmp_path):
    out, report = whole
    for number, hooks in enumerate((HOOKS, (), HOOKS[1:])):
        training = replace(HOOKED, steps=1, quantize_from=0, hooks=hooks, samples=0)
        assert train(tmp_path / str(number), training, ROWS, init=out).before == report.metrics


def test_a_checkpoint_from_before_there_were_heads_goes_on_without_and_is_refused_with(tmp_path):
    plain = replace(HOOKED, steps=1, hooks=(), hook_learning_rate=0.0)
    train(tmp_path, plain, ROWS)
    facts = tmp_path / "checkpoints" / "step-000000001" / "training.json"
    values = read_json(facts)
    assert values["training"].pop("hooks") == []
    assert values["training"].pop("hook_learning_rate") == 0.0
    write_json(facts, values)
    assert train(tmp_path, replace(plain, steps=2), ROWS).resumed_from == 1
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000002")
    with pytest.raises(InputError, match=r"another hooks \(\[\], now \[{'label': 'speaker'"):
        train(tmp_path, replace(plain, steps=2, hooks=HOOKS), ROWS)


def test_tensorboard_gets_what_the_heads_say(tmp_path):
    train(tmp_path, replace(HOOKED, steps=3, samples=0), ROWS, tensorboard=True)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    for tag in (b"train/speaker_0-1", b"train/speaker_0-1_accuracy", b"train/pitch_0-2"):
        assert tag in data


# ---- what makes no sense ---------------------------------------------------------------------------


def test_hooks_are_read_from_plain_values():
    values = [{"label": "speaker"}, {"label": "pitch", "codebooks": [0, 2], "reverse": 0.1, "weight": 0.5}]
    training = CodecTraining.from_dict({"hooks": values, "hook_learning_rate": 0.001})
    assert training.hooks == HOOKS
    assert CodecTraining.from_dict({"hooks": None}).hooks == CodecTraining().hooks == ()


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"label": "speaker"}, "hooks is a list of groups of keys, not {'label': 'speaker'}"),
        (["speaker"], r"hooks\[0\] is a group of keys, not 'speaker'"),
        ([{"label": "a"}, {"codebooks": [0, 1]}], r'hooks\[1\] has no label: "pitch", or a column of the manifest'),
        ([{"label": "a", "codebook": [0, 1]}], r"hooks\[0\] has no key 'codebook': did you mean codebooks\?"),
        ([{"label": "a", "codebooks": [1, 1]}], r"codebooks of a hook are the first one, .* not \[1, 1\]"),
        ([{"label": "a", "codebooks": 1}], "codebooks of a hook are the first one, .* not 1"),
        ([{"label": "a", "codebooks": [0, 1.5]}], "codebooks of a hook are the first one"),
        ([{"label": "a", "reverse": -0.1}], "reverse of a hook must be at least 0, not -0.1"),
        ([{"label": "a", "weight": 0}], "the weight of a hook must be above 0, not 0"),
        ([{"label": "a", "weight": "1e-1"}], "weight must be a number, not '1e-1'"),
        ([{"label": ""}], "the label of a hook is .* not an empty text"),
        ([{"label": "a"}, {"label": "a", "reverse": 1}], "two hooks have the same label and codebooks: a_0-1"),
    ],
)
def test_hooks_that_make_no_sense_are_refused(hooks, message):
    with pytest.raises(InputError, match=message):
        CodecTraining.from_dict({"hooks": hooks})


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("speker", "no item has a column 'speker', which a hook wants: did you mean speaker"),
        ("Pitch", "no item has a column 'Pitch', which a hook wants: did you mean pitch"),
        ("zzz", "no item has a column 'zzz', which a hook wants: there are language, speaker"),
        ("language", "a hook tells two values of a column or more apart, and language has only 'en'"),
    ],
)
def test_a_label_that_the_items_do_not_have_is_refused(tmp_path, label, message):
    rows = [{**row, "language": "en"} for row in ROWS]
    with pytest.raises(InputError, match=message):
        train(tmp_path, replace(HOOKED, hooks=(HookConfig(label),)), rows)


def test_only_values_of_domains_that_are_drawn_are_classes(tmp_path):
    rows = [{**row, "domain": "one" if row["speaker"] == "june" else "other"} for row in ROWS]
    with pytest.raises(InputError, match="and speaker has only 'june'"):
        train(tmp_path, replace(HOOKED, domains={"one": 1.0}), rows)
    with pytest.raises(InputError, match="a hook wants: give a manifest that has it"):
        train(tmp_path, HOOKED, SPEECH)


@pytest.mark.parametrize(
    ("quantizer", "codebooks", "message"),
    [
        (
            {"kind": "rvq", "num_codebooks": 4},
            (3, 5),
            r"hook a_3-5: there are codebooks 0 to 3, of which \[0, 4\] is all",
        ),
        ({"kind": "pq", "num_codebooks": 4}, (0, 1), "codebooks 0 to 0 of 4 mean nothing by themselves in a 'pq'"),
        ({"kind": "fsq", "num_codebooks": 2}, (1, 2), "codebooks 1 to 1 of 2 mean nothing by themselves in a 'fsq'"),
        (
            {"kind": "gvq", "num_codebooks": 4},
            (0, 1),
            r"choose whole stages of it, all codebooks \(\[0, 4\]\), or an rvq",
        ),
        ({"kind": "msrvq"}, (0, 2), "codebooks 0 to 1 of 7 mean nothing by themselves"),
    ],
)
def test_codebooks_that_a_quantizer_does_not_have_apart_are_refused(quantizer, codebooks, message):
    with pytest.raises(InputError, match=message):
        check_hooks([HookConfig("a", codebooks)], config_of(**quantizer))


@pytest.mark.parametrize(
    ("quantizer", "codebooks"),
    [
        ({"kind": "rvq", "num_codebooks": 4, "codebook_dim": 4}, (2, 3)),
        ({"kind": "gvq", "num_codebooks": 4}, (2, 4)),
        ({"kind": "msrvq"}, (1, 3)),
        ({"kind": "csrvq", "num_codebooks": 4}, (0, 2)),
        ({"kind": "pq", "num_codebooks": 4}, (0, 4)),
    ],
)
def test_heads_take_whole_stages_of_every_quantizer(tmp_path, quantizer, codebooks):
    training = replace(HOOKED, hooks=(HookConfig("speaker", codebooks),), steps=2, quantize_from=0, samples=0)
    train(tmp_path, replace(training, log_every=1, validation_items=1), ROWS, config_of(**quantizer))
    name = f"speaker_{codebooks[0]}-{codebooks[1]}"
    losses = [line[name] for line in log_of(tmp_path) if name in line]
    assert len(losses) == 2
    assert all(0.3 < loss < 4 for loss in losses)


def test_a_rate_too_low_for_pitch_is_refused_before_anything_is_read(tmp_path):
    config = CodecConfig.from_dict({**TINY.to_dict(), "sample_rate": 1600})
    with pytest.raises(InputError, match=r"pitch must be looked for within 0..400.0 Hz"):
        train(tmp_path, HOOKED, [tmp_path / "missing.wav"], config)
    assert list(tmp_path.iterdir()) == []
