"""One step of a codec's training: which losses, how they are weighted, and what they move."""

from dataclasses import replace

import pytest
import torch

from audiotok.codec import CodecConfig
from audiotok.train import CodecTraining, LossWeights
from audiotok.train.codec_networks import draw_networks, prepare_networks
from audiotok.train.codec_step import CodecStep
from audiotok.train.run import Run
from tests.train.test_codec_training import SPEECH, run_of

TINY = CodecConfig.from_dict(
    {
        "latent": 8,
        "network": {"width": 16, "hidden": 16, "encoder_blocks": [0, 1], "decoder_blocks": [1, 0]},
        "quantizer": {"num_codebooks": 2, "codebook_size": 16},
    }
)
TRAINING = CodecTraining.from_dict(
    {
        "batch_size": 2,
        "segment_seconds": 0.2,
        "warmup_steps": 10,
        "quantize_from": 2,
        "adversarial_from": 3,
        "discriminator_every": 2,
        "discriminator_learning_rate": 1e-3,
        "discriminators": {"periods": [2], "windows": [256], "channels": 2, "shrink": 64, "edges": [0, 1]},
        "balancer": False,
        "weights": {"mel": 2, "stft": 3, "time": 5, "commitment": 7, "adversarial": 11, "feature": 13},
    }
)
WAV, ITEMS = 0.1 * torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(0)), torch.zeros(2).long()


@pytest.fixture
def step_of(tmp_path):
    """Makes the step of a training."""

    def make(training=TRAINING):
        run = Run(tmp_path, {}, device="cpu", precision="no", resume=True)
        networks = prepare_networks(draw_networks(TINY, training, num_classes={}, device="cpu"), training, run)
        return CodecStep(run.accelerator, training, networks, sample_rate=16000)

    return make


def test_quantizer_and_discriminators_begin_with_their_steps(step_of):
    step = step_of()
    found = [step.run(WAV, ITEMS, number) for number in range(1, 5)]
    assert [one.tokens.shape[2] for one in found] == [0, 10, 10, 10]
    assert ["adversarial" in one.losses for one in found] == [False, False, True, True]
    assert ["discriminator" in one.losses for one in found] == [False, False, False, True]  # every other step


@pytest.mark.parametrize("balancer", [False, True])
def test_what_is_minimised_is_the_weighted_sum(step_of, monkeypatch, balancer):
    step, seen, through = step_of(replace(TRAINING, balancer=balancer)), [], {}
    backward = step.accelerator.backward
    monkeypatch.setattr(step.accelerator, "backward", lambda loss: (seen.append(float(loss.detach())), backward(loss)))
    if balancer:
        monkeypatch.setattr(step.balancer, "forward", lambda losses, made: through.update(losses) or made.sum() * 0)
    losses = {name: float(value) for name, value in step.run(WAV, ITEMS, 4).losses.items()}
    weights = TRAINING.weights
    judged = weights.adversarial * losses["adversarial"] + weights.feature * losses["feature"]
    commitment = weights.commitment * losses["commitment"]
    assert seen[0] == pytest.approx(losses["discriminator"])
    if balancer:
        assert through.keys() == {"mel", "stft", "time", "judged"}
        assert float(through["judged"].detach()) == pytest.approx(judged, rel=1e-5)
        assert seen[1] == pytest.approx(commitment, rel=1e-5)
        shares = {name: getattr(weights, name) for name in ("mel", "stft", "time")}
        assert step.balancer.weights == {**shares, "judged": weights.adversarial + weights.feature}
    else:
        spectra = sum(getattr(weights, name) * losses[name] for name in ("mel", "stft", "time"))
        assert seen[1] == pytest.approx(spectra + judged + commitment, rel=1e-5)


def test_either_side_moves_by_its_own_gradient_and_rate(step_of):
    step = step_of()
    judges, codec = step.networks.judges, step.plain
    for number, judges_move in ((3, False), (4, True)):
        before = [[one.detach().clone() for one in part.parameters()] for part in (judges, codec)]
        step.run(WAV, ITEMS, number)
        after = [list(part.parameters()) for part in (judges, codec)]
        moved = [
            any(not torch.equal(one, other) for one, other in zip(*pair, strict=True))
            for pair in zip(before, after, strict=True)
        ]
        assert moved == [judges_move, True]
        # The codec's gradient goes through the discriminators and leaves nothing in them.
        assert all(one.grad is None and one.requires_grad for one in judges.parameters())
    assert step.networks.optimizer.param_groups[0]["lr"] == pytest.approx(TRAINING.learning_rate * 5 / 10)
    assert step.networks.judges_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 2 / 10)


def test_gradients_are_clipped_and_their_norm_is_told(step_of):
    step = step_of(replace(TRAINING, clip_norm=1e-3, adversarial_from=-1))
    kept, optimizer = [], step.networks.optimizer.optimizer
    move = optimizer.step

    def watched(*args, **kwargs):
        kept.append(torch.cat([one.grad.flatten() for one in step.plain.parameters() if one.grad is not None]).norm())
        return move(*args, **kwargs)

    optimizer.step = watched
    told = float(step.run(WAV, ITEMS, 4).losses["gradient"])
    assert told > 0.1
    assert float(kept[0]) == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_without_a_weight_is_left_out(step_of):
    step = step_of(replace(TRAINING, weights=LossWeights(stft=0, time=0, feature=0)))
    assert step.run(WAV, ITEMS, 4).losses.keys() == {"discriminator", "mel", "adversarial", "commitment", "gradient"}


def test_the_average_has_the_codebooks_that_begin_and_nothing_of_those_before(tmp_path):
    run = run_of(tmp_path, TRAINING, SPEECH[:2], TINY)
    with torch.no_grad():  # as after some steps
        next(run.step.plain.encoder.parameters()).add_(0.1)
    run._start_codebooks()
    trained, averaged = run.step.plain, run.averaged
    for one, other in zip(
        trained.quantizer.state_dict().values(), averaged.quantizer.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert bool(averaged.quantizer.layers[0].book().started)
    assert not torch.equal(next(trained.encoder.parameters()), next(averaged.encoder.parameters()))
